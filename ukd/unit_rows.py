"""Features as directions: rows of unit length without repeats, made anew from the features whenever they are read.

A copy of a bank of a million features would take as much memory as the bank. What is kept is a length and some numbers
a row, 56 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ukd.blocks import Rows
from ukd.errors import DataError

Floats = npt.NDArray[np.floating[Any]]
Index = npt.NDArray[np.int64]
Unit = npt.NDArray[np.float32]

UNIT_ENTRIES = 2**18
"""Entries of rows held in fp64 at once while their lengths are taken off."""


class UnitRows:
    """The distinct directions among features [n, D], numbered by first appearance; of zero rows, zero is one.

    Args:
        features: [n, D], any scale.
        name: What a message calls them.

    Attributes:
        shape: (m, D), m of the n rows being distinct.
        of: [n] distinct row of each row.
        members: [n] row numbers, those of distinct row 0 first; ascending within each distinct row.
        start: [m] where the members of each distinct row begin.
        size: [m] how many rows each distinct row stands for.

    Raises:
        DataError: A row holds NaN or infinity.
    """

    def __init__(self, features: Floats | Rows, name: str) -> None:
        self._features = features
        num_rows, width = features.shape
        self._norm = np.empty(num_rows)
        # Multilinear hashes modulo 2^64: the odds that two different rows share both are below 2^-64
        # (Lemire & Kaser 2014, arXiv:1202.4961, section 3), and equal rows do, whatever tiles they lie in.
        factors = np.random.default_rng(0).integers(2**64, size=(width, 2), dtype=np.uint64)
        digest = np.empty((num_rows, 2), np.uint64)
        for rows in _tiles(num_rows, width):
            read = features[rows].astype(np.float64)
            self._norm[rows] = np.linalg.norm(read, axis=1)
            digest[rows] = _unit(read, self._norm[rows]).view(np.uint32).astype(np.uint64) @ factors
        self._refuse_broken(name)
        self.of = _first_appearances(digest)
        self.members = np.argsort(self.of, kind="stable")
        self.size = np.bincount(self.of)
        self.start = np.cumsum(self.size) - self.size
        self.shape = (len(self.size), width)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def distinct(self) -> bool:
        """Whether no row repeats another, so that every row has its own number."""
        return len(self) == len(self.of)

    @property
    def zero(self) -> npt.NDArray[np.bool_]:
        """Whether a distinct row [m] is zero."""
        found: npt.NDArray[np.bool_] = self._norm[self.members[self.start]] == 0
        return found

    def __getitem__(self, numbers: slice | Index) -> Unit:
        """Distinct rows by number, fp32 [r, D] of length 1, or 0."""
        source = self.members[self.start[numbers]]
        unit = np.empty((len(source), self.shape[1]), np.float32)
        for rows in _tiles(*unit.shape):
            read = self._features[source[rows]].astype(np.float64)
            unit[rows] = _unit(read, self._norm[source[rows]])
        return unit

    def _refuse_broken(self, name: str) -> None:
        broken = np.flatnonzero(~np.isfinite(self._norm))
        if len(broken):
            listed = ", ".join(map(str, broken[:10])) + (f" and {len(broken) - 10} more" if len(broken) > 10 else "")
            raise DataError(f"{name}: NaN or infinity in {len(broken)} of {len(self._norm)} rows (row {listed})")


def _tiles(num_rows: int, width: int) -> Iterator[slice]:
    step = max(1, UNIT_ENTRIES // max(1, width))
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))


def _unit(rows: npt.NDArray[np.float64], norm: npt.NDArray[np.float64]) -> Unit:
    """Take their lengths off rows [r, D], in fp64 so that neither tiny nor huge ones lose their direction."""
    usable = np.isfinite(norm) & (norm > 0)
    # Adding zero turns -0.0 into 0.0: equal rows are then equal bytes.
    with np.errstate(invalid="ignore"):
        unit: Unit = (rows / np.where(usable, norm, np.inf)[:, None]).astype(np.float32) + np.float32(0)
    return unit


def _first_appearances(digest: npt.NDArray[np.uint64]) -> Index:
    """Number equal digests [n, 2] alike, in the order in which they appear first: [n]."""
    order = np.lexsort((digest[:, 1], digest[:, 0]))  # Stable: of equal ones, the first appears first.
    begins = np.append(True, (digest[order[1:]] != digest[order[:-1]]).any(axis=1))
    if begins.all():
        return np.arange(len(digest))
    first = order[begins]
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    of = np.empty(len(digest), np.int64)
    of[order] = number[np.cumsum(begins) - 1]
    return of
