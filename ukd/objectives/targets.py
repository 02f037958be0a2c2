"""What a teacher's feature becomes before the student regresses it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ukd.distributed import mean_over_processes
from ukd.objectives.base import EMA
from ukd.projection import centring, turning
from ukd.row_blocks import RowBlocks
from ukd.similarity import dot_products, moments, result_dtype

TargetKind = Literal["none", "standardised", "whitened"]

KEPT = EMA(momentum=0.0, final_momentum=0.999)
"""Share of the running statistics that a batch leaves as it is, from the start to the end of the run, as in UNIC."""
MIN_SPREAD = 1e-2
"""Least standard deviation that is scaled to 1, relative to that of all dimensions; a lesser one is noise."""


class Target(nn.Module):
    """The teacher's feature as it is; base of what changes it."""

    def forward(self, teacher: Tensor, progress: float) -> Tensor:
        """The target of this process's images.

        Args:
            teacher: [B, D], not normalised, without gradient.
            progress: Share of the run that is done, in [0, 1).

        Returns:
            [B, D]
        """
        return teacher

    def fit(self, embeddings: RowBlocks) -> None:
        """Learns what it needs from the teacher's features [n, D] of all training images."""

    def layers(self) -> list[nn.Module]:
        """What it does to features [n, D] by what it knows now, as layers of `torch.nn` in evaluation mode."""
        return []


class Standardised(Target):
    """Every dimension less its running mean, over its running standard deviation.

    Sariyildiz et al., UNIC, ECCV 2024, arXiv:2408.05088, naver/unic:utils.py: the statistics are those of the batches
    before, of all processes, so the first batch stays as it is; each batch enters with a weight that falls from 1 to
    0.001 by a half cosine over the run. Unlike there, a dimension that hardly varies is not scaled up beyond
    1 / MIN_SPREAD of the others. In eval mode the statistics stay as they are.

    Args:
        dim: Width of the teacher's feature.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def forward(self, teacher: Tensor, progress: float) -> Tensor:
        """As `Target.forward`; takes the batch into the statistics."""
        target = (teacher.to(result_dtype(teacher)) - self.mean) / self._scaled_by()
        if self.training:
            self._follow(teacher.double(), 1 - KEPT.at(progress))
        return target

    def layers(self) -> list[nn.Module]:
        """As `Target.layers`."""
        return [centring(self.mean, 1 / self._scaled_by())]

    def _scaled_by(self) -> Tensor:
        # In fp64, in which the square of no fp32 number overflows or vanishes.
        floor = MIN_SPREAD * self.std.double().square().mean().sqrt()
        return self.std.clamp(min=floor.masked_fill(floor == 0, 1.0).to(self.std.dtype))

    @torch.no_grad()
    def _follow(self, teacher: Tensor, weight: float) -> None:
        mean = mean_over_processes(teacher.mean(0))
        std = mean_over_processes((teacher - mean).square().mean(0)).sqrt()
        self.mean.lerp_(mean.to(self.mean.dtype), weight)
        self.std.lerp_(std.to(self.std.dtype), weight)


class Whitened(Target):
    """The feature less its mean, turned and scaled so that its dimensions are uncorrelated and of variance 1.

    Of the many maps that do this it is ZCA's, which changes the feature least (Kessy et al., "Optimal Whitening and
    Decorrelation", The American Statistician 2018, arXiv:1512.00809). Directions that hardly vary are not scaled up
    beyond 1 / MIN_SPREAD of the others.

    Args:
        dim: Width of the teacher's feature.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("whitening", torch.eye(dim))

    def forward(self, teacher: Tensor, progress: float) -> Tensor:
        """As `Target.forward`."""
        return dot_products(teacher.to(result_dtype(teacher)) - self.mean, self.whitening)

    def layers(self) -> list[nn.Module]:
        """As `Target.layers`."""
        return [centring(self.mean), turning(self.whitening)]

    @torch.no_grad()
    def fit(self, embeddings: RowBlocks) -> None:
        """As `Target.fit`."""
        mean, covariance = moments(embeddings)
        variance, axes = torch.linalg.eigh(covariance)
        floor = MIN_SPREAD**2 * variance.mean()
        scale = variance.clamp(min=floor.masked_fill(floor == 0, 1.0)).rsqrt()
        self.mean.copy_(mean)
        self.whitening.copy_((axes * scale) @ axes.T)


def target_of(kind: TargetKind, dim: int) -> Target:
    """The target of a teacher's feature of width `dim`."""
    if kind == "standardised":
        return Standardised(dim)
    return Whitened(dim) if kind == "whitened" else Target()
