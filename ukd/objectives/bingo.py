"""BINGO: images that lie near each other for the teacher are brought together in the student."""

from __future__ import annotations

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor

from ukd.objectives.base import SECOND, Batch, CutMixed, Needs, Objective
from ukd.objectives.heads import Projector, projector
from ukd.objectives.queue import Queue
from ukd.projection import Projection
from ukd.similarity import dot_products, info_nce, normalised

OWN_WEIGHT = 0.5
"""What the own image weighs once the neighbour counts too."""


class BINGO(Objective):
    """Contrast of the student's images, and of mixtures, with the teacher's of the same bag: an anchor and a neighbour.

    Xu et al., "Bag of Instances Aggregation Boosts Self-supervised Distillation", ICLR 2022, arXiv:2107.01691, in the
    form of its released code. Of an anchor a and its neighbour p, the student sees the first view, S[a] and S[p], and
    S[m], the anchor's covered in part by the neighbour's (CutMix); the teacher sees the second view, T[a] and T[p].
    With T pooled features [B, D], S after the student's head, and the queue Q [K, D] of the teacher's features of the
    anchors before, all normalised:

        l(x, y) = -log( exp(S[x].T[y] / temp) / (exp(S[x].T[y] / temp) + sum_k exp(S[x].Q[k] / temp)) )
        loss = mean over anchors of ( w l(a, a) + (1 - w) l(a, p)  +  w l(p, p) + (1 - w) l(p, a)
                                      +  r l(m, a) + (1 - r) l(m, p) ) / 3

    r is the anchor's share of the mixture's area; w is 1 for the first part of the run, 0.5 afterwards. Of the five
    nearest neighbours one is drawn each time: `neighbours: {k: 1, nearest: 5}`. With more in a bag, l(a, p), l(p, p)
    and l(p, a) are means over them, and the first is mixed with the anchor. The paper takes T after the head of the
    teacher's pretraining; here it is the backbone's pooled feature. The queue starts empty, so the loss of the first
    batch is 0, and holds the anchors of all processes. In eval mode it stays as it is.

    Args:
        queue_size: Anchors the queue holds, fewer than the data set has images; it takes 4 bytes times D for each.
        temp: Temperature; the released code takes 0.12 for EfficientNet-B0.
        delay: Share of the run in which images are contrasted with their own target alone, but for the mixtures; the
            released code's is 11 of 200 epochs.
        head: The projector; `mlp2` is the paper's.
        hidden_dim: Width of the hidden layer of `mlp2`.
    """

    needs = Needs(teacher_views=SECOND, neighbours=True, cutmix=True)

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        queue_size: Annotated[int, Field(gt=0)] = 65536,
        temp: Annotated[float, Field(gt=0)] = 0.2,
        delay: Annotated[float, Field(ge=0, le=1)] = 11 / 200,
        head: Projector = "mlp2",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
    ) -> None:
        super().__init__()
        self.temp = temp
        self.delay = delay
        self.head = projector(head, student_dim, teacher_dim, hidden_dim)
        self.queue = Queue(queue_size, teacher_dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms `anchor`, `neighbour` and `cutmix`, each at least 0; takes the anchors into the queue."""
        mixed, share = cast(CutMixed, batch.cutmix)
        student = normalised(self.head(batch.student[0].pooled))
        teacher = normalised(batch.teacher[1].pooled.detach())
        student, teacher = (rows.view(-1, batch.bag_size, rows.shape[1]) for rows in (student, teacher))
        mixed_rows = normalised(self.head(mixed.pooled))[:, None]
        loss = self._contrast(torch.cat([student, mixed_rows], dim=1), teacher)
        if self.training:
            self.queue.enqueue(teacher[:, 0])
        w = 1.0 if batch.progress < self.delay else OWN_WEIGHT
        own = loss.diagonal(dim1=1, dim2=2)
        anchor = w * own[:, 0] + (1 - w) * loss[:, 0, 1:].mean(1)
        neighbour = w * own[:, 1:].mean(1) + (1 - w) * loss[:, 1:-1, 0].mean(1)
        mixture = share * loss[:, -1, 0] + (1 - share) * loss[:, -1, 1]
        return {"anchor": anchor.mean() / 3, "neighbour": neighbour.mean() / 3, "cutmix": mixture.mean() / 3}

    def projector(self) -> Projection | None:
        """The head, which leads to the teacher's own space."""
        return Projection.of(self.head)

    def _contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """InfoNCE of every query with every key of its bag, against the queue.

        Args:
            queries: [bags, n, D], normalised.
            keys: [bags, m, D], normalised.

        Returns:
            [bags, n, m].
        """
        queue = self.queue()
        positive = (queries[:, :, None] * keys[:, None]).sum(-1)
        negatives = dot_products(queries.flatten(0, 1), queue).view(*queries.shape[:2], 1, len(queue))
        return info_nce(positive / self.temp, negatives / self.temp)
