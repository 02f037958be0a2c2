"""Tokens on grids: patch tokens of a ViT or cells of a CNN's map, brought from one grid to another."""

from __future__ import annotations

import torch
from torch import Tensor

from ukd.similarity import result_dtype

Grid = tuple[int, int]
"""Rows and columns of tokens."""


def resized(tokens: Tensor, grid: Grid, to_grid: Grid) -> Tensor:
    """Tokens of one grid as another grid of the same view has them.

    Bilinear; where the other grid is coarser, each of its cells is a weighted mean over all tokens that it covers.

    Args:
        tokens: [B, h * w, D], row by row.
        grid: Their (h, w).
        to_grid: The other (h', w').

    Returns:
        [B, h' * w', D] in fp64 if the tokens are fp64, else fp32; the tokens themselves where the grids are the same.
    """
    if grid == to_grid:
        return tokens
    # As a matrix, because torch's antialiased interpolation to a grid of one column ignores the rows.
    rows, columns = (
        line_weights(length, to_length, tokens.device) for length, to_length in zip(grid, to_grid, strict=True)
    )
    with torch.autocast(tokens.device.type, enabled=False):
        dtype = result_dtype(tokens)
        return torch.kron(rows, columns).to(dtype) @ tokens.to(dtype)


def line_weights(length: int, to_length: int, device: torch.device) -> Tensor:
    """Weights of the cells of one line in those of another of the same extent: triangles as wide as the coarser cells.

    Returns:
        fp64 [to_length, length]; each row sums to 1.
    """
    scale = length / to_length
    centres, places = (torch.arange(number, dtype=torch.float64, device=device) + 0.5 for number in (to_length, length))
    distances = (centres[:, None] * scale - places).abs() / max(scale, 1.0)
    triangles = (1 - distances).clamp(min=0)
    return triangles / triangles.sum(1, keepdim=True)
