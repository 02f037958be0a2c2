"""CompRess: each network's similarities to past images in its own space, the student's taught by the teacher's."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from ukd.objectives.base import EMA, FIRST, Batch, Needs, Objective
from ukd.objectives.queue import Queue
from ukd.similarity import dot_products, kl_divergence, normalised

MOMENTUM = 0.999
"""Of the EMA student in the released code."""


class CompRess(Objective):
    """Divergence of two distributions over the same past images, one in the space of each network; without a head.

    Koohpayegani et al., "CompRess: Self-Supervised Learning by Compressing Representations", NeurIPS 2020,
    arXiv:2010.14713, with two queues. With the pooled features of the teacher T [B, D] and of the student S [B, d],
    and the queues Q [K, D] and R [K, d] of the same images before, in the features of the teacher and of an EMA of the
    student, all normalised, for any widths D and d:

        loss = mean_i KL(softmax(T[i].Q / temp) || softmax(S[i].R / temp))

    With one queue, and a head, it is `seed` with `own_pair: false`. The queues start empty, so the loss of the first
    batch is 0, and hold the images of all processes; the released code starts from random rows. In eval mode they
    stay as they are.

    Args:
        queue_size: Images each queue holds, fewer than the data set has; both take 4 (D + d) bytes for each.
        temp: Temperature of both distributions.
        ema_momentum: Share of itself that the EMA student keeps at every step.
    """

    needs = Needs(ema_views=FIRST, ema=EMA(MOMENTUM, MOMENTUM))

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        queue_size: Annotated[int, Field(gt=0)] = 128000,
        temp: Annotated[float, Field(gt=0)] = 0.04,
        ema_momentum: Annotated[float, Field(ge=0, le=1)] = MOMENTUM,
    ) -> None:
        super().__init__()
        self.needs = Needs(ema_views=FIRST, ema=EMA(ema_momentum, ema_momentum))
        self.temp = temp
        self.teacher_queue = Queue(queue_size, teacher_dim)
        self.student_queue = Queue(queue_size, student_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Term `compress`, at least 0; takes the batch into the queues."""
        student, teacher = normalised(batch.student[0].pooled), normalised(batch.teacher[0].pooled.detach())
        loss = kl_divergence(
            dot_products(teacher, self.teacher_queue()) / self.temp,
            dot_products(student, self.student_queue()) / self.temp,
        )
        if self.training:
            self.teacher_queue.enqueue(teacher)
            self.student_queue.enqueue(normalised(batch.ema[0].pooled))
        return {"compress": loss.mean()}
