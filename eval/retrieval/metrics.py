"""Figures of ranked lists, one value a query. Pure functions of arrays.

"Mean average precision" names at least five figures, so none is called that here. Means over queries of `step_ap`
over the whole list are `map_full`, over the first k `map_at_k` with their denominator named, over the first R (the
number of right answers) `map_at_r`; those of `trapezoidal_ap` are `map_trapz`.

Every function takes
    relevance: bool [q, d], whether the images of a list are right answers, nearest first;
    num_relevant: [q], how many right answers the database holds, found or not, at least 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Relevance = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.integer[Any]]
Values = npt.NDArray[np.float64]


def first(relevance: Relevance, depth: int | Counts) -> Relevance:
    """Forget all right answers beyond the first `depth` images, one number or one for each query [q]."""
    places = np.arange(relevance.shape[1])
    kept: Relevance = relevance & (places < np.reshape(depth, (-1, 1)))
    return kept


def without(relevance: Relevance, junk: Relevance) -> Relevance:
    """Take junk [q, d] out of the lists; what follows it moves up, and the ends are filled with wrong answers."""
    order = np.argsort(junk, axis=1, kind="stable")
    return np.take_along_axis(relevance & ~junk, order, axis=1)


def hit(relevance: Relevance, k: int) -> Values:
    """Say whether any of the first k images is right [q]; its mean is R@k of metric learning, no share of answers."""
    found: Values = np.asarray(relevance[:, :k].any(axis=1), dtype=np.float64)
    return found


def r_precision(relevance: Relevance, num_relevant: Counts) -> Values:
    """Share of right answers among the first R images [q], R their number."""
    found: Values = first(relevance, num_relevant).sum(axis=1) / num_relevant
    return found


def step_ap(relevance: Relevance, denominator: Counts) -> Values:
    """Average precision [q] as a step function: sum over right answers j of the precision there, hits_j / place_j.

    Args:
        relevance: As above; cut it with `first` for AP@k or AP@R.
        denominator: [q], what the sum is divided by: num_relevant, min(num_relevant, k) or the hits in the list.
    """
    places = np.arange(1, relevance.shape[1] + 1)
    precision = np.cumsum(relevance, axis=1) / places
    summed: Values = np.where(relevance, precision, 0.0).sum(axis=1)
    return summed / denominator


def trapezoidal_ap(relevance: Relevance, num_relevant: Counts) -> Values:
    """Average precision [q] by trapezoids: each right answer adds the mean of the precisions before and after it.

    As Holidays, Oxford5k and their successors measure it (Radenovic et al. 2018, arXiv:1803.11285,
    filipradenovic/revisitop:python/evaluate.py); before the first image, precision is 1. Right answers that the list
    does not reach add nothing.
    """
    places = np.arange(relevance.shape[1])
    hits = np.cumsum(relevance, axis=1)
    before = np.divide(hits - 1, places, out=np.ones(relevance.shape), where=places > 0)
    summed: Values = np.where(relevance, (before + hits / (places + 1)) / 2, 0.0).sum(axis=1)
    return summed / num_relevant


def precision_until_last(relevance: Relevance, k: int) -> Values:
    """Precision [q] among the first k images, or as many as end with the last right answer (mP@k of revisitop).

    Args:
        relevance: Whole lists, each with a right answer.
        k: Images.
    """
    last = relevance.shape[1] - np.argmax(relevance[:, ::-1], axis=1)
    depth = np.minimum(last, k)
    found: Values = first(relevance, depth).sum(axis=1) / depth
    return found
