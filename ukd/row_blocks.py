"""Rows of a whole data set, of which a block at a time is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

ROWS_AT_ONCE = 2**14
"""Rows of a block."""


class Sliceable(Protocol):
    """Rows [n, D] in memory or on disk: a tensor, an array, or a store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Some rows, [b, D], a tensor or an array."""


class RowBlocks:
    """Rows [n, D], block by block, as often as they are iterated over.

    Args:
        rows: Where they are.
        change: What becomes of each block [b, D] before it is used; rows stay rows.
    """

    def __init__(self, rows: Sliceable, change: Callable[[Tensor], Tensor] = lambda block: block) -> None:
        self._rows = rows
        self._change = change

    def __len__(self) -> int:
        return self._rows.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield self._change(torch.as_tensor(self._rows[start : start + ROWS_AT_ONCE]))

    def changed(self, change: Callable[[Tensor], Tensor]) -> RowBlocks:
        """The same rows, changed once more."""
        return RowBlocks(self._rows, lambda block: change(self._change(block)))
