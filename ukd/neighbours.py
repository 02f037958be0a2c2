"""Exact cosine nearest neighbours. The only file that knows FAISS.

The order of neighbours is a fact of the features, not of the search: FAISS leaves the order of equal
similarities open (it depends on block sizes and threads), so rows that are equal bit for bit are searched
once and then listed by number. Rows that differ, yet agree in similarity to within fp32 rounding, come in the
order that fp32 gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ukd.blocks import Rows
from ukd.errors import DataError

Floats = npt.NDArray[np.floating[Any]]
Similarity = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]
IndexT = TypeVar("IndexT", npt.NDArray[np.int32], npt.NDArray[np.int64])

TILE_ENTRIES = 2**24
"""Similarities held at once while searching: about 0.5 GB with everything that sorting them needs."""
UNIT_ENTRIES = 2**20
"""Entries of rows held in fp64 at once while their lengths are taken off."""
GPU_MAX_K = 2048
"""FAISS's own limit of `knn_gpu`."""


class _Distinct(NamedTuple):
    """Unit rows without repeats, numbered by first appearance.

    Attributes:
        rows: [m, D] distinct unit rows.
        of: [n] distinct row of each row.
        members: [n] row numbers, those of distinct row 0 first; ascending within each distinct row.
        start: [m] where the members of each distinct row begin.
        size: [m] how many rows each distinct row stands for.
    """

    rows: npt.NDArray[np.float32]
    of: Index
    members: Index
    start: Index
    size: Index


def backend() -> str:
    """Name, version and device of the search engine, for example `faiss 1.15.1 cpu`."""
    import faiss

    return f"faiss {faiss.__version__} {'gpu' if faiss.get_num_gpus() > 0 else 'cpu'}"


def nearest(queries: Floats, bank: Floats, k: int) -> tuple[Similarity, Index]:
    """Find the k bank rows of highest cosine similarity to each query.

    Args:
        queries: [q, D], any scale; a zero row has similarity 0 to everything.
        bank: [n, D], any scale.
        k: neighbours per query, 1 <= k <= n.

    Returns:
        Cosine similarity [q, k], best first, and row of the bank [q, k]; ties by lowest row.

    Raises:
        DataError: a row holds NaN or infinity, the widths differ, or k is outside 1..n.
    """
    _check_search(queries, bank, k)
    distinct_queries = _distinct(_unit(queries, "queries"))
    similarity, index = _search(distinct_queries.rows, _distinct(_unit(bank, "bank")), k)
    return similarity[distinct_queries.of], index[distinct_queries.of]


def nearest_by_block(queries: Floats, bank: Floats, k: int) -> Iterator[tuple[slice, Similarity, Index]]:
    """Search as `nearest`, some queries at a time, where all their lists together would not fit into memory.

    Yields:
        Which queries [b], their similarities [b, k] and rows [b, k]: at most TILE_ENTRIES of each, or one query's.
    """
    _check_search(queries, bank, k)
    unit, distinct_bank = _unit(queries, "queries"), _distinct(_unit(bank, "bank"))
    step = max(1, TILE_ENTRIES // k)
    for block in (slice(start, min(start + step, len(unit))) for start in range(0, len(unit), step)):
        distinct_queries = _distinct(unit[block])
        similarity, index = _search(distinct_queries.rows, distinct_bank, k)
        yield block, similarity[distinct_queries.of], index[distinct_queries.of]


def nearest_others(features: Floats | Rows, k: int) -> npt.NDArray[np.int32]:
    """Find every row's k nearest other rows by cosine similarity.

    A row leaves itself out by its number, so its exact duplicates stay among its neighbours.

    Args:
        features: [n, D], any scale.
        k: neighbours per row, 1 <= k < n.

    Returns:
        Rows [n, k], nearest first, ties by lowest row.

    Raises:
        DataError: a row holds NaN or infinity, or k is outside 1..n-1.
    """
    num = len(features)
    if not 1 <= k < num:
        raise DataError(
            f"nearest neighbours: k={k} but each of the {num} images has {num - 1} others; choose 1 <= k <= {num - 1}"
        )
    distinct = _distinct(_unit(features, "features"))
    index = _search(distinct.rows, distinct, k + 1)[1].astype(np.int32)
    others = np.empty((num, k), dtype=np.int32)
    step = max(1, TILE_ENTRIES // (k + 1))
    for start in range(0, num, step):
        listed = index[distinct.of[start : start + step]]
        others[start : start + step] = without_self(listed, np.arange(start, start + len(listed)))
    return others


def without_self(neighbours: IndexT, rows: npt.NDArray[np.integer[Any]]) -> IndexT:
    """Leave every row out of its own list of neighbours.

    Args:
        neighbours: [n, k + 1] rows of the bank, nearest first.
        rows: [n] the row of the bank that each list belongs to.

    Returns:
        [n, k]; a row that more than k duplicates keep out of its own list gives up the last of them instead.
    """
    drop = neighbours == rows[:, None]
    drop[~drop.any(axis=1), -1] = True
    others: IndexT = neighbours[~drop].reshape(len(neighbours), -1)
    return others


def shared_share(neighbours_a: npt.NDArray[np.integer[Any]], neighbours_b: npt.NDArray[np.integer[Any]]) -> float:
    """Mean share of neighbours that two lists have in common, mean_i |A_i n B_i| / k, in [0, 1].

    Called mutual kNN in Huh et al. 2024 (arXiv:2405.07987). Unrelated features score k / (n - 1) on average.

    Args:
        neighbours_a: [n, k] rows, none twice in a list.
        neighbours_b: [n, k] rows, none twice in a list.
    """
    if neighbours_a.shape != neighbours_b.shape:
        raise DataError(
            f"neighbour lists of shapes {neighbours_a.shape} and {neighbours_b.shape} cannot be compared; "
            "take the same images and the same k"
        )
    # A shared neighbour stands twice, side by side, in the sorted union of both lists.
    both = np.sort(np.concatenate([neighbours_a, neighbours_b], axis=1), axis=1)
    return float(np.count_nonzero(both[:, 1:] == both[:, :-1]) / neighbours_a.size)


def _check_search(queries: Floats, bank: Floats, k: int) -> None:
    if not 1 <= k <= len(bank):
        raise DataError(
            f"nearest neighbours: k={k} but the bank holds {len(bank)} images; choose 1 <= k <= {len(bank)}"
        )
    if queries.shape[1] != bank.shape[1]:
        raise DataError(
            f"nearest neighbours: queries are {queries.shape[1]} wide but the bank is {bank.shape[1]} wide; "
            "both must come from the same model"
        )


def _unit(features: Floats | Rows, name: str) -> npt.NDArray[np.float32]:
    """Scale rows [n, D] to unit length, in fp64 so that neither tiny nor huge rows lose their direction."""
    unit = np.empty(features.shape, dtype=np.float32)
    broken: list[int] = []
    step = max(1, UNIT_ENTRIES // max(1, features.shape[1]))
    for start in range(0, len(features), step):
        rows = features[start : start + step].astype(np.float64)
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        finite = np.isfinite(norm)
        broken += (start + np.flatnonzero(~finite)).tolist()
        # Adding zero turns -0.0 into 0.0: equal rows are then equal bytes.
        unit[start : start + step] = np.divide(rows, norm, out=np.zeros_like(rows), where=finite & (norm > 0)) + 0.0
    if broken:
        listed = ", ".join(map(str, broken[:10])) + (f" and {len(broken) - 10} more" if len(broken) > 10 else "")
        raise DataError(f"{name}: NaN or infinity in {len(broken)} of {len(features)} rows (row {listed})")
    return unit


def _distinct(unit: npt.NDArray[np.float32]) -> _Distinct:
    """Group equal rows, in order of first appearance; 16 bytes of hash a row tell them apart."""
    number: dict[bytes, int] = {}
    of = np.array([number.setdefault(blake2b(row, digest_size=16).digest(), len(number)) for row in unit], np.int64)
    members = np.argsort(of, kind="stable")
    size = np.bincount(of, minlength=len(number))
    start = np.cumsum(size) - size
    rows = unit if len(number) == len(unit) else unit[members[start]]
    return _Distinct(rows, of, members, start, size)


def _search(queries: npt.NDArray[np.float32], bank: _Distinct, k: int) -> tuple[Similarity, Index]:
    """Search unit queries [q, D] tile by tile, widening the search where a tie reaches over its end."""
    similarity = np.empty((len(queries), k), dtype=np.float32)
    index = np.empty((len(queries), k), dtype=np.int64)
    todo, width = np.arange(len(queries)), min(k + 1, len(bank.rows))
    while len(todo):
        undecided = []
        step = max(1, TILE_ENTRIES // width)
        for start in range(0, len(todo), step):
            rows = todo[start : start + step]
            found, column = _faiss_search(queries[rows], bank.rows, width)
            if width < len(bank.rows):
                decided = found[:, k - 1] > found[:, -1]
                undecided.append(rows[~decided])
                rows, found, column = rows[decided], found[decided], column[decided]
            similarity[rows], index[rows] = _listed(found, column, bank, k)
        todo, width = np.concatenate(undecided) if undecided else todo[:0], min(2 * width, len(bank.rows))
    return np.clip(similarity, -1.0, 1.0, out=similarity), index


def _listed(found: Similarity, column: Index, bank: _Distinct, k: int) -> tuple[Similarity, Index]:
    """Turn distinct rows [q, w] into bank rows [q, k]: every duplicate listed, ties by lowest row."""
    similarity, index = np.empty((len(found), k), np.float32), np.empty((len(found), k), np.int64)
    repeated = (bank.size[column] > 1).any(axis=1)
    tied = (found[:, 1:] == found[:, :-1]).any(axis=1)
    plain = ~(repeated | tied)
    if plain.any():
        similarity[plain], index[plain] = found[plain, :k], bank.members[bank.start[column[plain, :k]]]
    for row in np.flatnonzero(~plain):
        size = np.minimum(bank.size[column[row]], k)
        value, ends = np.repeat(found[row], size), np.cumsum(size)
        listed = bank.members[np.arange(ends[-1]) + np.repeat(bank.start[column[row]] - ends + size, size)]
        # Where runs of equal values begin and end: sorting these alone is far less work than sorting it all.
        edges = np.flatnonzero(np.diff(value[1:] == value[:-1], prepend=False, append=False))
        for first, last in edges.reshape(-1, 2):
            listed[first : last + 1].sort()
        similarity[row], index[row] = value[:k], listed[:k]
    return similarity, index


def _faiss_search(queries: npt.NDArray[np.float32], bank: npt.NDArray[np.float32], k: int) -> tuple[Similarity, Index]:
    """Inner-product search on a GPU where FAISS has one; asking for a GPU without one aborts the process."""
    import faiss

    if faiss.get_num_gpus() > 0 and k <= GPU_MAX_K:
        resources = faiss.StandardGpuResources()
        resources.setTempMemory(256 << 20)
        similarity, index = faiss.knn_gpu(
            resources, queries, bank, k, metric=faiss.METRIC_INNER_PRODUCT,
            vectorsMemoryLimit=4 << 30, queriesMemoryLimit=1 << 30,
        )  # fmt: skip
    else:
        similarity, index = faiss.knn(queries, bank, k, metric=faiss.METRIC_INNER_PRODUCT)
    return similarity, index
