"""Regression of the teacher's feature, under any of the field's metrics and transforms of the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from ukd.features import Shape
from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.heads import Head, Norm, projection_of, student_head, wanted_by
from ukd.objectives.metrics import WEIGHTS, Metric, by_image, cross_entropy_by_image
from ukd.objectives.targets import TargetKind, target_of
from ukd.projection import Projection
from ukd.row_blocks import RowBlocks


class Regression(Objective):
    """Distance of the student's feature, after its head, from a target made of the teacher's.

    With the teacher's pooled features T [B, D], the target f(T) and the student's feature after its head S [B, D]:

        loss = mean_i m(S[i, :], f(T)[i, :])

    The metrics m, with h(x) = x^2 / 2 below 1 and |x| - 1 / 2 beyond, and means over the D dimensions:

        cosine     2 - 2 cos                                SimReg (Navaneet et al., BMVC 2021, arXiv:2201.05131)
        mse        mean of (s - t)^2                        Proteus (Zhang et al., ICLR 2025, arXiv:2407.10366)
        smooth_l1  mean of h(s - t)
        unic       (1 - cos) / 2 + mean of h(s - t) / 2     UNIC (Sariyildiz et al., ECCV 2024, arXiv:2408.05088)
        radio      0.9 (1 - cos) + 0.1 mean of h(s - t)     maps in AM-RADIO (Ranzinger et al., CVPR 2024,
                                                            arXiv:2312.06709) and Theia (Shang et al., CoRL 2024,
                                                            arXiv:2407.20179)
        softmax    cross-entropy of softmax(t / teacher_temp) and softmax(s / student_temp)
                                                            `dino` in the released code of CoSS

    The transforms f: `none`; `standardised`, each dimension less its running mean and over its running deviation, as
    UNIC; `whitened`, ZCA of the teacher's features of the training images. The student is free to take any scale
    under `cosine`; under the others a target whose dimensions have very different scales is better standardised.

    Args:
        metric: How far the student is from its target.
        target: What becomes of the teacher's feature.
        head: The projector; `ladder` hears every block of the student; `none` needs equal widths.
        hidden_dim: Width of the hidden layer of `mlp2`, and of a ladder's uppermost MLP.
        norm: What stands between the layers of `mlp2`: `none`, ReLU; `batch` norm and ReLU; `layer` norm and GELU.
        student_temp: Temperature of the student under `softmax`; the default is DINO's (arXiv:2104.14294).
        teacher_temp: Temperature of the teacher under `softmax`; the default is DINO's.
    """

    needs = Needs()

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        block_dims: Sequence[int] = (),
        *,
        metric: Literal[Metric, "softmax"] = "cosine",
        target: TargetKind = "none",
        head: Head = "mlp2",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
        norm: Norm = "none",
        student_temp: Annotated[float, Field(gt=0)] = 0.1,
        teacher_temp: Annotated[float, Field(gt=0)] = 0.04,
    ) -> None:
        super().__init__()
        self.needs = Needs(student=wanted_by(head, block_dims), bank=target == "whitened")
        self.metric: Literal[Metric, "softmax"] = metric
        self.temps = student_temp, teacher_temp
        self.cosine_weight = WEIGHTS.get(metric, {}).get("cosine") if target == "none" else None
        self.head = student_head(head, student_dim, block_dims, teacher_dim, hidden_dim, norm)
        self.target = target_of(target, teacher_dim)

    @classmethod
    def for_models(cls, student: Shape, teachers: Sequence[Shape], **options: Any) -> Objective:
        """As `Objective.for_models`, with the widths of the student's blocks."""
        return cls(student.pooled, teachers[0].pooled, student.blocks, **options)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted parts of the metric by name: `cosine`, `mse`, `smooth_l1`, `softmax`."""
        student = self.head(batch.student[0])
        target = self.target(batch.teacher[0].pooled.detach(), batch.progress)
        if self.metric == "softmax":
            parts = {"softmax": cross_entropy_by_image(student, target, *self.temps)}
        else:
            parts = by_image(self.metric, student, target)
        return {name: part.mean() for name, part in parts.items()}

    def teacher_cosine(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """The mean similarity, where the metric holds one with the teacher's feature as it is."""
        return None if self.cosine_weight is None else 1 - terms["cosine"] / self.cosine_weight

    def projector(self) -> Projection | None:
        """The head, and what becomes of the target; None for a ladder, which hears more than the pooled feature."""
        return projection_of(self.head, self.target.layers())

    def fit(self, embeddings: RowBlocks) -> None:
        """Fits the target."""
        self.target.fit(embeddings)
