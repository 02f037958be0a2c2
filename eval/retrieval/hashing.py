"""Retrieval by Hamming distance between short codes. Pure functions of arrays.

Hashing papers call three different figures mAP@k. They differ in what the sum of precisions among the first k is
divided by: the right answers retrieved there (the code of HashNet, Cao et al. 2017, arXiv:1702.00758, and of BRCD, He
et al. 2024, hly1998/BRCD:utils/evaluation.py), as many as could be, or all. All three are given, each by its name, in
expectation over the orders of equal distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.presets import NamedPreset
from ukd.eval.retrieval.figures import Figures, averaged
from ukd.eval.retrieval.ties import Histogram, TiedValues, expected_at
from ukd.neighbours import Floats

Codes = npt.NDArray[np.uint8]

TILE_ENTRIES = 2**24
"""Distances held at once."""


@dataclass(frozen=True)
class Preset(NamedPreset):
    """How long the lists are, and what makes codes of features.

    Attributes:
        ks: Numbers of images; papers take 1000 for CIFAR-10 and ImageNet-100, 5000 for NUS-WIDE and MS-COCO.
        coder: `sign`, a bit a dimension, `SignCoder`; `head`, the bits of the run's own hash head, `HeadCoder`.
    """

    ks: tuple[int, ...]
    coder: str = "sign"


PRESETS = {preset.name: preset for preset in (Preset("hashing", (1000,)), Preset("hashing-5000", (5000,)))}


class Coder(Protocol):
    """Makes codes of features: a hash head, or what stands in for one."""

    bits: int

    def codes(self, features: Floats) -> Codes:
        """Turn features [n, D] into codes [n, ceil(bits / 8)], eight bits a byte, the last one filled up with zeros."""


class SignCoder:
    """The coder of a model without a hash head: one bit a dimension, whether it exceeds its mean.

    Args:
        features: [n, D], of the database; their mean is what dimensions are compared with.
    """

    def __init__(self, features: Floats) -> None:
        self._mean = features.mean(axis=0, dtype=np.float64)
        self.bits = features.shape[1]

    def codes(self, features: Floats) -> Codes:
        """Turn features [n, D] into codes of D bits; a dimension at its mean gives 0."""
        return np.packbits(features > self._mean, axis=1)


class HeadCoder:
    """The coder of features that come out of a hash head: a bit is 1 where a number is at least 0.

    Args:
        bits: Width of the features.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def codes(self, features: Floats) -> Codes:
        """Turn features [n, bits] into their codes."""
        return np.packbits(features >= 0, axis=1)


def evaluate(
    queries: Codes,
    query_labels: Labels,
    database: Codes,
    database_labels: Labels,
    preset: Preset,
    *,
    seed: int = 0,
) -> Figures:
    """Rank the database by Hamming distance to every query and see where its class is.

    Queries without a right answer count 0, as in the papers. A k above the database is left out with a warning.

    Args:
        queries: [q, B] packed bits.
        query_labels: [q] any integers.
        database: [n, B].
        database_labels: [n] any integers.
        preset: How long the lists are.
        seed: Seed of the bootstrap intervals.

    Returns:
        For each k `map_at_k_over_retrieved`, `map_at_k_over_min_r_k`, `map_at_k_over_all` and `precision_at_k`.

    Raises:
        DataError: Codes of different lengths, a label too few or too many, or every k exceeds the database.
    """
    for name, codes, labels in (("queries", queries, query_labels), ("database", database, database_labels)):
        if not len(codes) or len(codes) != len(labels):
            raise DataError(f"retrieval: {name}: {len(codes)} codes with {len(labels)} labels; each needs one")
    if queries.shape[1] != database.shape[1]:
        raise DataError(f"retrieval: codes of {queries.shape[1]} bytes cannot find codes of {database.shape[1]}")
    ks = [k for k in preset.ks if k <= len(database)]
    if not ks:
        raise DataError(
            f"retrieval: k={min(preset.ks)} but the database holds {len(database)} images; choose k <= {len(database)}"
        )
    images, relevant = histograms(queries, query_labels, database, database_labels)
    values = {name: each for k in ks for name, each in _named(expected_at(images, relevant, k), k)}
    warnings = [f"k={k} left out: the database holds {len(database)} images" for k in preset.ks if k not in ks]
    lost = int((relevant.sum(axis=1) == 0).sum())
    if lost:
        warnings.append(f"{lost} of {len(queries)} queries are of classes the database lacks: they count 0")
    return Figures(averaged(values, seed), tuple(warnings))


def hamming(queries: Codes, database: Codes) -> npt.NDArray[np.int64]:
    """Count the bits in which queries [q, B] and codes of the database [n, B] differ, [q, n]."""
    distance = np.zeros((len(queries), len(database)), dtype=np.int64)
    for ours, theirs in zip(_words(queries), _words(database), strict=True):
        distance += np.bitwise_count(ours[:, None] ^ theirs)
    return distance


def histograms(
    queries: Codes, query_labels: Labels, database: Codes, database_labels: Labels
) -> tuple[Histogram, Histogram]:
    """Count how many images are at each distance from each query, and how many of them are of its class.

    Which images those are plays no part in figures that are averaged over the order of ties, so nothing is sorted.

    Returns:
        All images and right answers, int64 [q, 8 B + 1] each.
    """
    width = 8 * queries.shape[1] + 1
    shape = (len(queries), width)
    images, relevant = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
    step = max(1, TILE_ENTRIES // len(database))
    for start in range(0, len(queries), step):
        tile = slice(start, start + step)
        cells = hamming(queries[tile], database)
        cells += width * np.arange(len(cells))[:, None]
        right = query_labels[tile, None] == database_labels
        for counts, chosen in ((images, cells.ravel()), (relevant, cells[right])):
            counts[tile] = np.bincount(chosen, minlength=len(cells) * width).reshape(-1, width)
    return images, relevant


def _words(codes: Codes) -> Iterator[npt.NDArray[np.uint64]]:
    """Cut codes [n, B] into columns [n] of eight bytes."""
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8)))
    yield from np.ascontiguousarray(padded).view(np.uint64).T


def _named(values: TiedValues, k: int) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    for name in ("over_retrieved", "over_min_r_k", "over_all"):
        yield f"map_at_{k}_{name}", getattr(values, name)
    yield f"precision_at_{k}", values.precision
