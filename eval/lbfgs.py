"""The direction of L-BFGS for many objectives at once (Nocedal & Wright, Numerical Optimization, algorithm 7.4)."""

from __future__ import annotations

import torch
from torch import Tensor

HISTORY = 10
"""Pairs of steps and changes of the gradient that the inverse Hessian is estimated from."""


class Memory:
    """The last steps and changes of the gradient of every head, and the direction that they suggest.

    Args:
        guess: First guess of the diagonals of the inverse Hessians, [H, 1, D].
    """

    def __init__(self, guess: Tensor) -> None:
        self._guess = guess
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._scale = torch.ones_like(guess[:, :1, :1])

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember a step [H, P, D]; of heads whose gradient has not grown along it, nothing."""
        curvature = dot(step, change)
        valid = curvature > torch.finfo(step.dtype).eps * dot(step, step).sqrt() * dot(change, change).sqrt()
        inverse = torch.where(valid, 1 / curvature.masked_fill(~valid, 1), 0)
        self._pairs = [*self._pairs[1 - HISTORY :], (step, change, inverse)]
        scale = curvature / dot(change, self._guess * change).masked_fill(~valid, 1)
        self._scale = torch.where(valid, scale, self._scale)

    def direction(self, gradient: Tensor, heads: Tensor) -> Tensor:
        """Newton's direction [h, P, D] for some heads, as far as is remembered: the two-loop recursion."""
        direction, shares = -gradient, []
        for step, change, inverse in reversed(self._pairs):
            share = inverse[heads] * dot(step[heads], direction)
            direction = direction - share * change[heads]
            shares.append(share)
        direction = direction * self._guess[heads] * self._scale[heads]
        for (step, change, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            direction = direction + step[heads] * (share - inverse[heads] * dot(change[heads], direction))
        return direction


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products [h, 1, 1] of the heads of two tensors [h, P, D]."""
    return (a * b).sum((1, 2), keepdim=True)
