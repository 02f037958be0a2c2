"""Bootstrap intervals: those of plain resampling, of the right coverage, and per class."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import balanced_accuracy_score

from ukd.eval import intervals
from ukd.eval.intervals import bootstrap, bootstrap_mean, bootstrap_per_class


def test_the_interval_is_that_of_resampling_the_queries() -> None:
    rng = np.random.default_rng(0)
    correct = rng.uniform(size=300) < 0.7
    share = bootstrap(correct, seed=0)
    resampled = correct[rng.integers(300, size=(4000, 300))].mean(axis=1)
    np.testing.assert_allclose((share.low, share.high), np.quantile(resampled, (0.025, 0.975)), atol=0.008)
    assert share == bootstrap(correct[::-1], seed=0)
    assert share.low < share.value < share.high


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    shares = [bootstrap(rng.uniform(size=400) < 0.8, seed=trial) for trial in range(300)]
    covered = np.mean([share.low <= 0.8 <= share.high for share in shares])
    assert 0.91 <= covered <= 0.985


def test_mean_per_class_is_scikit_learns_balanced_accuracy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([2, 3, 7, 90], size=500, p=[0.7, 0.2, 0.08, 0.02])
    predicted = np.where(rng.uniform(size=500) < 0.6, labels, 3)
    share = bootstrap_per_class(predicted == labels, labels, seed=0)
    np.testing.assert_allclose(share.value, balanced_accuracy_score(labels, predicted), rtol=1e-12)
    assert share.n == 500 and share.low < share.value < share.high


def test_the_interval_per_class_is_that_of_resampling_each_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [200, 60, 20])
    correct = rng.uniform(size=280) < np.array([0.9, 0.6, 0.3])[labels]
    share = bootstrap_per_class(correct, labels, seed=0)
    resampled = np.mean(
        [rng.choice(correct[labels == each], (4000, (labels == each).sum())).mean(axis=1) for each in range(3)], axis=0
    )
    np.testing.assert_allclose((share.low, share.high), np.quantile(resampled, (0.025, 0.975)), atol=0.008)


def test_the_interval_of_a_mean_is_scipys(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).beta(2, 5, 200)
    share = bootstrap_mean(values, seed=0)
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    assert share.value == values.mean() and share.n == 200
    np.testing.assert_allclose((share.low, share.high), expected, atol=0.003)
    monkeypatch.setattr(intervals, "TILE_DRAWS", 30_000)
    assert bootstrap_mean(values, seed=0) == share


def test_of_yes_or_no_it_is_that_of_counts() -> None:
    correct = np.random.default_rng(0).random(300) < 0.7
    mean, counted = bootstrap_mean(correct.astype(float), seed=0), bootstrap(correct, seed=0)
    np.testing.assert_allclose((mean.low, mean.high), (counted.low, counted.high), atol=0.008)


def test_of_very_many_values_fewer_resamples_are_enough() -> None:
    values = np.random.default_rng(0).random(60_000)
    share, spread = bootstrap_mean(values, seed=0), 1.96 * values.std() / 60_000**0.5
    np.testing.assert_allclose((share.low, share.high), (share.value - spread, share.value + spread), atol=3e-4)
