"""Many smooth convex objectives minimised at once by L-BFGS, each with steps of its own length.

Nocedal & Wright, Numerical Optimization, 2nd edition, algorithms 3.1 and 7.4. One evaluation serves all not yet done.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

HISTORY = 10
"""Pairs of steps and changes of the gradient that the inverse Hessian is estimated from."""
ARMIJO = 1e-4
"""Share of the promised decrease that a step has to keep."""
MAX_HALVINGS = 30
ROUNDING = 1e-15
"""Share of an objective that is rounding: where a step changes it by no more, slopes decide."""


class Objectives(Protocol):
    """H objectives of weights [P, D] each; `heads` [h] are the numbers of those that are asked."""

    def value_and_gradient(self, weight: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Values, fp64 [h], and gradients [h, P, D] at weights [h, P, D]."""

    def steepest(self, gradient: Tensor) -> Tensor:
        """What says how far from a minimum gradients [h, P, D] are: [h]."""

    def guess(self) -> Tensor:
        """First guess of the diagonals of the inverse Hessians, [H, 1, D]."""


class Minimum(NamedTuple):
    """Where a minimisation ended.

    Attributes:
        weight: [H, P, D].
        grad_norm: [H] what `steepest` says there.
        num_iter: [H] steps taken.
    """

    weight: Tensor
    grad_norm: Tensor
    num_iter: Tensor


class _Memory:
    """The last steps and changes of the gradient of every head, and the direction that they suggest."""

    def __init__(self, guess: Tensor) -> None:
        self._guess = guess
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self._scale = torch.ones_like(guess[:, :1, :1])

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember a step [H, P, D]; of heads whose gradient has not grown along it, nothing."""
        curvature = _dot(step, change)
        valid = curvature > torch.finfo(step.dtype).eps * _dot(step, step).sqrt() * _dot(change, change).sqrt()
        inverse = torch.where(valid, 1 / curvature.masked_fill(~valid, 1), 0)
        self._pairs = [*self._pairs[1 - HISTORY :], (step, change, inverse)]
        scale = curvature / _dot(change, self._guess * change).masked_fill(~valid, 1)
        self._scale = torch.where(valid, scale, self._scale)

    def direction(self, gradient: Tensor, heads: Tensor) -> Tensor:
        """Newton's direction [h, P, D] for some heads, as far as is remembered: the two-loop recursion."""
        direction, shares = -gradient, []
        for step, change, inverse in reversed(self._pairs):
            share = inverse[heads] * _dot(step[heads], direction)
            direction = direction - share * change[heads]
            shares.append(share)
        direction = direction * self._guess[heads] * self._scale[heads]
        for (step, change, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            direction = direction + step[heads] * (share - inverse[heads] * _dot(change[heads], direction))
        return direction


def minimise(problem: Objectives, weight: Tensor, *, tol: float, max_iter: int) -> Minimum:
    """Minimise every objective, called a head, from where it stands.

    A head is done once its gradient is small enough, or its objective no longer decreases: it has met the
    rounding of the dtype. Heads that are done cost nothing more.

    Args:
        problem: The objectives.
        weight: [H, P, D] where to begin, in the problem's dtype.
        tol: What `steepest` has to come down to.
        max_iter: Steps after which a head is given up.
    """
    weight = weight.clone()
    heads = torch.arange(len(weight), device=weight.device)
    memory = _Memory(problem.guess())
    num_iter = torch.zeros_like(heads)
    value, gradient = problem.value_and_gradient(weight, heads)
    grad_norm = problem.steepest(gradient)
    heads = heads[grad_norm > tol]
    while len(heads) and int(num_iter.max()) < max_iter:
        direction = memory.direction(gradient[heads], heads)
        moved, new_value, new_weight, new_gradient = _descend(problem, heads, weight, value, gradient, direction)
        step, change = torch.zeros_like(weight), torch.zeros_like(weight)
        step[moved], change[moved] = new_weight - weight[moved], new_gradient - gradient[moved]
        memory.add(step, change)
        value[moved], weight[moved], gradient[moved] = new_value, new_weight, new_gradient
        grad_norm[moved] = problem.steepest(new_gradient)
        num_iter[moved] += 1
        heads = moved[grad_norm[moved] > tol]
    return Minimum(weight, grad_norm, num_iter)


def _descend(
    problem: Objectives, heads: Tensor, weight: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve the step of each head until it keeps Armijo's condition, or its stand-in where rounding hides a decrease.

    That stand-in looks at the slope at the end of the step (Hager & Zhang 2005, SIAM J. Optim. 16:170, equation 4.1).

    Returns:
        The heads [m] that moved, in ascending order, and their new values, weights and gradients.
    """
    promised = _dot(gradient[heads], direction).flatten().double()
    pending = torch.nonzero(promised < 0).flatten()
    found = []
    for halvings in range(MAX_HALVINGS):
        if not len(pending):
            break
        some, length = heads[pending], 0.5**halvings
        trial = weight[some] + length * direction[pending]
        new_value, new_gradient = problem.value_and_gradient(trial, some)
        slope = _dot(new_gradient, direction[pending]).flatten()
        lower = new_value <= value[some] + ARMIJO * length * promised[pending]
        level = new_value <= value[some] + ROUNDING * value[some].abs()
        kept = lower | (level & (slope <= (2 * ARMIJO - 1) * promised[pending]))
        found.append((some[kept], new_value[kept], trial[kept], new_gradient[kept]))
        pending = pending[~kept]
    if not found:
        return heads[:0], value[:0], weight[:0], gradient[:0]
    moved, new_value, new_weight, new_gradient = (torch.cat(each) for each in zip(*found, strict=True))
    order = moved.argsort()
    return moved[order], new_value[order], new_weight[order], new_gradient[order]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)
