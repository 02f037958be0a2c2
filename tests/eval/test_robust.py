"""Calibration against torchmetrics and scikit-learn, subsets and mCE by hand, and the heads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss
from sklearn.neighbors import KNeighborsClassifier
from torchmetrics.classification import MulticlassCalibrationError

from ukd.errors import DataError
from ukd.eval.corruptions import KINDS
from ukd.eval.robust import (
    ALEXNET,
    among,
    calibration,
    correct_by_real,
    expected_calibration_error,
    fit_temperature,
    mean_corruption_error,
)
from ukd.eval.robust_heads import Preset, train_head
from ukd.eval.splits import stratified_holdout

LOGREG = Preset("logreg", "logreg", log10_c=(-4.0, 2.0), num_c=4)
KNN = Preset("knn", "knn")


def draw(num: int, num_classes: int, temp: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temp` times as large as those that the labels are drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(num, num_classes))
    labels = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((num, 1))).argmax(axis=1)
    return logits * temp, labels


@pytest.mark.parametrize(("num", "num_classes", "temp"), [(2000, 10, 3.0), (37, 3, 0.5), (500, 2, 1.0), (1, 4, 1.0)])
def test_calibration_is_that_of_torchmetrics_and_scikit_learn(num: int, num_classes: int, temp: float) -> None:
    logits, labels = draw(num, num_classes, temp)
    for scale in (1.0, 2.5):
        found = calibration(logits, labels, scale)
        probs = softmax(logits / scale, axis=1)
        metric = MulticlassCalibrationError(num_classes, n_bins=15, norm="l1")
        assert found.ece == pytest.approx(float(metric(torch.tensor(probs), torch.tensor(labels))), abs=1e-6)
        assert found.nll == pytest.approx(log_loss(labels, probs, labels=np.arange(num_classes)), rel=1e-9)
        one_hot = np.eye(num_classes)[labels]
        brier = brier_score_loss(one_hot.ravel(), probs.ravel()) * num_classes
        assert found.brier == pytest.approx(brier, rel=1e-9)


def test_calibration_error_by_hand() -> None:
    # Bin (9/15, 10/15] holds the first two: right half the time at 0.65; the last bin a right one at 1.
    confidence, correct = np.array([0.64, 0.66, 1.0]), np.array([True, False, True])
    assert expected_calibration_error(confidence, correct) == pytest.approx(2 / 3 * 0.15, abs=1e-12)
    # A bin has its upper end and not its lower one: 1/3 lies with 0.3, in (4/15, 5/15].
    confidence, correct = np.array([5 / 15, 0.3]), np.array([True, False])
    assert expected_calibration_error(confidence, correct) == pytest.approx(abs(0.5 - (1 / 3 + 0.3) / 2), abs=1e-12)


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.booleans()), min_size=1, max_size=40))
def test_calibration_error_is_that_of_its_definition(images: list[tuple[float, bool]]) -> None:
    total = 0.0
    for b in range(15):
        inside = [(p, right) for p, right in images if np.ceil(p * 15) - 1 == b]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(images) * abs(accuracy - sum(p for p, _ in inside) / len(inside))
    confidence, correct = (np.array(column) for column in zip(*images, strict=True))
    assert expected_calibration_error(confidence, correct) == pytest.approx(total, abs=1e-12)


def test_huge_logits_have_finite_calibration() -> None:
    logits = np.array([[1e5, -1e5], [1e5, -1e5]])
    found = calibration(logits, np.array([0, 1]), 1.0)
    assert (found.ece, found.nll, found.brier) == (0.5, 1e5, 1.0)


@pytest.mark.parametrize("temp", [0.4, 1.0, 5.0])
def test_the_temperature_undoes_what_scaled_the_logits(temp: float) -> None:
    logits, labels = draw(20_000, 5, temp)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temp, rel=0.04)
    nll = [
        -log_softmax(logits / at, axis=1)[np.arange(len(labels)), labels].mean() for at in np.geomspace(0.1, 20, 400)
    ]
    assert found == pytest.approx(np.geomspace(0.1, 20, 400)[int(np.argmin(nll))], rel=0.02)
    assert calibration(logits, labels, found).ece < 0.02


def test_a_subset_is_judged_among_its_own_columns() -> None:
    scores = np.array([[9.0, 1.0, 2.0, 3.0], [0.0, 5.0, 4.0, 9.0]])
    kept = among(scores, np.array([2, 3, 5, 8]), np.array([3, 5]))
    assert kept.tolist() == [[1.0, 2.0], [5.0, 4.0]]


def test_real_counts_any_right_label_and_drops_images_without() -> None:
    correct = correct_by_real(np.array([1, 2, 3, 0]), [[4, 1], [], [0], [0]])
    assert correct.tolist() == [True, False, True]
    with pytest.raises(DataError, match="no image a label"):
        correct_by_real(np.array([1]), [[]])


def test_mean_corruption_error_is_relative_to_its_reference() -> None:
    reference = {"fog": 0.8, "snow": 0.5}
    assert mean_corruption_error(reference, reference) == 1.0
    assert mean_corruption_error({"fog": 0.4, "snow": 0.75}, reference) == pytest.approx((0.5 + 1.5) / 2, abs=1e-12)
    assert mean_corruption_error({"fog": 0.2}, reference) == pytest.approx(0.25, abs=1e-12)
    assert mean_corruption_error(ALEXNET, ALEXNET) == 1.0 and ALEXNET.keys() == KINDS.keys()
    with pytest.raises(DataError, match=r"the reference makes no error on snow, and nothing can be relative to none"):
        mean_corruption_error(reference, {"fog": 0.1, "snow": 0.0})


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    pixels, labels = load_digits(return_X_y=True)
    features, numbers = (pixels / 16).astype(np.float32), labels.astype(np.int64) * 2
    return features[:300], numbers[:300], features[300:500], numbers[300:500]


def test_the_regression_leaves_out_what_it_is_calibrated_on(
    digits: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    features, labels, test, _ = digits
    head = train_head(features, labels, LOGREG, seed=0)
    heldout = stratified_holdout("robust", labels, LOGREG.heldout_share, 0)
    assert head.selection["num_heldout"] == heldout.sum() and head.classes.tolist() == list(range(0, 20, 2))
    model = LogisticRegression(C=head.selection["c"], max_iter=20_000, tol=1e-8)
    model.fit(features[~heldout].astype(np.float64), labels[~heldout])
    assert head.selection["heldout_top1"] == model.score(features[heldout], labels[heldout])
    np.testing.assert_allclose(softmax(head.scores(test), axis=1), model.predict_proba(test), atol=2e-3)
    logits, targets = head.scores(features[heldout]), labels[heldout] // 2
    assert head.temp == fit_temperature(logits, targets)
    assert calibration(logits, targets, head.temp).nll <= calibration(logits, targets, 1.0).nll
    again = head.correct(head.scores(test), np.zeros(len(test), dtype=np.int64))
    np.testing.assert_array_equal(again, model.predict(test) == 0)


def test_a_temperature_that_nothing_bounds_is_said() -> None:
    apart = np.repeat(np.eye(2, dtype=np.float32), 30, axis=0)
    head = train_head(apart, np.repeat([0, 1], 30), LOGREG, seed=0)
    assert any("an end of its range: the 6 held-out images do not bound it" in each for each in head.warnings)


def test_the_vote_is_scikit_learns_and_among_a_subset_of_no_neighbour_is_wrong(
    digits: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    features, labels, test, targets = digits
    head = train_head(features, labels, KNN, seed=0)
    model = KNeighborsClassifier(
        20, weights=lambda distance: np.exp((1 - distance) / 0.07), algorithm="brute", metric="cosine"
    ).fit(features, labels)
    scores = head.scores(test)
    np.testing.assert_array_equal(head.correct(scores, targets // 2), model.predict(test) == targets)
    assert head.temp is None
    subset = among(scores, head.classes, np.array([0, 2]))
    silent = subset.sum(axis=1) == 0
    assert silent.any() and not head.correct(subset, np.zeros(len(test), dtype=np.int64))[silent].any()
    with pytest.raises(DataError, match="20 neighbours are to vote but there are 10 training images"):
        train_head(features[:10], labels[:10], KNN, seed=0)


def test_presets_are_frozen() -> None:
    # These hashes stand in result files: whoever changes one changes a protocol, and should name it anew.
    assert Preset("logreg", "logreg").hash == "d749d3baea5016ec"
    assert Preset("knn", "knn").hash == "bb10cdc8d1c181de"
    assert replace(KNN, corruptions=("fog",), severities=(1,)).hash != KNN.hash
