"""Exact nearest neighbours of features as they are, whose lengths count: by inner product and by Euclidean distance.

Scores are computed in fp64 and compared in fp32: equal rows then tie, whatever blocks the products were taken in, and
ties are listed by lowest row.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ukd.errors import DataError
from ukd.neighbours import Floats, Index, Similarity

TILE_ENTRIES = 2**24
"""Scores held at once while searching."""
TILE_ROWS = 2**14
"""Rows of the bank that are held in fp64 at once."""


def nearest_by_product(queries: Floats, bank: Floats, k: int) -> tuple[Similarity, Index]:
    """Find the k bank rows of highest inner product with each query.

    Args:
        queries: [q, D], not normalised.
        bank: [n, D], not normalised.
        k: Neighbours per query, 1 <= k <= n.

    Returns:
        Products [q, k], best first, and row of the bank [q, k]; ties by lowest row.

    Raises:
        DataError: A row holds NaN or infinity.
    """
    _refuse_broken(queries, "queries")
    _refuse_broken(bank, "bank")
    products, index = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for block in _blocks(len(queries), len(bank)):
        products[block], index[block] = _highest(_products(queries[block], bank), k)
    return products, index


def nearest_others_by_distance(features: Floats, k: int) -> npt.NDArray[np.int32]:
    """Find every row's k nearest other rows by Euclidean distance; its exact duplicates are among them.

    Args:
        features: [n, D], not normalised.
        k: Neighbours per row, 1 <= k < n.

    Returns:
        Rows [n, k], nearest first, ties by lowest row.

    Raises:
        DataError: A row holds NaN or infinity.
    """
    _refuse_broken(features, "features")
    # Distances know no offset, and the nearer the origin, the less of them is lost to rounding.
    centred = features - features.mean(axis=0, dtype=np.float64)
    centred /= np.abs(centred).max() or 1.0
    squared = np.square(centred).sum(axis=1)
    others = np.empty((len(features), k), np.int32)
    for block in _blocks(len(centred), len(centred)):
        distances = squared[block, None] + squared - 2 * centred[block] @ centred.T
        rows = np.arange(len(distances))
        distances[rows, block.start + rows] = np.inf
        others[block] = _highest((-distances).astype(np.float32), k)[1]
    return others


def _products(queries: Floats, bank: Floats) -> Similarity:
    wide, products = queries.astype(np.float64), np.empty((len(queries), len(bank)), np.float32)
    for start in range(0, len(bank), TILE_ROWS):
        products[:, start : start + TILE_ROWS] = wide @ bank[start : start + TILE_ROWS].astype(np.float64).T
    return products


def _highest(scores: Similarity, k: int) -> tuple[Similarity, Index]:
    """The k highest of each row [q, n] and their columns, best first, ties by lowest column."""
    last = np.partition(scores, -k, axis=1)[:, -k, None]
    chosen = scores >= last
    for row in np.flatnonzero(chosen.sum(axis=1) > k):
        tied = np.flatnonzero(scores[row] == last[row])
        chosen[row, tied[len(tied) - (chosen[row].sum() - k) :]] = False
    column = np.nonzero(chosen)[1].reshape(len(scores), k)
    found = np.take_along_axis(scores, column, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(column, order, axis=1)


def _blocks(num_queries: int, num_bank: int) -> Iterator[slice]:
    step = max(1, TILE_ENTRIES // num_bank)
    return (slice(start, min(start + step, num_queries)) for start in range(0, num_queries, step))


def _refuse_broken(features: Floats, name: str) -> None:
    # A row's sum is finite only if all of it is, and needs no mask as large as the features.
    broken = np.flatnonzero(~np.isfinite(features.sum(axis=1, dtype=np.float64)))
    if len(broken):
        listed = ", ".join(map(str, broken[:10])) + (f" and {len(broken) - 10} more" if len(broken) > 10 else "")
        raise DataError(f"{name}: NaN or infinity in {len(broken)} of {len(features)} rows (row {listed})")
