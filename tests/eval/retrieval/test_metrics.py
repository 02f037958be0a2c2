"""Figures of ranked lists: by hand, against scikit-learn, and against slow loops written from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from ukd.eval.retrieval.metrics import first, hit, precision_until_last, r_precision, step_ap, trapezoidal_ap, without

RANKINGS = st.integers(1, 30).flatmap(
    lambda num: st.lists(st.sampled_from(["right", "wrong", "junk"]), min_size=num, max_size=num)
)


def row(*relevance: int) -> np.ndarray:
    return np.array([relevance], dtype=bool)


def counts(relevance: np.ndarray) -> np.ndarray:
    return relevance.sum(axis=1)


def slow_trapezoidal_ap(ranking: list[str], num_relevant: int) -> float:
    """Area below the curve of precision over recall, drawn by straight lines between all images that are no junk."""
    precision, recall = [1.0], [0.0]
    hits = seen = 0
    for answer in ranking:
        if answer == "junk":
            continue
        seen += 1
        hits += answer == "right"
        precision.append(hits / seen)
        recall.append(hits / num_relevant)
    return float(np.trapezoid(precision, recall))


def slow_precision_until_last(ranking: list[str], k: int) -> float:
    kept = [answer for answer in ranking if answer != "junk"]
    places = [place for place, answer in enumerate(kept, start=1) if answer == "right"]
    depth = min(max(places), k)
    return sum(place <= depth for place in places) / depth


def test_by_hand() -> None:
    relevance = row(0, 1, 0, 1)
    assert step_ap(relevance, counts(relevance)) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert trapezoidal_ap(relevance, counts(relevance)) == pytest.approx((0 + 1 / 2) / 4 + (1 / 3 + 2 / 4) / 4)
    assert r_precision(relevance, counts(relevance)) == 1 / 2
    assert step_ap(first(relevance, counts(relevance)), counts(relevance)) == 1 / 4
    assert (hit(relevance, 1), hit(relevance, 2)) == (0, 1)
    assert precision_until_last(relevance, 3) == pytest.approx(1 / 3)


def test_the_two_average_precisions_differ_where_steps_and_trapezoids_do() -> None:
    relevance = row(0, 1)
    assert step_ap(relevance, counts(relevance)) == 1 / 2
    assert trapezoidal_ap(relevance, counts(relevance)) == 1 / 4
    best = row(1, 1, 0)
    assert step_ap(best, counts(best)) == trapezoidal_ap(best, counts(best)) == 1


def test_the_denominators_differ_where_answers_are_not_found() -> None:
    relevance, num_relevant, k = row(1, 0, 1, 0, 0, 1), np.array([5]), 4
    cut = first(relevance, k)
    precisions = 1 + 2 / 3
    assert step_ap(cut, num_relevant) == pytest.approx(precisions / 5)
    assert step_ap(cut, np.minimum(num_relevant, k)) == pytest.approx(precisions / 4)
    assert step_ap(cut, counts(cut)) == pytest.approx(precisions / 2)


def test_full_step_ap_is_scikit_learns_average_precision() -> None:
    rng = np.random.default_rng(0)
    relevance = rng.random((50, 200)) < rng.random((50, 1))
    relevance[:, 7] = True
    scores = -np.arange(200)
    expected = [average_precision_score(each, scores) for each in relevance]
    np.testing.assert_allclose(step_ap(relevance, counts(relevance)), expected, rtol=1e-12)


@given(RANKINGS, st.integers(0, 5))
def test_trapezoids_without_junk_are_the_area_below_the_curve(ranking: list[str], unfound: int) -> None:
    relevance = np.array([[answer == "right" for answer in ranking]])
    junk = np.array([[answer == "junk" for answer in ranking]])
    num_relevant = counts(relevance) + unfound
    if num_relevant[0] == 0:
        return
    found = trapezoidal_ap(without(relevance, junk), num_relevant)
    assert found == pytest.approx(slow_trapezoidal_ap(ranking, int(num_relevant[0])), abs=1e-12)


@given(RANKINGS.filter(lambda ranking: "right" in ranking), st.integers(1, 12))
def test_precision_until_last_is_that_of_a_slow_loop(ranking: list[str], k: int) -> None:
    relevance = np.array([[answer == "right" for answer in ranking]])
    junk = np.array([[answer == "junk" for answer in ranking]])
    found = precision_until_last(without(relevance, junk), k)
    assert found == pytest.approx(slow_precision_until_last(ranking, k))


def test_each_query_has_its_own_depth_and_its_own_junk() -> None:
    relevance = np.array([[1, 1, 1, 0], [0, 1, 0, 1]], dtype=bool)
    assert first(relevance, np.array([1, 4])).tolist() == [[True, False, False, False], [False, True, False, True]]
    junk = np.array([[0, 0, 0, 1], [1, 0, 1, 0]], dtype=bool)
    assert without(relevance, junk).tolist() == [[True, True, True, False], [True, True, False, False]]
    assert without(row(1, 1, 0), row(1, 0, 0)).tolist() == [[True, False, False]]
