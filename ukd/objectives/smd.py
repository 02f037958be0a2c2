"""SMD: each image told from those that the teacher holds to be farther than the student's own error."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from ukd.distributed import gather_rows_with_grad, own_rows
from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.heads import Projector, projector
from ukd.projection import Projection
from ukd.similarity import cosine, distances, normalised, result_dtype


class SMD(Objective):
    """Logistic loss of the hardest positive and the hardest negative of every image.

    Liu & Ye, "Improving Self-supervised Lightweight Model Learning via Hard-Aware Metric Distillation", ECCV 2022,
    in the form of its released code. With the teacher's pooled features T [n, D] and the student's after its head
    S [n, D], both normalised, and the distances d[i, j] = |T[i] - S[j]| and e[i, j] = |T[i] - T[j]|:

        N[i] = {j: e[i, j] > d[i, i]}    a = argmin of d[i, j] over j in N[i]    p = argmax of d[i, j] over the rest
        w_a = max(0, e[i, a] - d[i, a])    w_p = max(0, d[i, p] - e[i, p]), both constant
        loss = mean_i -log sigmoid((w_a d[i, a] - w_p d[i, p]) / temp)

    A student that equals the teacher has weights 0, so the loss log 2, with a zero gradient. Where N[i] is empty,
    w_a is 0. For the first steps the negative cosine of student and teacher is added. The n images are those of all
    processes, so any number of them gives the same gradient.

    Args:
        temp: Temperature; the released code takes 0.004 for MobileNetV3 and EfficientNet students.
        cosine_steps: Steps in which the cosine is added; the default is two epochs of ImageNet in batches of 512.
        head: The projector; `linear` is the paper's.
        hidden_dim: Width of the hidden layer of `mlp2`.
    """

    needs = Needs(batch_coupled=True)
    num_steps: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        temp: Annotated[float, Field(gt=0)] = 0.04,
        cosine_steps: Annotated[int, Field(ge=0)] = 5004,
        head: Projector = "linear",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
    ) -> None:
        super().__init__()
        self.temp = temp
        self.cosine_steps = cosine_steps
        self.head = projector(head, student_dim, teacher_dim, hidden_dim)
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms `metric`, log 2 where nothing is left to learn, and `cosine`, 0 after the first steps."""
        student = self.head(batch.student[0].pooled)
        teacher = batch.teacher[0].pooled.detach()
        metric = -logsigmoid(margins(normalised(student), normalised(teacher)) / self.temp).mean()
        terms = {
            "metric": metric.to(result_dtype(student, teacher)),
            "cosine": -cosine(student, teacher).mean() * (self.num_steps < self.cosine_steps),
        }
        if self.training:
            self.num_steps += 1
        return terms

    def projector(self) -> Projection | None:
        """The head, which leads to the teacher's own space."""
        return Projection.of(self.head)


def margins(student: Tensor, teacher: Tensor) -> Tensor:
    """Weighted distance of each image's hardest negative less that of its hardest positive.

    Args:
        student: [B, D], this process's rows, normalised.
        teacher: [B, D], as student.

    Returns:
        fp64 [B].
    """
    to_students = distances(teacher, gather_rows_with_grad(student))
    to_teachers = distances(teacher, gather_rows_with_grad(teacher))
    own = to_students[:, own_rows(len(teacher))].diagonal()
    is_negative = to_teachers > own[:, None]

    def weighted(hardest: Tensor, sign: int) -> Tensor:
        to_student, to_teacher = (d.gather(1, hardest[:, None])[:, 0] for d in (to_students, to_teachers))
        return (sign * (to_teacher - to_student)).clamp(min=0).detach() * to_student

    # Where there is no negative, argmin takes any image.
    negative = weighted(to_students.masked_fill(~is_negative, torch.inf).argmin(1), 1) * is_negative.any(1)
    positive = weighted(to_students.masked_fill(is_negative, -torch.inf).argmax(1), -1)
    return negative - positive
