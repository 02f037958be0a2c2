"""Two models in one table of neighbours: where the features of a student can be searched among its teacher's."""

from __future__ import annotations

from dataclasses import replace

from ukd.errors import UserError
from ukd.eval.extraction import PROJECTED
from ukd.eval.models import NO_PROJECTOR, Subject, exported_projection
from ukd.kinds import POOLED


def beside(owner: Subject, checkpoint: str, kind: str) -> Subject:
    """The model of a database as the queries of a checkpoint meet it.

    Where the checkpoint is a student that exported the projector it was trained with, and this model is the teacher
    that it leads to, both are compared where that training compared them; else as they are.

    Args:
        owner: The model of the database, as it is.
        checkpoint: The checkpoint of the queries.
        kind: Kind of features that is asked for; projectors take the pooled feature alone.

    Raises:
        UserError: Projected features are asked for, and this model is not what they can be compared with.
    """
    exported = exported_projection(checkpoint)
    leads_here = exported is not None and exported.teacher_sha256 == owner.backbone.weights_hash()
    if exported is None or not leads_here or kind not in (POOLED, PROJECTED):
        if kind == PROJECTED:
            raise UserError(f"--features projected: {why_as_they_are(owner, checkpoint, kind)}")
        return owner
    projection = exported.projection
    return replace(owner, projector=projection.teacher, codes=projection.codes).through_projector()


def in_space_of(owner: Subject, subject: Subject) -> Subject | None:
    """A model of the queries in the space of a database that `beside` gave for it; None for one that cannot get there.

    What was not trained cannot: an untrained student has no projector, and no place in its teacher's space.
    """
    if not owner.projected or subject.projected:
        return subject
    return None if subject.projector is None else subject.through_projector()


def why_as_they_are(owner: Subject, checkpoint: str, kind: str) -> str:
    """Why no projector stands between a database and the queries of a checkpoint, for messages; as for `beside`."""
    exported = exported_projection(checkpoint)
    if exported is None:
        return f"{checkpoint} {NO_PROJECTOR}"
    if exported.teacher_sha256 != owner.backbone.weights_hash():
        return f"the projector of {checkpoint} leads to the teacher of that run, which {owner.source} is not"
    return f"the projector of {checkpoint} takes the pooled feature, not {kind}"
