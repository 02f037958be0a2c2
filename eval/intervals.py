"""Shares with their 95 % bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ukd.data import Labels

NUM_RESAMPLES = 10_000
MIN_RESAMPLES = 1_000
MAX_DRAWS = 5 * 10**7
"""Draws of all resamples together, where values have to be resampled one by one."""
TILE_DRAWS = 2**20
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


def bootstrap_mean(values: npt.NDArray[np.floating[Any]], seed: int) -> Share:
    """Give the mean of one value a query, any numbers in [0, 1], with its 95 % percentile-bootstrap interval.

    Of more queries than a few thousand fewer resamples are drawn: their ends differ by less than their rounding.
    """
    num = len(values)
    resamples = int(np.clip(MAX_DRAWS // num, MIN_RESAMPLES, NUM_RESAMPLES))
    rng, means = np.random.default_rng(seed), np.empty(resamples)
    step = max(1, TILE_DRAWS // num)
    for start in range(0, resamples, step):
        drawn = rng.integers(num, size=(min(step, resamples - start), num))
        means[start : start + step] = values[drawn].mean(axis=1)
    low, high = np.quantile(means, ENDS)
    return Share(float(values.mean()), float(low), float(high), num)
