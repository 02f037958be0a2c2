"""Binary codes for Hamming retrieval, taught by codes of the teacher: after BRCD."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ukd.distributed import gather_rows, gather_rows_with_grad, own_rows
from ukd.objectives.base import BOTH, Batch, Needs, Objective
from ukd.objectives.heads import projector
from ukd.objectives.quantisation import (
    cluster_centres,
    iterative_quantisation,
    nearest_centre,
    project,
    signs,
    telling_bits,
)
from ukd.projection import Projection, centring, to_unit_length, turning
from ukd.row_blocks import RowBlocks
from ukd.similarity import cosine, dot_products, info_nce, normalised, result_dtype


class _View(NamedTuple):
    """What is known of one view of this process's B images.

    Attributes:
        student: [B, bits] of 1 and -1, with gradient.
        teacher: [B, bits] of 1 and -1.
        cluster: int64 [B], where the teacher's feature falls.
    """

    student: Tensor
    teacher: Tensor
    cluster: Tensor


class BRCD(Objective):
    """Contrast of the student's code with those of the teacher, over images that the teacher holds to be different.

    After He et al., "Bit-mask Robust Contrastive Knowledge Distillation for Unsupervised Semantic Hashing", WWW 2024,
    doi:10.1145/3589334.3645440. The teacher's code is the sign of a fixed rotation of its normalised feature (ITQ), the
    student's that of its head, with the gradient of a sigmoid. With the codes s1 of the student in one view, t1 and t2
    of the teacher in this and the other view, the clusters c1 and c2 into which the teacher's features fall, and u1 and
    v2, which are s1 and t2 without the bits that images of the cluster c1[i] share:

        p[i] = a cos(s1[i], t1[i]) + (1 - a) cos(u1[i], v2[i])      a = alpha where c1[i] = c2[i], else 1
        l(x, i) = -log( exp(p[i] / temp) / (exp(p[i] / temp) + sum over y in N[i] of exp(cos(x, y) / temp)) )
        loss = mean_i (l(u1[i], i) + l(v2[i], i)) / 2, and the mean of that with the views exchanged

    The negatives N[i] are u1 and v2 of the images of all processes, but for image i and for those whose view falls into
    the cluster c1[i]: they would be false ones. Where an augmentation moves the teacher's feature into another cluster,
    that view is no positive. Clusters are those of k-means over the training images in the space of codes.

    The released code differs: its mask is 0 for every bit, so all its negatives have similarity 0; one view alone is
    the student's; clusters are those of the image without augmentation; teacher and student are supervised backbones,
    the former with a hash head trained by CIBHash, whose own loss on the student's codes is added.

    Args:
        bits: Length of the codes.
        alpha: Weight of the teacher's code of the same view in the positive; the rest is that of the other view.
        temp: Temperature.
        num_clusters: Clusters of training images; the released command's 10 are for CIFAR-10.
        margin: A bit is silenced in a cluster where the absolute mean of the teacher's codes exceeds this; at most
            half of them are, those that are shared most.
        head: From the student's feature to its code.
        hidden_dim: Width of the hidden layer of `mlp2`.
    """

    needs = Needs(BOTH, BOTH, batch_coupled=True, bank=True)
    mean: Tensor
    projection: Tensor
    centres: Tensor
    masks: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        bits: Annotated[int, Field(gt=0)] = 64,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.8,
        temp: Annotated[float, Field(gt=0)] = 0.3,
        num_clusters: Annotated[int, Field(gt=0, le=1000)] = 10,
        margin: Annotated[float, Field(ge=0, le=1)] = 0.5,
        head: Literal["linear", "mlp2"] = "linear",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.temp = temp
        self.margin = margin
        self.head = projector(head, student_dim, bits, hidden_dim)
        self.register_buffer("mean", torch.zeros(teacher_dim))
        self.register_buffer("projection", torch.zeros(teacher_dim, bits))
        self.register_buffer("centres", torch.zeros(num_clusters, bits))
        self.register_buffer("masks", torch.ones(num_clusters, bits))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Term `hash`, 0 where no negative is left."""
        first, second = (self._view(batch.student[view].pooled, batch.teacher[view].pooled.detach()) for view in (0, 1))
        return {"hash": (self._contrast(first, second) + self._contrast(second, first)) / 2}

    @torch.no_grad()
    def fit(self, embeddings: RowBlocks) -> None:
        """Fits the teacher's codes, the clusters and the bits that are silenced in each.

        Raises:
            UserError: Fewer images than clusters.
        """
        num_clusters, bits = self.centres.shape
        rows = embeddings.changed(normalised)
        mean, projection = iterative_quantisation(rows, bits)
        components = project(rows, mean, projection)
        centres = cluster_centres(components, num_clusters)
        clusters = nearest_centre(components, centres)
        self.mean.copy_(mean)
        self.projection.copy_(projection)
        self.centres.copy_(centres)
        self.masks.copy_(telling_bits(signs(components), clusters, num_clusters, self.margin))

    @torch.no_grad()
    def codes(self, features: Tensor) -> Tensor:
        """The student's codes.

        Args:
            features: [B, student_dim], pooled.

        Returns:
            bool [B, bits].
        """
        bits: Tensor = self.head(features) >= 0
        return bits

    @torch.no_grad()
    def teacher_codes(self, features: Tensor) -> Tensor:
        """The teacher's codes, for a database that the student's codes search.

        Args:
            features: [B, teacher_dim], pooled, not normalised.

        Returns:
            bool [B, bits].
        """
        return self._components(features) >= 0

    def projector(self) -> Projection | None:
        """The student's head and the teacher's rotation; their signs are the codes."""
        unit = to_unit_length(len(self.mean)).to(self.mean)
        return Projection.of(self.head, [unit, centring(self.mean), turning(self.projection.T)], codes=True)

    def _components(self, teacher: Tensor) -> Tensor:
        return dot_products(normalised(teacher) - self.mean, self.projection.T)

    def _view(self, student: Tensor, teacher: Tensor) -> _View:
        components = self._components(teacher)
        cluster = nearest_centre(components, self.centres)
        return _View(straight_through(self.head(student)), signs(components), cluster)

    def _contrast(self, anchor: _View, other: _View) -> Tensor:
        """Mean loss of this process's images, the student seeing the view `anchor`."""
        mask = self.masks[anchor.cluster]
        student, teacher = normalised(anchor.student * mask), normalised(other.teacher * mask)
        alpha = student.new_full((len(student),), self.alpha).masked_fill(anchor.cluster != other.cluster, 1.0)
        positive = alpha * cosine(anchor.student, anchor.teacher) + (1 - alpha) * (student * teacher).sum(1)
        references = torch.cat([gather_rows_with_grad(student), gather_rows(teacher)])
        similarity = dot_products(torch.cat([student, teacher]), references)
        is_no_negative = self._is_no_negative(anchor, other).repeat(2, 1)
        negatives = (similarity / self.temp).masked_fill(is_no_negative, -torch.inf)
        return info_nce(positive.repeat(2) / self.temp, negatives).mean()

    def _is_no_negative(self, anchor: _View, other: _View) -> Tensor:
        """Which references are the image itself or may be of its kind: bool [B, 2n] for n images in all processes."""
        clusters = torch.cat([gather_rows(anchor.cluster), gather_rows(other.cluster)])
        same = anchor.cluster[:, None] == clusters
        own = torch.eye(len(clusters) // 2, dtype=torch.bool, device=same.device)[own_rows(len(same))]
        return same | own.repeat(1, 2)


def straight_through(x: Tensor) -> Tensor:
    """Codes of 1 and -1 with the gradient of the sigmoid: 1 where x [..., bits] is at least 0.

    Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation", 2013,
    arXiv:1308.3432; through a sigmoid as in hly1998/BRCD. NaN stays NaN.

    Returns:
        As x, fp64 if x is fp64, else fp32.
    """
    soft = x.to(result_dtype(x)).sigmoid()
    return signs(x).to(soft.dtype) + (soft - soft.detach())
