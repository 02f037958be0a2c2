"""What every objective is: a module that turns a batch of features into the terms of a loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from ukd.errors import UserError
from ukd.features import NOTHING_MORE, Features, Masking, Shape, Wanted
from ukd.projection import Projection
from ukd.row_blocks import RowBlocks


class EMA(NamedTuple):
    """How an EMA student follows the student."""

    momentum: float
    """Share of itself that it keeps at every step, at the start of the run."""
    final_momentum: float
    """The same at the end; a half cosine lies between."""

    def at(self, progress: float) -> float:
        """The momentum when `progress`, in [0, 1], of the run is done."""
        return self.final_momentum - (self.final_momentum - self.momentum) * (1 + math.cos(math.pi * progress)) / 2


NONE: frozenset[int] = frozenset()
FIRST, SECOND, BOTH = frozenset({0}), frozenset({1}), frozenset({0, 1})
"""Numbers of views, for `Needs`."""

ByView = Mapping[int, Features]
"""Features by the number of the view that they are of."""


@dataclass(frozen=True)
class Needs:
    """What an objective asks of the training loop.

    Attributes:
        student_views: Numbers of the views that the student sees.
        teacher_views: Those that the teacher sees, of the same pixels; none for an objective without a teacher.
        ema_views: Those that the EMA student sees.
        batch_coupled: The loss is no mean over images: cutting a batch into smaller ones changes it.
        student: What it wants of the student beside the pooled feature.
        of_teacher: What it wants of the teacher beside the pooled feature.
        rotations: The first view turned by 90, 180 and 270 degrees.
        neighbours: Each anchor followed by neighbours.
        cutmix: The first view of each anchor, a part of it covered by that of its first neighbour.
        small: The small crops, where the recipe makes them.
        ema: How the EMA student follows, if there is one.
        bank: The teacher's features of all training images before the first step, through `fit`.
        many_teachers: It can use more than one teacher.
    """

    student_views: frozenset[int] = FIRST
    teacher_views: frozenset[int] = FIRST
    ema_views: frozenset[int] = NONE
    batch_coupled: bool = False
    student: Wanted = NOTHING_MORE
    of_teacher: Wanted = NOTHING_MORE
    rotations: bool = False
    neighbours: bool = False
    cutmix: bool = False
    small: bool = False
    ema: EMA | None = None
    bank: bool = False
    many_teachers: bool = False

    @property
    def teacher(self) -> bool:
        """Whether there is a teacher."""
        return bool(self.teacher_views)

    @property
    def num_views(self) -> int:
        """Views to make of each image."""
        return 1 + max(self.student_views | self.teacher_views | self.ema_views)

    def __or__(self, other: Needs) -> Needs:
        """What serves both.

        Raises:
            UserError: They need two different EMA students.
        """
        if self.ema and other.ema and self.ema != other.ema:
            raise UserError(
                f"objective: EMA students of momentum {self.ema.momentum:g} and {other.ema.momentum:g} cannot be one; "
                "give both objectives the same ema_momentum"
            )
        return Needs(
            student_views=self.student_views | other.student_views,
            teacher_views=self.teacher_views | other.teacher_views,
            ema_views=self.ema_views | other.ema_views,
            batch_coupled=self.batch_coupled or other.batch_coupled,
            student=self.student | other.student,
            of_teacher=self.of_teacher | other.of_teacher,
            rotations=self.rotations or other.rotations,
            neighbours=self.neighbours or other.neighbours,
            cutmix=self.cutmix or other.cutmix,
            small=self.small or other.small,
            ema=self.ema or other.ema,
            bank=self.bank or other.bank,
            many_teachers=self.many_teachers or other.many_teachers,
        )


class CutMixed(NamedTuple):
    """What the student makes of anchors that are partly covered by their first neighbours."""

    student: Features
    """One row an anchor."""
    share: float
    """Share of the view's area that is the anchor's."""


@dataclass(frozen=True)
class Batch:
    """The features of the B images of this process; nothing is normalised.

    Attributes:
        student: What the student makes of the views that it sees.
        teacher: What the teacher makes of those that it sees; empty if no objective needs a teacher.
        index: int64 [B], the images' places in the data set.
        more_teachers: For each further teacher, what `teacher` is for the first.
        ema: What the EMA student makes of those that it sees.
        rotated: The same for the first view turned by 90, 180 and 270 degrees, numbered from 0, if needed.
        small: The same for the small crops, numbered from 0, if needed and made.
        cutmix: The mixed anchors, if needed.
        masked: What the student makes of the first view with patches hidden, if `masking` gives how.
        bag_size: Consecutive images that belong together: an anchor and its neighbours; 1 without neighbours.
        progress: Share of the run that is done, in [0, 1).
    """

    student: ByView
    teacher: ByView
    index: Tensor
    more_teachers: list[ByView] = field(default_factory=list)
    ema: ByView = field(default_factory=dict)
    rotated: Batch | None = None
    small: Batch | None = None
    cutmix: CutMixed | None = None
    masked: Features | None = None
    bag_size: int = 1
    progress: float = 0.0


class Objective(nn.Module):
    """Base of all objectives.

    The constructor is `__init__(self, student_dim, teacher_dim, *, <options with defaults>)`. The options,
    with their types and ranges, are what a recipe may say of the objective; the Args of the class docstring
    explain them. Heads, queues and running statistics are the objective's own parameters and buffers. With
    many processes, each passes its share of the global batch, all shares being equally large; the mean of the
    processes' gradients is then the gradient of the global batch.
    """

    needs: Needs

    @classmethod
    def for_models(cls, student: Shape, teachers: Sequence[Shape], **options: Any) -> Objective:
        """Builds the objective for a pair of models; one that needs more than two widths overrides this.

        Args:
            student: What the student gives.
            teachers: What each teacher gives; empty if there is none.
            options: The constructor's keyword-only arguments.

        Raises:
            UserError: It cannot work with these models; says what to change.
        """
        return cls(student.pooled, teachers[0].pooled if teachers else 0, **options)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss by terms.

        Returns:
            Scalars by name, fp32 or fp64, already weighted: the loss is their sum.
        """
        raise NotImplementedError

    def teacher_cosine(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """Mean cosine of student and teacher as the terms of `forward` tell it; None where they do not."""
        return None

    def masking(self) -> Masking | None:
        """How patches are hidden from the student for `Batch.masked`; None for not at all."""
        return None

    def projector(self) -> Projection | None:
        """What brings pooled features of student and teacher to where it compares them.

        None where they are compared as they are, or not by their pooled features alone.
        """
        return None

    def fit(self, embeddings: RowBlocks) -> None:
        """Learns what it needs to know of the teacher's space before the first step; called if `needs.bank`.

        Args:
            embeddings: fp32 [n, D] by blocks, the teacher's pooled features of all training images, not normalised;
                all of them may be far too many for the memory.
        """

    def after_step(self, progress: float) -> None:
        """Called after every optimizer step, when `progress`, in (0, 1], of the run is done."""


class WeightedSum(Objective):
    """A weighted sum of objectives; the term `feature` of the objective `coss` becomes `coss/feature`."""

    def __init__(self, summands: Sequence[tuple[str, float, Objective]]) -> None:
        """Takes the name, weight and objective of each summand; a repeated name gets a number from 2 on."""
        super().__init__()
        self.objectives = nn.ModuleDict()
        self.weights: dict[str, float] = {}
        self.needs = Needs(teacher_views=NONE)
        names = [name for name, _, _ in summands]
        for i, (name, weight, objective) in enumerate(summands):
            num_before = names[:i].count(name)
            key = f"{name}_{num_before + 1}" if num_before else name
            self.objectives[key] = objective
            self.weights[key] = weight
            self.needs |= objective.needs

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of all summands."""
        return {
            f"{key}/{term}": self.weights[key] * value
            for key, objective in self.objectives.items()
            for term, value in objective(batch).items()
        }

    def teacher_cosine(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """That of the first summand that tells it."""
        for key, objective in self.objectives.items():
            own = {
                term.removeprefix(f"{key}/"): value / self.weights[key]
                for term, value in terms.items()
                if term.startswith(f"{key}/")
            }
            cosine = cast(Objective, objective).teacher_cosine(own)
            if cosine is not None:
                return cosine
        return None

    def masking(self) -> Masking | None:
        """That of the first summand that hides patches."""
        found = (objective.masking() for objective in self._each())
        return next((masking for masking in found if masking is not None), None)

    def projector(self) -> Projection | None:
        """That of the first summand that has one."""
        found = (objective.projector() for objective in self._each())
        return next((projector for projector in found if projector is not None), None)

    def fit(self, embeddings: RowBlocks) -> None:
        """Passes the embeddings on to those that need them."""
        for objective in self._each():
            if objective.needs.bank:
                objective.fit(embeddings)

    def after_step(self, progress: float) -> None:
        """Passes the call on."""
        for objective in self._each():
            objective.after_step(progress)

    def _each(self) -> Iterator[Objective]:
        return (cast(Objective, objective) for objective in self.objectives.values())
