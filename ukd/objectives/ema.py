"""An exponential moving average of a module: what follows the student, or its head."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def follow(follower: nn.Module, leader: nn.Module, momentum: float) -> None:
    """Moves every parameter of one module towards that of another; both are built alike.

    Statistics of batch norm are left alone: the follower, running in training mode, keeps its own
    (He et al., "Momentum Contrast", CVPR 2020, arXiv:1911.05722, equation 2).

    Args:
        follower: What moves.
        leader: What it moves towards.
        momentum: Share of itself that it keeps, in [0, 1].
    """
    for mine, other in zip(follower.parameters(), leader.parameters(), strict=True):
        mine.lerp_(other, 1 - momentum)
