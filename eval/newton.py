"""Newton's direction for many objectives at once, by conjugate gradients (Nocedal & Wright, algorithms 5.3 and 7.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ukd.eval.lbfgs import dot

MAX_PRODUCTS = 2_000
"""Products with the Hessian after which a direction is taken as it is."""
MAX_RESIDUAL = 0.1
"""Share of the gradient that a direction may leave, far from the minimum; near it, less."""


def newton_direction(gradient: Tensor, times: Callable[[Tensor, Tensor], Tensor], diagonal: Tensor) -> Tensor:
    """Solve Hessian @ direction = -gradient for every head, the more exactly the smaller its gradient.

    What is left is at most the square root of the gradient's length, as a share of it: near the minimum every step
    then has half as many digits again as the one before.

    Args:
        gradient: [h, P, D].
        times: Takes vectors [a, P, D] and which of the h heads each is of [a]; gives the products with their Hessians.
        diagonal: Those Hessians' diagonals [h, P, D], positive.

    Returns:
        [h, P, D], each a direction of descent.
    """
    direction, residual = torch.zeros_like(gradient), -gradient
    search = residual / diagonal
    energy = dot(residual, search)
    wanted = dot(gradient, gradient).sqrt()
    wanted = wanted * wanted.sqrt().clamp(max=MAX_RESIDUAL)
    active = torch.arange(len(gradient), device=gradient.device)
    for _ in range(MAX_PRODUCTS):
        product = times(search[active], active)
        curvature = dot(search[active], product)
        curved = curvature.flatten() > 0  # Rounding alone makes it less: the objectives are convex.
        active, product, curvature = active[curved], product[curved], curvature[curved]
        length = energy[active] / curvature
        direction[active] += length * search[active]
        residual[active] -= length * product
        active = active[(dot(residual, residual) > wanted.square()).flatten()[active]]
        if not len(active):
            break
        scaled = residual[active] / diagonal[active]
        grown = dot(residual[active], scaled)
        search[active] = scaled + grown / energy[active] * search[active]
        energy[active] = grown
    return direction
