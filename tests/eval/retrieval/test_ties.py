"""Tie-aware average precision: against every order of small ties, random orders of large ones, and tie-free lists."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ukd.eval.retrieval.metrics import first, step_ap
from ukd.eval.retrieval.ties import expected_at


def histograms(distance: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts [q, g] of images and right answers at each distance."""
    width = distance.max() + 1
    images = [np.bincount(each, minlength=width) for each in distance]
    relevant = [np.bincount(each[right], minlength=width) for each, right in zip(distance, relevance, strict=True)]
    return np.array(images), np.array(relevant)


def values_of(ranking: np.ndarray, k: int) -> np.ndarray:
    """The four figures of one list, from their definitions."""
    shown = ranking[:k]
    precision = [shown[: place + 1].mean() for place in np.flatnonzero(shown)]
    num = ranking.sum()
    return np.array(
        [
            sum(precision) / max(shown.sum(), 1),
            sum(precision) / max(min(num, k), 1),
            sum(precision) / max(num, 1),
            shown.mean(),
        ]
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6),
    st.data(),
)
def test_the_expectation_is_the_mean_over_every_order(images: list[tuple[int, bool]], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(images)))
    distance, relevance = (np.array(each) for each in zip(*images, strict=True))
    orders = [order for order in permutations(range(len(images))) if (np.diff(distance[list(order)]) >= 0).all()]
    expected = np.mean([values_of(relevance[list(order)], k) for order in orders], axis=0)
    found = expected_at(*histograms(distance[None], relevance[None]), k)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-12)


def test_the_expectation_is_the_mean_over_random_orders_of_long_ties() -> None:
    rng = np.random.default_rng(0)
    distance = rng.binomial(8, 0.4, size=(3, 300))
    relevance = rng.random((3, 300)) < np.array([[0.1], [0.5], [0.02]])
    found = np.array(expected_at(*histograms(distance, relevance), 60))
    total = np.zeros_like(found)
    for _ in range(4000):
        order = np.lexsort((rng.random(distance.shape), distance), axis=1)
        for query, ranking in enumerate(np.take_along_axis(relevance, order, axis=1)):
            total[:, query] += values_of(ranking, 60)
    np.testing.assert_allclose(found, total / 4000, atol=0.004)


@pytest.mark.parametrize("k", [1, 10, 80])
def test_without_ties_it_is_plain_average_precision(k: int) -> None:
    rng = np.random.default_rng(0)
    distance = np.stack([rng.permutation(80) for _ in range(20)])
    relevance = rng.random((20, 80)) < 0.2
    found = expected_at(*histograms(distance, relevance), k)
    ranked = np.take_along_axis(relevance, np.argsort(distance, axis=1), axis=1)
    num = np.maximum(ranked.sum(axis=1), 1)
    cut = first(ranked, k)
    np.testing.assert_allclose(found.over_all, step_ap(cut, num), atol=1e-12)
    np.testing.assert_allclose(found.over_min_r_k, step_ap(cut, np.minimum(num, k)), atol=1e-12)
    np.testing.assert_allclose(found.over_retrieved, step_ap(cut, np.maximum(cut.sum(axis=1), 1)), atol=1e-12)
    np.testing.assert_allclose(found.precision, cut.sum(axis=1) / k, atol=1e-12)


def test_the_denominators_are_ordered() -> None:
    rng = np.random.default_rng(0)
    distance, relevance = rng.binomial(16, 0.5, size=(50, 200)), rng.random((50, 200)) < 0.3
    found = expected_at(*histograms(distance, relevance), 40)
    assert (found.over_retrieved >= found.over_min_r_k - 1e-12).all()
    assert (found.over_min_r_k >= found.over_all - 1e-12).all()
    assert found.over_retrieved.mean() > found.over_min_r_k.mean() > found.over_all.mean() > 0


def test_one_tie_of_all_images_is_chance() -> None:
    found = expected_at(np.array([[100, 0]]), np.array([[20, 0]]), 10)
    assert found.precision == pytest.approx(0.2)
    perfect = expected_at(np.array([[5, 95]]), np.array([[5, 0]]), 10)
    assert (perfect.over_all, perfect.over_retrieved, perfect.precision) == (1, 1, 0.5)


def test_no_right_answer_counts_nothing() -> None:
    found = expected_at(np.array([[3, 4]]), np.array([[0, 0]]), 5)
    assert np.concatenate(found).tolist() == [0, 0, 0, 0]
