"""Every image's nearest others in a bank of any size, shared out over the processes, without its near-copies if asked.

Nothing here holds more than blocks of rows and tiles of similarities.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ukd import distributed
from ukd.blocks import Rows
from ukd.neighbours import CPU_LIMITS, check_others, faiss_search, limits, others_of
from ukd.search import Found, Tile, search
from ukd.unit_rows import Unit, UnitRows

SIMILARITIES = 2**24
"""Similarities to a tile that are held at once where near ones are left out."""
MAX_SHARES = 16
"""Shares of the queries, each searched by one process; cut by the number of rows alone, of how many of them."""


class NeighbourLists(NamedTuple):
    """Nearest others of n rows.

    Attributes:
        nearest: int32 [n, k] rows, nearest first, ties by lowest row; -1 where there are too few.
        num_too_near: int64 [n], others that were left out for being too near.
    """

    nearest: npt.NDArray[np.int32]
    num_too_near: npt.NDArray[np.int64]


def neighbour_lists(features: Rows, k: int, max_cosine: float, device: torch.device) -> NeighbourLists:
    """Find every row's k nearest other rows by cosine similarity, over all processes; each gets the whole result.

    Exact: what is too near is left out before the nearest are chosen, however much of it there is.

    Args:
        features: [n, D], any scale.
        k: Neighbours per row, 1 <= k < n.
        max_cosine: Others whose similarity exceeds this are left out; 1 leaves none out.
        device: Where to look for those that are too near; a search that leaves none out is FAISS's.

    Raises:
        DataError: A row holds NaN or infinity, or k is outside 1..n-1.
    """
    check_others(len(features), k)
    unit = UnitRows(features, "features")
    find = Apart(max_cosine, device) if max_cosine < 1 else faiss_search
    shares = _shares(len(unit))[distributed.rank() :: distributed.world_size()]
    found = [search(unit, rows, unit, k + 1, find, limits()) for rows in shares]
    rows = _gathered([*shares], (), np.int64)
    listed, num_too_near = np.empty((len(unit), k + 1), np.int32), np.empty(len(unit), np.int64)
    listed[rows] = _gathered([each.rows for each in found], (k + 1,), np.int32)
    num_too_near[rows] = _gathered([each.num_too_near for each in found], (), np.int64)
    # A row that is no zero is too near to itself.
    num_too_near -= num_too_near > 0
    return NeighbourLists(others_of(listed, unit), num_too_near[unit.of])


class Apart:
    """Searches a tile for the nearest rows that are not too near, on any device; as `search.Find`.

    Args:
        max_cosine: Rows whose similarity exceeds this are left out.
        device: Where to compute.
    """

    def __init__(self, max_cosine: float, device: torch.device) -> None:
        self._max_cosine = max_cosine
        self._device = device

    def __call__(self, queries: Unit, tile: Tile, k: int) -> Found:
        rows = torch.from_numpy(tile.rows).to(self._device)
        size = torch.from_numpy(tile.size.astype(np.int32)).to(self._device)
        step = max(1, SIMILARITIES // len(rows))
        parts = [
            self._tile(some.to(self._device), rows, size, k) for some in torch.split(torch.from_numpy(queries), step)
        ]
        similarity, index, num_too_near = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
        return Found(similarity, index, num_too_near)

    def _tile(self, queries: Tensor, rows: Tensor, size: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        similarity = queries @ rows.T
        is_too_near = similarity > self._max_cosine
        num_too_near = torch.where(is_too_near, size, 0).sum(1)
        best = similarity.masked_fill_(is_too_near, -torch.inf).topk(k)
        return best.values, best.indices, num_too_near


def _shares(num_rows: int) -> list[npt.NDArray[np.int64]]:
    """Cuts rows where a search on CPU, whose figures would otherwise depend on the cut, begins a new product."""
    together = CPU_LIMITS.queries
    step = -(-num_rows // (MAX_SHARES * together)) * together
    return [np.arange(first, min(first + step, num_rows)) for first in range(0, num_rows, step)]


def _gathered(
    arrays: list[npt.NDArray[np.int64]], shape: tuple[int, ...], dtype: type[np.signedinteger]
) -> npt.NDArray[np.signedinteger]:
    """Rows of all processes, of which some may have none."""
    mine = np.concatenate([np.empty((0, *shape), np.int64), *arrays]).astype(dtype)
    return distributed.gather_rows(torch.from_numpy(mine)).numpy()
