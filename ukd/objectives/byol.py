"""BYOL: self-supervised pretraining by predicting what an average of oneself makes of the other view."""

from __future__ import annotations

import copy
from typing import Annotated

from pydantic import Field
from torch import Tensor

from ukd.objectives.base import BOTH, EMA, NONE, Batch, Needs, Objective
from ukd.objectives.ema import follow
from ukd.similarity import cosine

MOMENTUM = 0.996


class BYOL(Objective):
    """Squared distance of a prediction to the EMA backbone's projection of the other view, on lightly's heads.

    Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, arXiv:2006.07733, equation 2. With the predictions
    q1, q2 of the two views and their projections z1, z2 by the EMA of backbone and head, all normalised:

        loss = mean_i (|q1[i] - z2[i]|^2 + |q2[i] - z1[i]|^2)

    The EMA's momentum rises to 1 along a half cosine, as in the paper.

    Args:
        ema_momentum: Share of itself that the EMA keeps at a step at the start of the run.
        hidden_dim: Width of the hidden layers of projector and predictor.
        out_dim: Width of the projection.
    """

    needs = Needs(BOTH, NONE, BOTH, ema=EMA(MOMENTUM, 1.0))

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        ema_momentum: Annotated[float, Field(ge=0, le=1)] = MOMENTUM,
        hidden_dim: Annotated[int, Field(gt=0)] = 4096,
        out_dim: Annotated[int, Field(gt=0)] = 256,
    ) -> None:
        super().__init__()
        # lightly takes seconds to import, and few objectives need it.
        from lightly.models.modules.heads import BYOLPredictionHead, BYOLProjectionHead

        self.ema = EMA(ema_momentum, 1.0)
        self.needs = Needs(BOTH, NONE, BOTH, ema=self.ema)
        self.head = BYOLProjectionHead(student_dim, hidden_dim, out_dim)
        self.ema_head = copy.deepcopy(self.head).requires_grad_(False)
        self.predictor = BYOLPredictionHead(out_dim, hidden_dim, out_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Term `byol`, in [0, 8]."""
        # View by view, as in the released code: the statistics of each batch norm are those of one view.
        first, second = (self.predictor(self.head(batch.student[view].pooled)) for view in (0, 1))
        of_first, of_second = (self.ema_head(batch.ema[view].pooled).detach() for view in (0, 1))
        return {"byol": (4 - 2 * cosine(first, of_second) - 2 * cosine(second, of_first)).mean()}

    def after_step(self, progress: float) -> None:
        """Lets the EMA head follow the head."""
        follow(self.ema_head, self.head, self.ema.at(progress))
