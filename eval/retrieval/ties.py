"""Average precision where many images are equally near: its expectation over all orders of the ties, in closed form.

Hamming distances of 64 bits have 65 values, so most of a ranking is ties, and their order alone can move a figure by
a third. The expectation is that of McSherry & Najork 2008 (Computing Information Retrieval Performance Measures
Efficiently in the Presence of Tied Scores), carried on to lists cut in the middle of a tie and to the denominator of
hashing papers, which then depends on the order too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import hypergeom

from ukd.eval.retrieval.metrics import Values

Histogram = npt.NDArray[np.int64]


class TiedValues(NamedTuple):
    """Expected figures of the first k images, one value a query [q]; 0 where there is no right answer.

    Attributes:
        over_retrieved: AP over the right answers among the first k, as hashing papers have it.
        over_min_r_k: AP over as many as could be among them.
        over_all: AP over all right answers.
        precision: Share of right answers among the first k.
    """

    over_retrieved: Values
    over_min_r_k: Values
    over_all: Values
    precision: Values


class _Ties(NamedTuple):
    """Groups of equally near images: [q, g], or [q] for one group a query.

    Attributes:
        nearer: Images of the groups before.
        hits: Right answers among those.
        images: Images of the group.
        relevant: Right answers among those.
        shown: How many of the group belong to the first k.
    """

    nearer: Histogram
    hits: Histogram
    images: Histogram
    relevant: Histogram
    shown: Histogram

    def group(self, place: Histogram) -> _Ties:
        """One group [q] for each query."""
        return _Ties(*(np.take_along_axis(each, place[:, None], axis=1)[:, 0] for each in self))


def expected_at(images: Histogram, relevant: Histogram, k: int) -> TiedValues:
    """Average the figures of the first k images over all orders of equally near ones.

    Args:
        images: [q, g] how many images are at each distance, nearest first.
        relevant: [q, g] how many of them are right answers.
        k: Length of the list, at most the number of images.
    """
    nearer = np.cumsum(images, axis=1) - images
    ties = _Ties(nearer, np.cumsum(relevant, axis=1) - relevant, images, relevant, np.clip(k - nearer, 0, images))
    sums = _sum_of_precisions(ties)
    # The last group that belongs to the first k in part or in whole; those behind it show nothing.
    last = (ties.shown > 0).cumsum(axis=1).argmax(axis=1)
    before = np.where(np.arange(images.shape[1]) < last[:, None], sums, 0.0).sum(axis=1)
    total = relevant.sum(axis=1)
    found = np.divide(ties.shown * relevant, images, out=np.zeros(images.shape), where=images > 0)
    return TiedValues(
        over_retrieved=_over_retrieved(before, ties.group(last)),
        over_min_r_k=sums.sum(axis=1) / np.maximum(np.minimum(total, k), 1),
        over_all=sums.sum(axis=1) / np.maximum(total, 1),
        precision=found.sum(axis=1) / k,
    )


def _sum_of_precisions(ties: _Ties) -> Values:
    """Sum the precisions at the right answers shown, on average over the orders of each group.

    With H right answers among N nearer images and r among the n of the group, the image at place N + t is right with
    probability r / n, and then the precision there is (H + 1 + (t - 1) (r - 1) / (n - 1)) / (N + t). Summed over t this
    needs no more than the harmonic numbers.
    """
    inverse = _harmonic(ties.nearer + ties.shown) - _harmonic(ties.nearer)  # Sum over t of 1 / (N + t).
    rising = ties.shown - (ties.nearer + 1) * inverse  # Sum over t of (t - 1) / (N + t).
    share = ties.relevant / np.maximum(ties.images, 1)
    later = (ties.relevant - 1) / np.maximum(ties.images - 1, 1)
    summed: Values = share * ((ties.hits + 1) * inverse + later * rising)
    return summed


def _over_retrieved(before: Values, last: _Ties) -> Values:
    """Divide by the hits among the first k; how many the last group adds is drawn without replacement."""
    values = np.empty(len(before))
    for query, (nearer, hits, images, relevant, shown) in enumerate(zip(*last, strict=True)):
        drawn = np.arange(min(relevant, shown) + 1)
        # Given how many are drawn, they lie among the places shown in any order, as if these were all the group.
        given = _Ties(*np.broadcast_arrays(nearer, hits, shown, drawn, shown))
        sums = before[query] + _sum_of_precisions(given)
        chance = hypergeom.pmf(drawn, images, relevant, shown)
        values[query] = (chance * sums / np.maximum(hits + drawn, 1)).sum()
    return values


def _harmonic(counts: Histogram) -> Values:
    """Harmonic numbers 1 + 1/2 + ... + 1/n."""
    sums = np.cumsum(1 / np.arange(1, counts.max() + 1))
    return np.concatenate([[0.0], sums])[counts]
