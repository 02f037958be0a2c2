"""SimCLR: self-supervised pretraining by telling the views of one image from those of the others."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ukd.objectives.base import BOTH, NONE, Batch, Needs, Objective
from ukd.similarity import result_dtype


class SimCLR(Objective):
    """NT-Xent loss of two views of each image, on lightly's head and loss.

    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
    arXiv:2002.05709, equation 1. With the normalised projections z [2n, out_dim] of the two views of n
    images, i and j being the views of one image:

        loss = mean over (i, j) of -log( exp(z_i.z_j / temp) / sum over k != i of exp(z_i.z_k / temp) )

    The n images are those of all processes.

    Args:
        temp: Temperature.
        hidden_dim: Width of the head's hidden layer.
        out_dim: Width of the projection.
    """

    needs = Needs(BOTH, NONE, batch_coupled=True)

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        temp: Annotated[float, Field(gt=0)] = 0.2,
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
        out_dim: Annotated[int, Field(gt=0)] = 128,
    ) -> None:
        super().__init__()
        # lightly takes seconds to import, and only this objective needs it.
        from lightly.loss import NTXentLoss
        from lightly.models.modules.heads import SimCLRProjectionHead

        self.head = SimCLRProjectionHead(student_dim, hidden_dim, out_dim)
        self.nt_xent = NTXentLoss(temperature=temp, gather_distributed=True)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Term `nt_xent`."""
        # As in the released code, both views pass the head's batch norm together.
        z = self.head(torch.cat([batch.student[view].pooled for view in (0, 1)]))
        with torch.autocast(z.device.type, enabled=False):
            return {"nt_xent": self.nt_xent(*z.to(result_dtype(z)).chunk(2))}
