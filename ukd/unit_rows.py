"""Features scaled to unit length, without repeats: what cosine similarity is computed from."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from ukd.blocks import Rows
from ukd.errors import DataError

Floats = npt.NDArray[np.floating[Any]]
Index = npt.NDArray[np.int64]
Unit = npt.NDArray[np.float32]

UNIT_ENTRIES = 2**20
"""Entries of rows held in fp64 at once while their lengths are taken off."""
KEPT_BYTES = 2**31
"""Unit rows of at most this size stay in memory; those of more are made anew whenever they are asked for."""
DIGEST_BYTES = 16
"""Bytes of hash that tell rows apart."""


class UnitRows:
    """Distinct unit rows, numbered by first appearance.

    Args:
        features: [n, D], any scale, in memory or on disk.
        name: What an error calls them.

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
        num_rows, dim = features.shape
        self._features = features
        self._length = np.empty((num_rows, 1))
        is_kept = 4 * num_rows * dim <= KEPT_BYTES
        kept = np.empty((num_rows if is_kept else 0, dim), dtype=np.float32)
        digests = np.empty((num_rows, DIGEST_BYTES), dtype=np.uint8)
        for start in range(0, num_rows, step := _rows_at_once(dim)):
            block = slice(start, start + step)
            rows = features[block].astype(np.float64)
            self._length[block] = np.linalg.norm(rows, axis=1, keepdims=True)
            unit = _scaled(rows, self._length[block])
            digest = b"".join(blake2b(row, digest_size=DIGEST_BYTES).digest() for row in unit)
            digests[block] = np.frombuffer(digest, dtype=np.uint8).reshape(-1, DIGEST_BYTES)
            if is_kept:
                kept[block] = unit
        _refuse_broken(self._length[:, 0], name)
        self.of = _numbered(digests)
        self.members = np.argsort(self.of, kind="stable")
        self.size = np.bincount(self.of)
        self.start = np.cumsum(self.size) - self.size
        self.shape = (len(self.size), dim)
        self._first = self.members[self.start]
        self._kept = (kept if len(self) == num_rows else kept[self._first]) if is_kept else None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Index) -> Unit:
        """Distinct rows by number, fp32 [b, D]; a zero row stays zero."""
        if self._kept is not None:
            return self._kept[rows]
        number = self._first[rows]
        unit = np.empty((len(number), self.shape[1]), dtype=np.float32)
        for start in range(0, len(number), step := _rows_at_once(self.shape[1])):
            some = number[start : start + step]
            unit[start : start + step] = _scaled(self._features[some].astype(np.float64), self._length[some])
        return unit


def _rows_at_once(dim: int) -> int:
    return max(1, UNIT_ENTRIES // max(1, dim))


def _scaled(rows: npt.NDArray[np.float64], length: npt.NDArray[np.float64]) -> Unit:
    """Rows over their length, in fp64 so that neither tiny nor huge ones lose their direction."""
    unit = np.divide(rows, length, out=np.zeros_like(rows), where=np.isfinite(length) & (length > 0))
    # Adding zero turns -0.0 into 0.0: equal rows are then equal bytes.
    return (unit + 0.0).astype(np.float32) + np.float32(0)


def _numbered(digests: npt.NDArray[np.uint8]) -> Index:
    """Numbers of equal digests [n, DIGEST_BYTES], by first appearance."""
    _, first, of = np.unique(digests.view(f"V{DIGEST_BYTES}")[:, 0], return_index=True, return_inverse=True)
    by_appearance = np.empty(len(first), dtype=np.int64)
    by_appearance[np.argsort(first)] = np.arange(len(first))
    return by_appearance[of]


def _refuse_broken(length: npt.NDArray[np.float64], name: str) -> None:
    broken = np.flatnonzero(~np.isfinite(length)).tolist()
    if broken:
        listed = ", ".join(map(str, broken[:10])) + (f" and {len(broken) - 10} more" if len(broken) > 10 else "")
        raise DataError(f"{name}: NaN or infinity in {len(broken)} of {len(length)} rows (row {listed})")
