"""Votes of neighbours over classes, and where each query's own class comes out. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ukd.data import Labels
from ukd.neighbours import Floats

Scores = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

TILE_ENTRIES = 2**23
"""Class scores held at once while voting."""
NO_CLASS = -1


def weighted_vote(similarity: Floats, labels: Labels, num_classes: int, temp: float) -> Scores:
    """Score classes by sum_j exp((s_j - max_j s_j) / temp) over the neighbours j of each class.

    Taking the maximum off scales all its scores alike: no ranking changes and no temperature overflows.

    Args:
        similarity: [q, k] cosine or product s, best first.
        labels: [q, k] classes of the neighbours, 0 to num_classes - 1.
        num_classes: width of the scores.
        temp: temperature, > 0.

    Returns:
        Scores [q, num_classes] >= 0; a class without a neighbour has 0.
    """
    return _sum_by_class(_weights(similarity, temp), labels, num_classes)


def majority_vote(labels: Labels, num_classes: int) -> Scores:
    """Count the neighbours of each class: labels [q, k] to counts [q, num_classes]."""
    return _sum_by_class(np.ones(labels.shape), labels, num_classes)


def rank_of(targets: Labels, scores: Scores) -> Ranks:
    """Count the classes placed before each target class; ties go to the lowest class, as argmax has it.

    Args:
        targets: [q] class numbers, or -1 for a class that cannot be voted for.
        scores: [q, C].

    Returns:
        Ranks [q], 0 for the predicted class; at least 5 where the target has no vote at all, so that top-5
        counts only classes among the neighbours.
    """
    own = np.take_along_axis(scores, np.maximum(targets, 0)[:, None], axis=1)
    before = np.arange(scores.shape[1]) < targets[:, None]
    ranks: Ranks = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    ranks[(targets == NO_CLASS) | (own[:, 0] <= 0)] = max(scores.shape[1], 5)
    return ranks


def target_ranks(
    similarity: Floats,
    labels: Labels,
    targets: Labels,
    num_classes: int,
    ks: Sequence[int],
    temp: float | None,
) -> dict[int, Ranks]:
    """Rank each query's own class in the vote of its first k neighbours, for every k, in one pass.

    Args:
        similarity: [q, K] cosine or product, best first.
        labels: [q, K] class numbers of the neighbours.
        targets: [q] class numbers of the queries, -1 for one that no neighbour can have.
        num_classes: classes of the bank.
        ks: numbers of neighbours, each <= K.
        temp: temperature of the weighted vote; None for a majority.

    Returns:
        k to ranks [q], as `rank_of` gives them.
    """
    ranks = {k: np.empty(len(labels), dtype=np.int64) for k in ks}
    for tile in _tiles(len(labels), max(num_classes, labels.shape[1])):
        weight = np.ones(labels[tile].shape) if temp is None else _weights(similarity[tile], temp)
        scores, done = np.zeros((len(weight), num_classes)), 0
        for k in sorted(ks):
            scores += _sum_by_class(weight[:, done:k], labels[tile, done:k], num_classes)
            ranks[k][tile] = rank_of(targets[tile], scores)
            done = k
    return ranks


def _weights(similarity: Floats, temp: float) -> Scores:
    wide = similarity.astype(np.float64)
    return np.exp((wide - wide[:, :1]) / temp)


def _sum_by_class(weights: Scores, labels: Labels, num_classes: int) -> Scores:
    """Add weights [q, k] up by label into [q, C]; the cells in between are never one-hot."""
    cells = labels + num_classes * np.arange(len(labels))[:, None]
    sums = np.bincount(cells.ravel(), weights.ravel(), minlength=len(labels) * num_classes)
    return sums.reshape(len(labels), num_classes).astype(np.float64, copy=False)


def _tiles(num: int, width: int) -> Iterator[slice]:
    step = max(1, TILE_ENTRIES // width)
    return (slice(start, start + step) for start in range(0, num, step))
