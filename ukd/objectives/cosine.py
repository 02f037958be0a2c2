"""Cosine regression of the teacher's feature: SimReg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.heads import Projector, projector
from ukd.objectives.metrics import by_image
from ukd.projection import Projection


class Cosine(Objective):
    """Squared distance of the normalised features of student and teacher.

    Navaneet et al., "SimReg: Regression as a Simple Yet Effective Tool for Self-supervised Knowledge
    Distillation", BMVC 2021, arXiv:2201.05131. With the teacher's pooled features T [B, D] and the student's
    after its head S [B, D]:

        loss = mean_i (2 - 2 cos(S[i, :], T[i, :]))

    It is `regression` with its default metric and the paper's head.

    Args:
        head: The projector: `simreg4` is the paper's, `mlp2` that of CoSS; `none` needs equal widths.
        hidden_dim: Width of the hidden layer of `mlp2`.
    """

    needs = Needs()

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        head: Projector = "simreg4",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
    ) -> None:
        super().__init__()
        self.head = projector(head, student_dim, teacher_dim, hidden_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Term `cosine`, in [0, 4]."""
        parts = by_image("cosine", self.head(batch.student[0].pooled), batch.teacher[0].pooled.detach())
        return {name: part.mean() for name, part in parts.items()}

    def projector(self) -> Projection | None:
        """The head, which leads to the teacher's own space."""
        return Projection.of(self.head)

    def teacher_cosine(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """The mean similarity."""
        return 1 - terms["cosine"] / 2
