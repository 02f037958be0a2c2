"""RKD: the distances between the images of a batch, and the angles between three of them."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torch.utils.checkpoint import checkpoint

from ukd.distributed import gather_rows_with_grad, own_rows
from ukd.objectives.base import Batch, Needs, Objective
from ukd.similarity import distances, result_dtype

ANGLES_AT_ONCE = 2**20
"""Angles held in memory at a time; there are as many as the cube of the batch size."""


class RKD(Objective):
    """Relations between images in student space as in teacher space; without a head, for any two widths.

    Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068. With the n pooled features x of
    the batch and h(a, b) = (a - b)^2 / 2 where |a - b| < 1, else |a - b| - 1 / 2:

        psi_D(i, j) = |x_i - x_j| / mean over i != j of |x_i - x_j|
        psi_A(i, j, k) = cosine of the angle at x_j between x_i and x_k
        loss = distance_weight * mean over i != j of h(psi_D of the teacher, psi_D of the student)
             + angle_weight * mean over distinct i, j, k of h(psi_A of the teacher, psi_A of the student)

    An edge of length 0 has the cosine 0 with everything. The n images are those of all processes, so any number of
    them gives the same gradient. The angles take n^3 operations; none are computed if their weight is 0.

    Args:
        distance_weight: Weight of the distances; the default is that of RepDistiller.
        angle_weight: Weight of the angles; the default is that of RepDistiller.
    """

    needs = Needs(batch_coupled=True)

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        distance_weight: Annotated[float, Field(ge=0)] = 25.0,
        angle_weight: Annotated[float, Field(ge=0)] = 50.0,
    ) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms `distance` and `angle`: means over this process's images, with all images."""
        student, teacher = batch.student[0].pooled, batch.teacher[0].pooled.detach()
        own, dtype = own_rows(len(student)), result_dtype(student, teacher)
        student, teacher = relative_distances(student).to(dtype), relative_distances(teacher).to(dtype)
        terms = {"distance": self.distance_weight * distance_loss(student[own], teacher[own])}
        if self.angle_weight:
            terms["angle"] = self.angle_weight * angle_loss(student, teacher, own)
        return terms


def relative_distances(features: Tensor) -> Tensor:
    """Distances between the images of all processes over their mean.

    Args:
        features: [B, D], this process's, not normalised.

    Returns:
        fp64 [n, n] with a zero diagonal; 0 everywhere if all features are the same.
    """
    features = gather_rows_with_grad(features)
    found = distances(features, features).fill_diagonal_(0)
    mean = found.sum() / max(len(found) * (len(found) - 1), 1)
    return found / mean.masked_fill(mean == 0, 1.0)


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the pairs of distinct images, the first of which is one of this process's.

    Args:
        student: [B, n], relative distances of this process's images to all images.
        teacher: As student.
    """
    return smooth_l1_loss(student, teacher, reduction="sum") / (len(student) * max(student.shape[1] - 1, 1))


def angle_loss(student: Tensor, teacher: Tensor, vertices: slice) -> Tensor:
    """Mean over the triples of distinct images that have their angle at one of the vertices.

    Args:
        student: [n, n], relative distances between all images.
        teacher: As student.
        vertices: This process's images.
    """
    num_images = len(student)
    places = torch.arange(num_images, device=student.device)[vertices]
    total = student.new_zeros(())
    for some in torch.split(places, max(1, ANGLES_AT_ONCE // num_images**2)):
        # Computed anew for the backward pass, which would otherwise keep several numbers for every angle.
        total = total + checkpoint(_angle_sum, student, teacher, some, use_reentrant=False)
    return total / (len(places) * max((num_images - 1) * (num_images - 2), 1))


def _angle_sum(student: Tensor, teacher: Tensor, vertices: Tensor) -> Tensor:
    return smooth_l1_loss(cosines(student, vertices), cosines(teacher, vertices), reduction="sum")


def cosines(distance: Tensor, vertices: Tensor) -> Tensor:
    """Cosines of all angles at the given images, by the law of cosines.

    Args:
        distance: [n, n], a zero diagonal.
        vertices: int64 [V].

    Returns:
        [V, n, n]; 0 where an edge has length 0, so where an image is its own neighbour.
    """
    edge, squared = distance[vertices], distance.square()
    zero = edge == 0
    inverse = edge.masked_fill(zero, 1.0).reciprocal().masked_fill(zero, 0.0)
    twice_dot_products = edge.square()[:, :, None] + edge.square()[:, None, :] - squared
    return twice_dot_products * (inverse / 2)[:, :, None] * inverse[:, None, :]
