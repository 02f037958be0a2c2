"""Many smooth convex objectives minimised at once, each with steps of its own length.

First by L-BFGS, whose steps cost one gradient each; what that leaves, by Newton's method, whose steps cost many but
end where an ill-conditioned objective would take L-BFGS thousands. One evaluation serves all that are not yet done.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ukd.eval.lbfgs import Memory, dot
from ukd.eval.newton import newton_direction

LBFGS_STEPS = 100
"""Steps after which Newton's method takes over."""
ARMIJO = 1e-4
"""Share of the promised decrease that a step has to keep."""
MAX_HALVINGS = 30
ROUNDING = 1e-15
"""Share of an objective that is rounding: where a step changes it by no more, slopes decide."""


class Objectives(Protocol):
    """H objectives of weights [P, D] each; `heads` [h] are the numbers of those that are asked."""

    def value_and_gradient(self, weight: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Values, fp64 [h], and gradients [h, P, D] at weights [h, P, D]."""

    def hessian_diagonal(self, weight: Tensor, heads: Tensor) -> Tensor:
        """Diagonals of the Hessians [h, P, D] at weights [h, P, D], positive."""

    def hessian_times(self, vector: Tensor, weight: Tensor, heads: Tensor) -> Tensor:
        """Products [h, P, D] of vectors [h, P, D] with the Hessians at weights [h, P, D]."""

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
    state = _State(problem, weight)
    memory = Memory(problem.guess())
    heads = state.steeper_than(tol)
    for _ in range(min(LBFGS_STEPS, max_iter)):
        before, slopes = state.weight.clone(), state.gradient.clone()
        heads = state.descend(heads, memory.direction(state.gradient[heads], heads))
        memory.add(state.weight - before, state.gradient - slopes)
        heads = heads[state.grad_norm[heads] > tol]
        if not len(heads):
            break
    heads = state.steeper_than(tol)  # Those too that L-BFGS could not move.
    for _ in range(max_iter - LBFGS_STEPS):
        if not len(heads):
            break
        at = state.weight[heads]
        times = partial(_times, problem, at, heads)
        direction = newton_direction(state.gradient[heads], times, problem.hessian_diagonal(at, heads))
        heads = state.descend(heads, direction)
        heads = heads[state.grad_norm[heads] > tol]
    return Minimum(state.weight, state.grad_norm, state.num_iter)


class _State:
    """Where every head stands: weights and gradients [H, P, D], values, what `steepest` says, and steps [H]."""

    def __init__(self, problem: Objectives, weight: Tensor) -> None:
        heads = torch.arange(len(weight), device=weight.device)
        self._problem = problem
        self.weight, self.num_iter = weight.clone(), torch.zeros_like(heads)
        self._value, self.gradient = problem.value_and_gradient(weight, heads)
        self.grad_norm = problem.steepest(self.gradient)

    def steeper_than(self, tol: float) -> Tensor:
        """The heads that are not done."""
        return torch.nonzero(self.grad_norm > tol).flatten()

    def descend(self, heads: Tensor, direction: Tensor) -> Tensor:
        """Move heads [h] along directions [h, P, D]; returns those that moved, in ascending order.

        The step is halved until it keeps Armijo's condition (Nocedal & Wright, algorithm 3.1), or its stand-in where
        rounding hides a decrease: the slope at its end (Hager & Zhang 2005, SIAM J. Optim. 16:170, equation 4.1).
        """
        promised = dot(self.gradient[heads], direction).flatten().double()
        start = self._value[heads]
        pending = torch.nonzero(promised < 0).flatten()
        moved = [heads[:0]]
        for halvings in range(MAX_HALVINGS):
            if not len(pending):
                break
            some, length = heads[pending], 0.5**halvings
            trial = self.weight[some] + length * direction[pending]
            value, gradient = self._problem.value_and_gradient(trial, some)
            slope = dot(gradient, direction[pending]).flatten()
            lower = value <= start[pending] + ARMIJO * length * promised[pending]
            level = value <= start[pending] + ROUNDING * start[pending].abs()
            kept = lower | (level & (slope <= (2 * ARMIJO - 1) * promised[pending]))
            some = some[kept]
            self.weight[some], self._value[some], self.gradient[some] = trial[kept], value[kept], gradient[kept]
            self.grad_norm[some] = self._problem.steepest(gradient[kept])
            self.num_iter[some] += 1
            moved.append(some)
            pending = pending[~kept]
        return torch.cat(moved).sort().values


def _times(problem: Objectives, weight: Tensor, heads: Tensor, vector: Tensor, of: Tensor) -> Tensor:
    return problem.hessian_times(vector, weight[of], heads[of])
