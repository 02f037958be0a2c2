"""SEED: the student's similarities to past teacher features, taught by the teacher's own."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.heads import Projector, projector
from ukd.objectives.queue import Queue
from ukd.similarity import dot_products, normalised, soft_cross_entropy


class SEED(Objective):
    """Cross-entropy of two distributions over the own image and a queue of past images.

    Fang et al., "SEED: Self-supervised Distillation For Visual Representation", ICLR 2021, arXiv:2101.04731.
    With the teacher's pooled features T [B, D], the student's after its head S [B, D] and the queue Q [K, D] of the
    teacher's features of the images before, all normalised:

        u_s[i] = [S[i].T[i], S[i].Q[0], ..., S[i].Q[K - 1]]        u_t[i] = [T[i].T[i], T[i].Q[0], ...]
        loss = mean_i cross-entropy(softmax(u_t[i] / teacher_temp), softmax(u_s[i] / student_temp))

    The paper takes T after the head of the teacher's own pretraining; here it is the backbone's pooled feature,
    which every teacher has. The queue starts empty, so the loss of the first batch is 0, and holds the images
    of all processes. In eval mode it stays as it is.

    Args:
        queue_size: Images the queue holds, fewer than the data set has; it takes 4 bytes times D for each.
        student_temp: The student's temperature.
        teacher_temp: The teacher's temperature; the released code's 1e-4 leaves the own image as the only target.
        head: The projector; `mlp2` is the paper's.
        hidden_dim: Width of the hidden layer of `mlp2`; the released code's is as wide as the student's feature.
    """

    needs = Needs()

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        queue_size: Annotated[int, Field(gt=0)] = 65536,
        student_temp: Annotated[float, Field(gt=0)] = 0.2,
        teacher_temp: Annotated[float, Field(gt=0)] = 0.01,
        head: Projector = "mlp2",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
    ) -> None:
        super().__init__()
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.head = projector(head, student_dim, teacher_dim, hidden_dim)
        self.queue = Queue(queue_size, teacher_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Term `seed`, at least the mean entropy of the teacher's distributions; takes the batch into the queue."""
        student = normalised(self.head(batch.student[0].pooled))
        teacher = normalised(batch.teacher[0].pooled.detach())
        queue = self.queue()
        loss = soft_cross_entropy(
            similarities(teacher, teacher, queue) / self.teacher_temp,
            similarities(student, teacher, queue) / self.student_temp,
        )
        if self.training:
            self.queue.enqueue(teacher)
        return {"seed": loss.mean()}


def similarities(rows: Tensor, teacher: Tensor, queue: Tensor) -> Tensor:
    """Cosine of each row with the teacher's row of the same image, then with the queue.

    Args:
        rows: [B, D], normalised.
        teacher: [B, D], normalised.
        queue: [K, D], normalised.

    Returns:
        [B, 1 + K] in [-1, 1].
    """
    own = (rows * teacher).sum(1, keepdim=True)
    return torch.cat([own, dot_products(rows, queue)], dim=1)
