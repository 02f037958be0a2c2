"""DisCo: regression of the teacher's embedding beside the student's own contrastive learning."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ukd.objectives.base import BOTH, EMA, SECOND, Batch, Needs, Objective
from ukd.objectives.ema import follow
from ukd.objectives.heads import Projector, projector
from ukd.objectives.queue import Queue
from ukd.projection import Projection
from ukd.similarity import cosine, dot_products, info_nce, normalised

MOMENTUM = 0.999
"""Of the EMA student in the released code."""


class DisCo(Objective):
    """Squared distance to the teacher in two views, and MoCo's loss between the views.

    Gao et al., "DisCo: Remedying Self-supervised Learning on Lightweight Models with Distilled Contrastive Learning",
    ECCV 2022, arXiv:2104.09124. With the teacher's pooled features T1, T2 [B, D] of two views, the student's after its
    head S1, S2 [B, D], those of the EMA student after an EMA of the head E2 [B, D], and the queue Q [K, D] of E2 of
    the images before, all normalised:

        loss = mse_weight * mean_i (|S1[i] - T1[i]|^2 + |S2[i] - T2[i]|^2)
             + mean_i -log( exp(S1[i].E2[i] / temp) / (exp(S1[i].E2[i] / temp) + sum_k exp(S1[i].Q[k] / temp)) )

    The released code takes the sum of the distances over the images of one GPU and the mean of the rest: the former
    is B times the mean for B images on each GPU, so its weight changes with the number of GPUs. Here both are means,
    and the default `mse_weight` is that of the released command, whose 256 images lie on 8 GPUs. The paper takes T
    after the head of the teacher's pretraining; here it is the backbone's pooled feature. The queue starts empty, so
    the second term of the first batch is 0, and holds the images of all processes. In eval mode it stays as it is.

    Args:
        mse_weight: Weight of the distance to the teacher; the released code's is the images on each GPU.
        queue_size: Images the queue holds, fewer than the data set has; it takes 4 bytes times D for each.
        temp: Temperature of the contrast.
        ema_momentum: Share of itself that the EMA student, with its head, keeps at every step.
        head: The projector; `mlp2` is the paper's.
        hidden_dim: Width of the hidden layer of `mlp2`; the paper finds that a narrow one is a bottleneck.
    """

    needs = Needs(BOTH, BOTH, SECOND, ema=EMA(MOMENTUM, MOMENTUM))

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        mse_weight: Annotated[float, Field(gt=0)] = 32.0,
        queue_size: Annotated[int, Field(gt=0)] = 65536,
        temp: Annotated[float, Field(gt=0)] = 0.2,
        ema_momentum: Annotated[float, Field(ge=0, le=1)] = MOMENTUM,
        head: Projector = "mlp2",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
    ) -> None:
        super().__init__()
        self.ema = EMA(ema_momentum, ema_momentum)
        self.needs = Needs(BOTH, BOTH, SECOND, ema=self.ema)
        self.mse_weight = mse_weight
        self.temp = temp
        self.head = projector(head, student_dim, teacher_dim, hidden_dim)
        self.ema_head = copy.deepcopy(self.head).requires_grad_(False)
        self.queue = Queue(queue_size, teacher_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms `mse`, in [0, 8 mse_weight], and `contrast`, at least 0; takes the batch into the queue."""
        first, second = (self.head(batch.student[view].pooled) for view in (0, 1))
        of_first, of_second = (batch.teacher[view].pooled.detach() for view in (0, 1))
        similarity = cosine(first, of_first) + cosine(second, of_second)
        query, key = normalised(first), normalised(self.ema_head(batch.ema[1].pooled).detach())
        contrast = info_nce((query * key).sum(1) / self.temp, dot_products(query, self.queue()) / self.temp)
        if self.training:
            self.queue.enqueue(key)
        return {"mse": self.mse_weight * (4 - 2 * similarity).mean(), "contrast": contrast.mean()}

    def projector(self) -> Projection | None:
        """The head, which leads to the teacher's own space."""
        return Projection.of(self.head)

    def teacher_cosine(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """The mean similarity over both views."""
        return 1 - terms["mse"] / (4 * self.mse_weight)

    def after_step(self, progress: float) -> None:
        """Lets the EMA head follow the head, as the EMA student follows the student."""
        follow(self.ema_head, self.head, self.ema.at(progress))
