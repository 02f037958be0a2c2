"""Exact search for the nearest rows by blocks, with whatever finds them in one block.

The order of neighbours is a fact of the features, not of the search: FAISS leaves the order of equal
similarities open (it depends on block sizes and threads), so rows that are equal bit for bit are searched
once and then listed by number. Rows that differ, yet agree in similarity to within fp32 rounding, come in the
order that fp32 gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ukd.unit_rows import Index, Unit, UnitRows

Similarity = npt.NDArray[np.float32]

GRID_ROWS = 1024
"""Banks are cut into whole tiles of so many rows, as FAISS's on CPU are, whose figures then stay as they are uncut."""


class Limits(NamedTuple):
    """What is held at once while searching."""

    listed: int
    """Entries of lists of neighbours, each a similarity and a number; what sorts them is thrice as much."""
    bank: int
    """Entries of unit rows of the bank."""
    queries: int
    """Queries that are searched for together."""


class Tile(NamedTuple):
    """Some of the distinct rows of a bank, one after another.

    Attributes:
        rows: [b, D] of unit length.
        size: [b] how many rows of the bank each stands for.
    """

    rows: Unit
    size: Index


class Found(NamedTuple):
    """What a search found.

    Attributes:
        similarity: [q, k] cosine similarity, best first; minus infinity where there is none left.
        rows: [q, k] rows of the bank; where there is none left any number, -1 in what `search` gives.
        num_too_near: [q] rows of the bank that were left out for being too near, repeats counted.
    """

    similarity: Similarity
    rows: Index
    num_too_near: Index


Find = Callable[[Unit, Tile, int], Found]
"""How the best k rows of a tile are found for unit queries [q, D], none of them zero; `rows` count from its first."""


def search(queries: UnitRows, wanted: Index, bank: UnitRows, k: int, find: Find, limits: Limits) -> Found:
    """Find the k best bank rows for some distinct queries, widening the search where a tie reaches over its end.

    Args:
        queries: Where the queries are.
        wanted: [q] which of them.
        bank: What is searched.
        k: Rows per query, repeats counted.
        find: What searches a tile of the bank.
        limits: What is held at once, beside what is returned.

    Returns:
        Rows of the bank before repeats were taken out, ties by lowest row.
    """
    shape = len(wanted), k
    found = Found(np.zeros(shape, np.float32), np.empty(shape, np.int64), np.zeros(len(wanted), np.int64))
    is_zero = queries.zero[wanted]
    found.rows[is_zero] = np.arange(k)  # A tie of the whole bank, whose lowest rows are these.
    todo, width = np.flatnonzero(~is_zero), min(k + 1, len(bank))
    while len(todo):
        undecided = []
        step = max(1, limits.listed // max(width, bank.shape[1]))
        for start in range(0, len(todo), step):
            asked = todo[start : start + step]
            best = _best(queries[wanted[asked]], bank, width, find, limits)
            found.num_too_near[asked] = best.num_too_near
            if width < len(bank):
                last = best.similarity[:, -1]
                decided = (best.similarity[:, k - 1] > last) | (last == -np.inf)
                undecided.append(asked[~decided])
                asked, best = asked[decided], Found(*(each[decided] for each in best))
            found.similarity[asked], found.rows[asked] = _listed(best.similarity, best.rows, bank, k)
        todo, width = np.concatenate(undecided) if undecided else todo[:0], min(2 * width, len(bank))
    np.clip(found.similarity, -1.0, 1.0, out=found.similarity, where=found.rows >= 0)
    return found


def _best(queries: Unit, bank: UnitRows, width: int, find: Find, limits: Limits) -> Found:
    """The best `width` distinct rows of a bank, of which only a tile is in memory at a time."""
    blocks = [queries[first : first + limits.queries] for first in range(0, len(queries), limits.queries)]
    best: list[Found] = []
    step = max(1, limits.bank // (bank.shape[1] * GRID_ROWS)) * GRID_ROWS
    for start in range(0, len(bank), step):
        parts = _best_of_tile(blocks, bank, slice(start, start + step), width, find)
        best = [_best_of(*pair, width) for pair in zip(best, parts, strict=True)] if best else parts
    return Found(*(np.concatenate(each) for each in zip(*best, strict=True)))


def _best_of_tile(blocks: Sequence[Unit], bank: UnitRows, rows: slice, width: int, find: Find) -> list[Found]:
    """What blocks of queries find in a tile of the bank, which is gone before the next is made."""
    tile = Tile(bank[rows], bank.size[rows])
    parts = [find(block, tile, min(width, len(tile.rows))) for block in blocks]
    return [part._replace(rows=part.rows + rows.start) for part in parts]


def _best_of(one: Found, other: Found, width: int) -> Found:
    similarity = np.concatenate([one.similarity, other.similarity], axis=1)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :width]
    rows = np.concatenate([one.rows, other.rows], axis=1)
    similarity, rows = np.take_along_axis(similarity, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return Found(similarity, rows, one.num_too_near + other.num_too_near)


def _listed(found: Similarity, column: Index, bank: UnitRows, k: int) -> tuple[Similarity, Index]:
    """Turn distinct rows [q, w] into bank rows [q, k]: every duplicate listed, ties by lowest row."""
    similarity, index = np.full((len(found), k), -np.inf, np.float32), np.full((len(found), k), -1)
    repeated = (bank.size[column] > 1).any(axis=1)
    tied = (found[:, 1:] == found[:, :-1]).any(axis=1)
    plain = ~(repeated | tied | (found[:, -1] == -np.inf))
    if plain.any():
        similarity[plain], index[plain] = found[plain, :k], bank.members[bank.start[column[plain, :k]]]
    for row in np.flatnonzero(~plain):
        some = column[row, found[row] > -np.inf]
        size = np.minimum(bank.size[some], k)
        value, ends = np.repeat(found[row, : len(some)], size), np.cumsum(size)
        listed = bank.members[np.arange(len(value)) + np.repeat(bank.start[some] - ends + size, size)]
        # Where runs of equal values begin and end: sorting these alone is far less work than sorting it all.
        edges = np.flatnonzero(np.diff(value[1:] == value[:-1], prepend=False, append=False))
        for first, last in edges.reshape(-1, 2):
            listed[first : last + 1].sort()
        similarity[row, : len(listed)], index[row, : len(listed)] = value[:k], listed[:k]
    return similarity, index
