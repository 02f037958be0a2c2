"""What is evaluated: a checkpoint and, if it is a run folder, the baselines to read its figures against."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ukd.backbones import Backbone, BackboneInfo, Teacher, build_backbone, open_backbone
from ukd.errors import RunFolderError, UserError, WeightsError
from ukd.formats import find_weights
from ukd.projection import Exported, read_projection
from ukd.recipe import BackboneSpec, DataSpec, TeacherSpec, ViewSpec
from ukd.recipe_yaml import YamlError, parse

MAX_RAW_PX = 32
"""Raw pixels of larger views are those of the view shrunk to this side: 3,072 numbers are a sane row."""
NO_PROJECTOR = (
    "has no projector; only a run has one, if its objective trains a head of the pooled feature (if it ended before "
    "runs exported theirs, `ukd-distill RECIPE --resume` does so)"
)
"""Of a checkpoint, for messages."""
RAW_PIXELS = "raw pixels"
"""Role of the baseline that has no network."""
_log = logging.getLogger(__name__)
S = TypeVar("S")


@dataclass(frozen=True)
class Subject:
    """A backbone, and its role in the table.

    Attributes:
        role: `student`, `teacher`, `untrained student`, `untrained`, `raw pixels`, or `model` outside a run.
        source: Where it came from.
        backbone: Itself, frozen.
        size_px: Side of the view it is shown: the run's for teacher and student alike, outside a run its own.
        crop_pct: Centre crop of that view.
        projector: What brings its pooled feature to where its run compared student and teacher; None where nothing is
            known to.
        codes: Whether nothing counts there but the signs.
        projected: Whether its pooled feature is the one after the projector.
        is_baseline: Whether it is there to read the others' figures against, and was never trained.
    """

    role: str
    source: str
    backbone: Backbone
    size_px: int
    crop_pct: float
    projector: nn.Sequential | None = None
    codes: bool = False
    projected: bool = False
    is_baseline: bool = False

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        info = self.backbone.info.as_json()
        return {
            "role": self.role,
            "source": self.source,
            "sha256": self.backbone.weights_hash(),
            "num_parameters": self.backbone.num_parameters,
            **{name: info[name] for name in ("arch", "kwargs", "input_px", "mean", "std")},
            **({"projected_sha256": self.shown.weights_hash()} if self.projected else {}),
        }

    @cached_property
    def shown(self) -> Backbone:
        """What gives its features: the backbone, which ends in the projector if they are projected."""
        if not self.projected or self.projector is None:
            return self.backbone
        own = self.backbone.head if isinstance(self.backbone, Teacher) and self.backbone.head else ()
        whole = Teacher(self.backbone.model, self.backbone.info, nn.Sequential(*own, *self.projector))
        return whole.to(self.backbone.mean.device)

    def through_projector(self) -> Subject:
        """Itself, with the pooled feature where its run compared student and teacher.

        Raises:
            UserError: Nothing is known to lead there.
        """
        if self.projector is None:
            raise UserError(f"--features projected: {self.source} {NO_PROJECTOR}; choose --features pooled")
        return replace(self, projected=True)


@dataclass(frozen=True)
class RunParts:
    """The parts of a run folder's recipe that evaluation reads.

    Attributes:
        data: Its images; `labelled_train` and `labelled_test` are those of the evaluation.
        trained: The backbone that it trains.
        teacher: The teacher, None in a pretraining.
        views: Its views.
        seed: Its seed.
    """

    data: DataSpec
    trained: BackboneSpec
    teacher: TeacherSpec | None
    views: ViewSpec
    seed: int


def read_run(checkpoint: str) -> RunParts | None:
    """Read the recipe of a run folder; None where the checkpoint is no run folder.

    Raises:
        RunFolderError: The recipe cannot be read.
    """
    path = Path(checkpoint) / "recipe.yaml"
    if checkpoint.startswith("timm:") or not path.is_file():
        return None
    try:
        recipe, _ = parse(path.read_text(encoding="utf-8"))
        teacher = recipe.get("teacher")
        return RunParts(
            data=DataSpec.model_validate(recipe["data"]),
            trained=BackboneSpec.model_validate(recipe["student" if teacher else "backbone"]),
            teacher=TeacherSpec.model_validate(teacher) if teacher else None,
            views=ViewSpec.model_validate(recipe["views"]),
            seed=recipe["seed"],
        )
    except (OSError, ValueError, YamlError, ValidationError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{path} is not the recipe of a run: {error}") from None


def agreed_by_runs(
    checkpoints: Iterable[str], pick: Callable[[DataSpec], S | None], *, missing: str, differing: str
) -> S:
    """Find what the run folders among the checkpoints all say of their data.

    Args:
        checkpoints: Run folders and others, which say nothing.
        pick: What is wanted of a run's data, None where it says nothing either.
        missing: What is wrong if none says it, and what to do.
        differing: What is wrong if they differ, and what to do; it follows their names.

    Raises:
        UserError: They say nothing, or not the same.
    """
    found: dict[S, str] = {}
    for checkpoint in checkpoints:
        run = read_run(checkpoint)
        picked = pick(run.data) if run else None
        if picked is not None:
            found[picked] = checkpoint
    if not found:
        raise UserError(missing)
    if len(found) > 1:
        raise UserError(f"{' and '.join(found.values())} {differing}")
    return next(iter(found))


def subjects(checkpoint: str, *, baselines: bool) -> Iterator[Subject]:
    """Open what is to be evaluated, one at a time.

    Args:
        checkpoint: A run folder, a file of weights with its .json beside, or `timm:NAME`.
        baselines: For a run folder also raw pixels and its untrained self, and after it its teacher.

    Raises:
        WeightsError: The checkpoint cannot be opened. A teacher that cannot be is reported and left out.
    """
    yield from candidates(checkpoint, baselines=baselines)
    if not baselines:
        return
    try:
        teacher = teacher_of(checkpoint)
    except WeightsError as error:
        _log.warning("teacher left out: %s", error)
        return
    if teacher:
        yield teacher


def candidates(checkpoint: str, *, baselines: bool) -> Iterator[Subject]:
    """Open what is to be evaluated but for the teacher; the checkpoint itself comes last. As `subjects` otherwise."""
    run, main = read_run(checkpoint), open_backbone(checkpoint)
    exported = exported_projection(checkpoint)
    projector = exported.projection.student if exported else None
    codes = exported is not None and exported.projection.codes
    if run is None:
        yield Subject("model", checkpoint, main, main.info.size_px, main.info.crop_pct, projector, codes)
        return
    view = run.views.size_px, run.views.crop_pct
    if baselines:
        yield Subject(RAW_PIXELS, "pixels", raw_pixels(run.views.size_px), *view, is_baseline=True)
        initial = build_backbone(**run.trained.arguments, frozen=True, seed=run.seed)
        state = "initial" if run.trained.pretrained or run.trained.weights else "untrained"
        yield Subject(f"{state} student" if run.teacher else state, checkpoint, initial, *view, is_baseline=True)
    yield Subject("student" if run.teacher else "teacher", checkpoint, main, *view, projector, codes)


def teacher_of(checkpoint: str) -> Subject | None:
    """Open the teacher that a run's recipe names; None where there is no run, or none in it.

    It is held in the recipe's precision, and so is the one of the run's bank.

    Raises:
        WeightsError: It cannot be opened.
    """
    run = read_run(checkpoint)
    if run is None or run.teacher is None:
        return None
    teacher = cast(Teacher, build_backbone(**run.teacher.arguments, frozen=True, seed=run.seed))
    teacher.hold(torch.device("cpu"), precision=run.teacher.precision, chunk=run.teacher.chunk)
    source = run.teacher.weights or f"timm:{run.teacher.arch}"
    subject = Subject("teacher", source, teacher, run.views.size_px, run.views.crop_pct)
    exported = exported_projection(checkpoint)
    if exported is None:
        return subject
    return replace(subject, projector=exported.projection.teacher, codes=exported.projection.codes)


def exported_projection(checkpoint: str) -> Exported | None:
    """Read what a run exported beside its student; None where the checkpoint is no run's student, or has none.

    Raises:
        WeightsError: It cannot be read, or belongs to another student.
    """
    return None if checkpoint.startswith("timm:") else read_projection(find_weights(checkpoint))


def raw_pixels(size_px: int) -> Backbone:
    """Make the baseline that has nothing but the pixels of its view, shrunk to at most MAX_RAW_PX a side."""
    side = min(size_px, MAX_RAW_PX)
    info = BackboneInfo("pixels", input_px=side, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), size_px=size_px)
    return Backbone(_Pixels(side), info)


class _Pixels(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.num_features = 3 * side * side

    def forward(self, views: Tensor) -> Tensor:
        """Flatten views [B, 3, S, S] to [B, 3 S S]."""
        return views.flatten(1)
