"""What every kind of retrieval gives, and how it ranks: means over queries with their intervals, from exact search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ukd.eval.intervals import Share, bootstrap_mean
from ukd.eval.retrieval.metrics import Relevance, Values
from ukd.neighbours import Floats, Index, nearest_by_block, without_self


@dataclass(frozen=True)
class Figures:
    """The figures of one model.

    Attributes:
        shares: Means over queries by name, each in [0, 1].
        warnings: What a reader must know.
    """

    shares: Mapping[str, Share]
    warnings: tuple[str, ...] = ()


def averaged(values: Mapping[str, Values], seed: int) -> dict[str, Share]:
    """Average values of queries [q], none of them empty, with their intervals."""
    return {name: bootstrap_mean(each, seed) for name, each in values.items()}


def ranked(queries: Floats, database: Floats, depth: int, *, own: bool = False) -> Iterator[tuple[slice, Index]]:
    """List the images of the database nearest to every query by cosine, some queries at a time.

    Exact; ties go to the lowest number, and similarities are compared as fp32 has them, nothing rounded further.

    Args:
        queries: [q, D].
        database: [n, D].
        depth: Length of the lists, at most n, or n - 1 with `own`.
        own: Query i shows image i of the database, which its list leaves out.

    Yields:
        Which queries [b], and their lists [b, depth].

    Raises:
        DataError: A row holds NaN or infinity, or the widths differ.
    """
    for block, _, index in nearest_by_block(queries, database, depth + own):
        yield block, without_self(index, np.arange(block.start, block.stop)) if own else index


def found_in(lists: Sequence[Index], index: Index) -> Relevance:
    """Say of ranked images [q, d] whether they are in the query's own list of images."""
    stride = 1 + max(index.max(), *(listed.max(initial=0) for listed in lists))
    keys = np.concatenate([row * stride + listed for row, listed in enumerate(lists)])
    return np.isin(index + stride * np.arange(len(index))[:, None], keys)
