"""What there is in a bank: clusters of images that the teacher holds to be alike, and near-copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ukd.blocks import Rows
from ukd.errors import UserError
from ukd.neighbours import faiss_search, k_means, limits
from ukd.row_blocks import RowBlocks
from ukd.search import search
from ukd.similarity import normalised
from ukd.unit_rows import UnitRows

ROWS_PER_CENTRE = 256
"""Rows a cluster, on average, that centres are computed from; FAISS's own default."""
SAMPLE_BYTES = 2**31
"""Bytes of such rows at most, unless there are more clusters."""
BLOCK_ENTRIES = 2**28
"""Entries of unit rows that are held at once while pairs are looked for, twice."""
TILE_ROWS = 128
"""Queries whose similarities to a block are held at once."""


class Clusters(NamedTuple):
    """Spherical clusters of n rows.

    Attributes:
        of: int32 [n], each row's cluster.
        cosine: fp32 [n], its similarity to the cluster's centre.
        centres: fp32 [num, D], of unit length.
    """

    of: npt.NDArray[np.int32]
    cosine: npt.NDArray[np.float32]
    centres: npt.NDArray[np.float32]


class Pair(NamedTuple):
    """Two rows that are nearly the same; the first comes first."""

    first: int
    second: int
    cosine: float


def spherical_clusters(features: Rows, num: int, seed: int) -> Clusters:
    """Clusters rows by cosine similarity: k-means on a sample of them, then every row to its nearest centre.

    Args:
        features: [n, D], any scale.
        num: Clusters, at most n; some may stay empty.
        seed: Of the sample and of the first centres.

    Raises:
        DataError: A row holds NaN or infinity.
        UserError: More clusters than rows.
    """
    num_rows = len(features)
    if not 1 <= num <= num_rows:
        raise UserError(f"clusters: {num} cannot be made of {num_rows} images; choose a number from 1 to {num_rows}")
    unit = UnitRows(features, "features")
    rng = np.random.Generator(np.random.Philox(key=seed))
    size = max(num, min(num_rows, ROWS_PER_CENTRE * num, SAMPLE_BYTES // (4 * unit.shape[1])))
    sample = np.sort(rng.choice(num_rows, size, replace=False))
    rows = torch.cat([*RowBlocks(features[sample]).changed(normalised)]).numpy()
    centres = k_means(rows, num, spherical=True, seed=seed)
    found = search(unit, np.arange(len(unit)), UnitRows(centres, "centres"), 1, faiss_search, limits())
    return Clusters(found.rows[unit.of, 0].astype(np.int32), found.similarity[unit.of, 0], centres)


def near_copies(features: Rows, min_cosine: float, device: torch.device) -> Iterator[Pair]:
    """Finds all pairs of rows whose cosine similarity exceeds a limit, without holding more than tiles of them.

    Of rows that are equal bit for bit, each is paired with the first of them, and that one alone with other rows.

    Args:
        features: [n, D], any scale; rows of zeros are near to nothing but one another.
        min_cosine: The limit.
        device: Where to compute.

    Raises:
        DataError: A row holds NaN or infinity.
    """
    unit = UnitRows(features, "features")
    first = unit.members[unit.start]
    for row in np.flatnonzero(first[unit.of] != np.arange(len(unit.of))):
        yield Pair(int(first[unit.of[row]]), int(row), 1.0)
    step = max(1, BLOCK_ENTRIES // unit.shape[1])
    for start in range(0, len(unit), step):
        queries = torch.from_numpy(unit[start : start + step]).to(device)
        for other in range(start, len(unit), step):
            rows = queries if other == start else torch.from_numpy(unit[other : other + step]).to(device)
            for place in range(0, len(queries), TILE_ROWS):
                similarity = queries[place : place + TILE_ROWS] @ rows.T
                near = (similarity > min_cosine).triu(start + place - other + 1)
                pairs = near.nonzero().cpu().numpy() + np.array([start + place, other])
                for (a, b), cosine in zip(first[pairs].tolist(), similarity[near].tolist(), strict=True):
                    yield Pair(a, b, min(cosine, 1.0))
