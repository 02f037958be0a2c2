"""Several teachers, each with a head, a target and an input size of its own: UNIC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ukd.distributed import mean_over_processes
from ukd.features import Shape
from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.heads import Head, Norm, projection_of, student_head, wanted_by
from ukd.objectives.metrics import Metric, by_image
from ukd.objectives.targets import Target, target_of
from ukd.projection import Projection

DROP_PROB = 0.5
"""Probability that a teacher which is not an image's hardest is dropped; that of the paper."""


class Multi(Objective):
    """Regression of several teachers at once, of which each image hears all or the hardest and some.

    Sariyildiz et al., "UNIC: Universal Classification Models via Multi-teacher Distillation", ECCV 2024,
    arXiv:2408.05088. With the pooled features of teacher t, T_t [B, D_t], their standardised form f_t, the student's
    feature after the head for it, S_t [B, D_t], and the metric m of `regression`:

        l[t, i] = m(S_t[i, :], f_t(T_t)[i, :])        loss = sum_ti c[t, i] l[t, i] / sum_ti c[t, i]

    The coefficients c are 1 with `mean`. With `dropping` each image keeps the teacher that it is farthest from, and
    every other one with probability 1/2. The sums run over the images of all processes. The teachers are those of
    `teacher` and `more_teachers`; one is enough. Unlike the paper, only pooled features are taught, not patches, and
    the default head hears the pooled feature alone: `head: ladder` with `hidden_dim: 3072` is the paper's.

    Args:
        combine: What an image hears: the `mean` of all teachers, or UNIC's teacher `dropping`.
        metric: How far the student is from its target, as in `regression`.
        target: What becomes of each teacher's feature; without `standardised`, the teacher of the largest scale rules.
        head: The projector to each teacher; `ladder` hears every block of the student.
        hidden_dim: Width of the hidden layer of `mlp2`, and of a ladder's uppermost MLP.
        norm: What stands between the layers of `mlp2`: `none`, ReLU; `batch` norm and ReLU; `layer` norm and GELU.
    """

    needs = Needs(many_teachers=True)

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        more_teacher_dims: Sequence[int] = (),
        block_dims: Sequence[int] = (),
        *,
        combine: Literal["dropping", "mean"] = "dropping",
        metric: Metric = "unic",
        target: Literal["standardised", "none"] = "standardised",
        head: Head = "mlp2",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        # The number of teachers that the images of a batch keep, by which the loss is divided, is the batch's.
        is_coupled = combine == "dropping" and len(more_teacher_dims) > 0
        self.needs = Needs(many_teachers=True, student=wanted_by(head, block_dims), batch_coupled=is_coupled)
        self.combine = combine
        self.metric: Metric = metric
        dims = [teacher_dim, *more_teacher_dims]
        self.heads = nn.ModuleList(student_head(head, student_dim, block_dims, dim, hidden_dim, norm) for dim in dims)
        self.targets = nn.ModuleList(target_of(target, dim) for dim in dims)

    @classmethod
    def for_models(cls, student: Shape, teachers: Sequence[Shape], **options: Any) -> Objective:
        """As `Objective.for_models`, with the widths of all teachers and of the student's blocks."""
        first, *others = (teacher.pooled for teacher in teachers)
        return cls(student.pooled, first, others, student.blocks, **options)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms `teacher_1`, `teacher_2` and so on: what each adds to the loss."""
        losses = self._losses(batch)
        coefficients = kept(losses) if self.combine == "dropping" else torch.ones_like(losses)
        by_teacher = (coefficients * losses).sum(1) / mean_over_processes(coefficients.sum())
        return {f"teacher_{number}": loss for number, loss in enumerate(by_teacher, start=1)}

    def projector(self) -> Projection | None:
        """As in `regression`, of the first teacher."""
        return projection_of(self.heads[0], cast(Target, self.targets[0]).layers())

    def _losses(self, batch: Batch) -> Tensor:
        """Loss of every image to every teacher, [teachers, B]."""
        losses = []
        for head, target, teacher in zip(self.heads, self.targets, [batch.teacher, *batch.more_teachers], strict=True):
            features = target(teacher[0].pooled.detach(), batch.progress)
            parts = by_image(self.metric, head(batch.student[0]), features)
            losses.append(torch.stack([*parts.values()]).sum(0))
        return torch.stack(losses)


@torch.no_grad()
def kept(losses: Tensor) -> Tensor:
    """Which teachers each image keeps: the one of the largest loss, each other with probability 1 - DROP_PROB.

    Args:
        losses: [teachers, B].

    Returns:
        [teachers, B] of 0 and 1, drawn from torch's global generator.
    """
    is_kept = torch.rand_like(losses) >= DROP_PROB
    return is_kept.scatter(0, losses.argmax(0, keepdim=True), True).to(losses.dtype)
