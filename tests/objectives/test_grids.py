from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ukd.objectives.grids import Grid, resized

seeds = st.integers(0, 2**32 - 1)
grids = st.tuples(st.integers(1, 9), st.integers(1, 9))


def test_by_hand() -> None:
    # Three cells on two: the triangle of the first of these is at 3/4 and reaches 3/2 to both sides, so that the cells
    # at 1/2 and 3/2 weigh 5/6 and 3/6.
    line = torch.tensor([[[1.0], [0.0], [0.0]]])
    torch.testing.assert_close(resized(line, (1, 3), (1, 2)).flatten(), torch.tensor([5 / 8, 0.0]))
    # Two cells on four: quarters of the way between them, and their own value at the border.
    line = torch.tensor([[[0.0], [1.0]]])
    assert resized(line, (2, 1), (4, 1)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


@given(seed=seeds, grid=grids, to_grid=grids)
def test_equals_pillow(seed: int, grid: Grid, to_grid: Grid) -> None:
    tokens = np.random.default_rng(seed).normal(size=grid).astype(np.float32)
    expected = Image.fromarray(tokens).resize(to_grid[::-1], Image.Resampling.BILINEAR)
    found = resized(torch.from_numpy(tokens).reshape(1, -1, 1), grid, to_grid)
    np.testing.assert_allclose(found.reshape(to_grid).numpy(), np.asarray(expected), atol=1e-5)


@given(seed=seeds, grid=grids, to_grid=grids)
def test_images_and_dimensions_are_resized_alone_and_in_fp32(seed: int, grid: Grid, to_grid: Grid) -> None:
    tokens = torch.randn(2, grid[0] * grid[1], 3, generator=torch.Generator().manual_seed(seed)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = resized(tokens, grid, to_grid)
    assert grid == to_grid or found.dtype == torch.float32
    for i in range(2):
        for d in range(3):
            alone = resized(tokens[i : i + 1, :, d : d + 1], grid, to_grid)[0, :, 0]
            torch.testing.assert_close(found[i, :, d], alone)


def test_on_its_own_grid_nothing_changes() -> None:
    tokens = torch.randn(2, 6, 3)
    assert resized(tokens, (2, 3), (2, 3)) is tokens
