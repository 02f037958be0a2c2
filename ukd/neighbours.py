"""Exact cosine nearest neighbours. The only file that knows FAISS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from ukd.blocks import Rows
from ukd.errors import DataError
from ukd.search import Found, Limits, Tile, search
from ukd.search import Similarity as Similarity
from ukd.unit_rows import Floats as Floats
from ukd.unit_rows import Index as Index
from ukd.unit_rows import Unit, UnitRows

IndexT = TypeVar("IndexT", npt.NDArray[np.int32], npt.NDArray[np.int64])

CPU_LIMITS = Limits(listed=2**22, bank=3 * 2**22, queries=1024)
GPU_LIMITS = Limits(listed=2**24, bank=2**28, queries=2**20)
"""Every tile of the bank has to be sent to a GPU, and all queries with each: few and large ones cost least."""
GPU_MAX_K = 2048
"""FAISS's own limit of `knn_gpu`."""
KMEANS_STEPS = 25
"""Steps of k-means, FAISS's own default."""
_gpu: int | None = -1
"""Number of the GPU that FAISS searches on if it has any; -1 is its own choice, None is none."""


def search_on(device: torch.device) -> None:
    """Let FAISS search, from now on, where the process computes: on no GPU if that is a CPU."""
    global _gpu
    _gpu = (device.index or 0) if device.type == "cuda" else None


def backend() -> str:
    """Name, version and device of the search engine, for example `faiss 1.15.1 cpu`."""
    import faiss

    return f"faiss {faiss.__version__} {'gpu' if _has_gpu() else 'cpu'}"


def limits() -> Limits:
    """What a search holds at once where FAISS searches."""
    return GPU_LIMITS if _has_gpu() else CPU_LIMITS


def _has_gpu() -> bool:
    import faiss

    return _gpu is not None and faiss.get_num_gpus() > 0


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
    unit = UnitRows(queries, "queries")
    found = search(unit, np.arange(len(unit)), UnitRows(bank, "bank"), k, faiss_search, limits())
    if unit.distinct:
        return found.similarity, found.rows
    return found.similarity[unit.of], found.rows[unit.of]


def nearest_by_block(queries: Floats, bank: Floats, k: int) -> Iterator[tuple[slice, Similarity, Index]]:
    """Search as `nearest`, some queries at a time, where all their lists together would not fit into memory.

    Yields:
        Which queries [b], their similarities [b, k] and rows [b, k]: a tile of each, or one query's.
    """
    _check_search(queries, bank, k)
    unit, unit_bank = UnitRows(queries, "queries"), UnitRows(bank, "bank")
    for start in range(0, len(queries), step := max(1, limits().listed // k)):
        block = slice(start, min(start + step, len(queries)))
        wanted, place = np.unique(unit.of[block], return_inverse=True)
        found = search(unit, wanted, unit_bank, k, faiss_search, limits())
        yield block, found.similarity[place], found.rows[place]


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
    check_others(len(features), k)
    unit = UnitRows(features, "features")
    listed = np.empty((len(unit), k + 1), dtype=np.int32)
    for start in range(0, len(unit), step := max(1, limits().listed // (k + 1))):
        wanted = np.arange(start, min(start + step, len(unit)))
        listed[wanted] = search(unit, wanted, unit, k + 1, faiss_search, limits()).rows
    return others_of(listed, unit)


def check_others(num: int, k: int) -> None:
    """Refuses lists longer than there are other images.

    Raises:
        DataError: k is outside 1..num-1.
    """
    if not 1 <= k < num:
        raise DataError(
            f"nearest neighbours: k={k} but each of the {num} images has {num - 1} others; choose 1 <= k <= {num - 1}"
        )


def others_of(listed: npt.NDArray[np.int32], unit: UnitRows) -> npt.NDArray[np.int32]:
    """Turns the nearest rows [m, k + 1] of each distinct row into every row's nearest others [n, k]."""
    num, width = len(unit.of), listed.shape[1]
    others = np.empty((num, width - 1), dtype=np.int32)
    for start in range(0, num, step := max(1, limits().listed // width)):
        rows = np.arange(start, min(start + step, num))
        others[rows] = without_self(listed[unit.of[rows]], rows)
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


def k_means(rows: Floats, num: int, *, spherical: bool, seed: int) -> Unit:
    """Centres of k-means, begun by k-means++ (Arthur & Vassilvitskii, SODA 2007); the same for the same rows and seed.

    Args:
        rows: [n, D], n >= num.
        num: How many centres.
        spherical: Rows are of unit length, and so are the centres: k-means by cosine (Dhillon & Modha, 2001).
        seed: At least 0.

    Returns:
        fp32 [num, D].
    """
    import faiss

    found = faiss.Kmeans(
        rows.shape[1], num, niter=KMEANS_STEPS, spherical=spherical, seed=seed % 2**31,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        min_points_per_centroid=1, max_points_per_centroid=len(rows),
    )  # fmt: skip
    found.train(rows.astype(np.float32, copy=False))
    return np.asarray(found.centroids, dtype=np.float32)


def faiss_search(queries: Unit, tile: Tile, k: int) -> Found:
    """Inner-product search on a GPU where FAISS has one; asking for a GPU without one aborts the process."""
    import faiss

    if _gpu is not None and _has_gpu() and k <= GPU_MAX_K:
        resources = faiss.StandardGpuResources()
        resources.setTempMemory(256 << 20)
        similarity, index = faiss.knn_gpu(
            resources, queries, tile.rows, k, metric=faiss.METRIC_INNER_PRODUCT, device=_gpu,
            vectorsMemoryLimit=4 << 30, queriesMemoryLimit=1 << 30,
        )  # fmt: skip
    else:
        similarity, index = faiss.knn(queries, tile.rows, k, metric=faiss.METRIC_INNER_PRODUCT)
    return Found(similarity, index, np.zeros(len(queries), dtype=np.int64))
