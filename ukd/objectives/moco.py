"""MoCo v2: self-supervised pretraining by telling an image's other view from a queue of other images."""

from __future__ import annotations

import copy
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ukd.objectives.base import EMA, FIRST, NONE, SECOND, Batch, Needs, Objective
from ukd.objectives.ema import follow
from ukd.objectives.queue import Queue
from ukd.similarity import dot_products, info_nce, normalised

MOMENTUM = 0.999


class MoCo(Objective):
    """Contrast of the first view with the EMA backbone's second view and a queue, on lightly's head.

    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, arXiv:1911.05722,
    equation 1, with the head and temperature of Chen et al. 2020, arXiv:2003.04297 (v2). With the normalised
    projections q of the first view by the backbone and k of the second by its EMA, and the queue Q of k before:

        loss = mean_i -log( exp(q[i].k[i] / temp) / (exp(q[i].k[i] / temp) + sum_j exp(q[i].Q[j] / temp)) )

    The queue starts empty, so the loss of the first batch is 0, and holds the images of all processes. The released
    code shuffles images among GPUs so that a batch norm cannot tell which view belongs to which; on many GPUs the
    batch norm here is that of the global batch, which serves the same end.

    Args:
        queue_size: Images the queue holds, fewer than the data set has.
        temp: Temperature.
        ema_momentum: Share of itself that the EMA keeps at every step.
        hidden_dim: Width of the head's hidden layer.
        out_dim: Width of the projection.
    """

    needs = Needs(FIRST, NONE, SECOND, ema=EMA(MOMENTUM, MOMENTUM))

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        queue_size: Annotated[int, Field(gt=0)] = 65536,
        temp: Annotated[float, Field(gt=0)] = 0.2,
        ema_momentum: Annotated[float, Field(ge=0, le=1)] = MOMENTUM,
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
        out_dim: Annotated[int, Field(gt=0)] = 128,
    ) -> None:
        super().__init__()
        # lightly takes seconds to import, and few objectives need it.
        from lightly.models.modules.heads import MoCoProjectionHead

        self.ema = EMA(ema_momentum, ema_momentum)
        self.needs = Needs(FIRST, NONE, SECOND, ema=self.ema)
        self.temp = temp
        self.head = MoCoProjectionHead(student_dim, hidden_dim, out_dim)
        self.ema_head = copy.deepcopy(self.head).requires_grad_(False)
        self.queue = Queue(queue_size, out_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Term `contrast`, at least 0; takes the batch into the queue."""
        query = normalised(self.head(batch.student[0].pooled))
        key = normalised(self.ema_head(batch.ema[1].pooled).detach())
        contrast = info_nce((query * key).sum(1) / self.temp, dot_products(query, self.queue()) / self.temp)
        if self.training:
            self.queue.enqueue(key)
        return {"contrast": contrast.mean()}

    def after_step(self, progress: float) -> None:
        """Lets the EMA head follow the head."""
        follow(self.ema_head, self.head, self.ema.at(progress))
