"""CoSS: feature similarity and space similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ukd.distributed import sum_over_processes
from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.heads import Projector, projector
from ukd.projection import Projection
from ukd.similarity import MIN_SQUARED_NORM, cosine, cosine_from_sums, cosine_sums, result_dtype


class CoSS(Objective):
    """Cosine of every image's feature, and of every dimension over the batch, with the teacher's.

    Singh & Wang, "Simple Unsupervised Knowledge Distillation With Space Similarity", ECCV 2024,
    arXiv:2409.13939. With the teacher's pooled features T [n, D] and the student's after its head S [n, D]:

        loss = scale * (-mean_i cos(S[i, :], T[i, :]) - lam * mean_j cos(S[:, j], T[:, j]))

    Nothing is centred. The head, Linear-ReLU-Linear, is there only where the widths differ. The n images are
    those of all processes, so any number of them gives the same gradient. A dimension in which the teacher is
    0 for all n is left out of the mean.

    Args:
        lam: Weight of the space similarity.
        scale: Factor of the whole loss; the released code's temperatures make it 142.9.
        hidden_dim: Width of the head's hidden layer.
    """

    needs = Needs(batch_coupled=True)

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        lam: Annotated[float, Field(ge=0)] = 1.0,
        scale: Annotated[float, Field(gt=0)] = 70.0,
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
    ) -> None:
        super().__init__()
        self.lam = lam
        self.scale = scale
        head: Projector = "none" if student_dim == teacher_dim else "mlp2"
        self.head = projector(head, student_dim, teacher_dim, hidden_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms `feature` (mean over this process's images) and `space` (over all processes' images)."""
        student = self.head(batch.student[0].pooled)
        teacher = batch.teacher[0].pooled.detach()
        return {
            "feature": -self.scale * cosine(student, teacher).mean(),
            "space": -self.scale * self.lam * space_similarity(student, teacher),
        }

    def projector(self) -> Projection | None:
        """The head, which leads to the teacher's own space."""
        return Projection.of(self.head)

    def teacher_cosine(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """The mean similarity of the rows."""
        return -terms["feature"] / self.scale


def space_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean cosine of the columns of student and teacher over the batch of all processes.

    Args:
        student: [B, D], this process's rows.
        teacher: [B, D].

    Returns:
        A scalar in [-1, 1], the same in all processes; 0 if the teacher is 0 everywhere.
    """
    sums = sum_over_processes(cosine_sums(student, teacher, dim=0))
    num_alive = (sums[2] > MIN_SQUARED_NORM).sum().clamp(min=1)
    return (cosine_from_sums(sums).sum() / num_alive).to(result_dtype(student, teacher))
