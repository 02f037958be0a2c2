"""What is trained, and what one step shows to it: pixels in, the terms of the loss out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ukd.backbones import Backbone, Teacher
from ukd.features import Features, Wanted, split
from ukd.mixing import Mix, mix_views
from ukd.objectives import Batch, Needs, Objective
from ukd.objectives.base import ByView, CutMixed
from ukd.objectives.ema import follow

NUM_ROTATIONS = 3


@dataclass(frozen=True)
class Shown:
    """The pixels of one step on the device: RGB in [0, 1], float [., 3, S, S].

    Attributes:
        views: One entry a view.
        small: The small crops, one entry each.
        rotated: The first view turned by 90, 180 and 270 degrees, if an objective needs it.
        cutmix: The anchors' first view, each partly covered by its first neighbour's, and the share that is its own.
    """

    views: list[Tensor]
    small: list[Tensor] = field(default_factory=list)
    rotated: list[Tensor] = field(default_factory=list)
    cutmix: tuple[Tensor, float] | None = None


@dataclass(frozen=True)
class Taught:
    """What a teacher makes of what is shown, by number."""

    views: ByView
    small: ByView = field(default_factory=dict)
    rotated: ByView = field(default_factory=dict)


def show(views: list[Tensor], small: list[Tensor], needs: Needs, bag_size: int, cutmix: Mix | None) -> Shown:
    """Makes what the objective needs of the views that the loader gave.

    Args:
        views: Full views.
        small: Small crops.
        needs: What the objective needs.
        bag_size: An anchor and its neighbours.
        cutmix: How anchors are covered by neighbours.
    """
    rotated = [views[0].rot90(turns, (2, 3)) for turns in range(1, NUM_ROTATIONS + 1)] if needs.rotations else []
    mixed = mix_views(views[0][::bag_size], views[0][1::bag_size], cutmix) if needs.cutmix and cutmix else None
    return Shown(views, small if needs.small else [], rotated, mixed)


def teach(teacher: Teacher, shown: Shown, needs: Needs) -> Taught:
    """Shows a teacher the same pixels as the student sees, as far as the objective needs it."""
    seen = sorted(needs.teacher_views)
    same_size = _embed(teacher, [*_choose(shown.views, seen), *shown.rotated], needs.of_teacher)
    small = _embed(teacher, shown.small, needs.of_teacher)
    return Taught(dict(zip(seen, same_size, strict=False)), _numbered(small), _numbered(same_size[len(seen) :]))


class Learner(nn.Module):
    """Everything that is trained, the student's backbone and the objective with its heads, and an EMA of the student.

    Args:
        student: The student.
        objective: What it learns.
    """

    def __init__(self, student: Backbone, objective: Objective) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.ema_student = copy.deepcopy(student).requires_grad_(False) if objective.needs.ema else None

    def forward(
        self, shown: Shown, taught: Sequence[Taught], index: Tensor, bag_size: int, progress: float
    ) -> dict[str, Tensor]:
        """The loss terms of one batch; views of one size pass the student together, as one batch.

        Args:
            shown: The pixels.
            taught: What each teacher makes of them.
            index: int64 [B], the images' places in the data set.
            bag_size: Consecutive images that belong together.
            progress: Share of the run that is done.
        """
        needs, objective = self.objective.needs, self.objective
        seen, num_rotated = sorted(needs.student_views), len(shown.rotated)
        mixed = [shown.cutmix[0]] if shown.cutmix else []
        same_size = _embed(self.student, [*_choose(shown.views, seen), *shown.rotated, *mixed], needs.student)
        rotated, small = same_size[len(seen) :][:num_rotated], _embed(self.student, shown.small, needs.student)
        masking = objective.masking()

        def nested(student: list[Features], teacher: ByView) -> Batch | None:
            return Batch(_numbered(student), teacher, index, bag_size=bag_size, progress=progress) if student else None

        first = taught[0] if taught else Taught({})
        batch = Batch(
            student=dict(zip(seen, same_size, strict=False)),
            teacher=first.views,
            index=index,
            more_teachers=[each.views for each in taught[1:]],
            ema=self._ema(shown.views, needs),
            rotated=nested(rotated, first.rotated),
            small=nested(small, first.small),
            cutmix=CutMixed(same_size[-1], shown.cutmix[1]) if shown.cutmix else None,
            masked=self.student(shown.views[0], needs.student, masking) if masking else None,
            bag_size=bag_size,
            progress=progress,
        )
        terms: dict[str, Tensor] = objective(batch)
        return terms

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Lets what follows the student follow it, when `progress`, in (0, 1], of the run is done."""
        ema = self.objective.needs.ema
        if ema and self.ema_student is not None:
            follow(self.ema_student, self.student, ema.at(progress))
        self.objective.after_step(progress)

    @torch.no_grad()
    def _ema(self, views: list[Tensor], needs: Needs) -> ByView:
        if self.ema_student is None:
            return {}
        seen = sorted(needs.ema_views)
        return dict(zip(seen, _embed(self.ema_student, _choose(views, seen), needs.student), strict=True))


def _choose(views: list[Tensor], numbers: Sequence[int]) -> list[Tensor]:
    return [views[number] for number in numbers]


def _numbered(features: Sequence[Features]) -> ByView:
    return dict(enumerate(features))


def _embed(backbone: Backbone, views: list[Tensor], wanted: Wanted) -> list[Features]:
    """The features of views of one size, which pass the backbone as one batch."""
    if not views:
        return []
    return split(backbone(torch.cat(views) if len(views) > 1 else views[0], wanted), [len(view) for view in views])
