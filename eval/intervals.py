"""Accuracies with their 95 % bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ukd.data import Labels

NUM_RESAMPLES = 10_000
ENDS = (0.025, 0.975)


@dataclass(frozen=True)
class Share:
    """A share of n queries in [0, 1], with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(correct: npt.NDArray[np.bool_], seed: int) -> Share:
    """Give the share of correct queries with its 95 % percentile-bootstrap interval.

    Drawing n queries with replacement and averaging a yes-or-no answer is drawing Binomial(n, share) / n, so
    the resamples are drawn as counts: the same distribution at no cost.
    """
    num = len(correct)
    value = float(correct.mean())
    draws = np.random.default_rng(seed).binomial(num, value, NUM_RESAMPLES) / num
    low, high = np.quantile(draws, ENDS)
    return Share(value, float(low), float(high), num)


def bootstrap_per_class(correct: npt.NDArray[np.bool_], classes: Labels, seed: int) -> Share:
    """Average the accuracies of the classes, with the 95 % interval of resampling within each class.

    Args:
        correct: [n] whether each query was answered right.
        classes: [n] its class, any integers; classes that do not occur do not count.
        seed: Seed of the resamples.
    """
    _, number, size = np.unique(classes, return_inverse=True, return_counts=True)
    shares = np.bincount(number, correct) / size
    rng, draws = np.random.default_rng(seed), np.zeros(NUM_RESAMPLES)
    for num, share in zip(size, shares, strict=True):
        draws += rng.binomial(num, share, NUM_RESAMPLES) / num
    low, high = np.quantile(draws / len(size), ENDS)
    return Share(float(shares.mean()), float(low), float(high), len(correct))
