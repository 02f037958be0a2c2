"""Logistic regression against scikit-learn's own search and fits, and the certificate against differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from ukd.errors import DataError
from ukd.eval.logistic import LogisticFit
from ukd.eval.logreg import PRESETS, Preset, evaluate
from ukd.eval.splits import stratified_holdout

COARSE = replace(PRESETS["kornblith"], num_c=8)
Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def digits() -> Split:
    pixels, labels = load_digits(return_X_y=True)
    features = (pixels / 16).astype(np.float32)
    return features[:400], labels[:400], features[400:900], labels[400:900]


def test_the_choice_and_the_figures_are_scikit_learns(digits: Split) -> None:
    train, labels, test, targets = digits
    found = evaluate(*digits, COARSE)
    heldout = stratified_holdout("logreg", labels, 0.1, seed=0)
    search = GridSearchCV(
        LogisticRegression(max_iter=20_000, tol=1e-6),
        {"C": COARSE.cs},
        cv=PredefinedSplit(np.where(heldout, 0, -1)),
    ).fit(train.astype(np.float64), labels)
    assert found.c == search.best_params_["C"]
    curve = [candidate.heldout_top1 for candidate in found.curve]
    np.testing.assert_allclose(curve, search.cv_results_["mean_test_score"], atol=1.5 / heldout.sum())
    assert found.c == COARSE.cs[int(np.argmax(curve))]
    predicted = search.predict(test.astype(np.float64))
    assert found.top1.value == accuracy_score(targets, predicted)
    assert found.mean_per_class.value == pytest.approx(balanced_accuracy_score(targets, predicted), abs=1e-12)
    assert (found.top1.n, found.num_heldout) == (500, heldout.sum())
    assert max([found.grad_norm, *(candidate.grad_norm for candidate in found.curve)]) <= COARSE.tol
    assert found.warnings == ()


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("change", [(1.0, 0.0), (100.0, 5.0), (0.001, -1.0)])
def test_the_change_of_features_changes_no_prediction(
    digits: Split, num_classes: int, change: tuple[float, float]
) -> None:
    train, labels, test, _ = digits
    train, labels = train[labels < num_classes].astype(np.float64), labels[labels < num_classes]
    train, test = (change[0] * rows + change[1] for rows in (train, test))
    c = 0.1 / change[0] ** 2
    fit = LogisticFit(train, labels, tol=1e-9, max_iter=1000)
    fit.to(c)
    plain = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10, max_iter=200).fit(train, labels)
    np.testing.assert_allclose(fit.probabilities(test), plain.predict_proba(test), atol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_certificate_is_the_gradient(digits: Split, num_classes: int) -> None:
    train, labels, _, _ = digits
    rows, labels = train[labels < num_classes, 10:20].astype(np.float64), labels[labels < num_classes]
    fit = LogisticFit(rows, labels, tol=1e-2, max_iter=1)
    fit.to(10.0)
    model = fit._model
    rows = rows - rows.mean(axis=0)
    scale = np.sqrt(np.square(rows).mean())
    rows, c, num = rows / scale, 10.0 * scale**2, len(rows)

    def objective(parameters: np.ndarray) -> float:
        weights, intercept = parameters[:, :-1], parameters[:, -1]
        scores = rows @ weights.T + intercept
        scores = np.hstack([np.zeros((num, 1)), scores]) if num_classes == 2 else scores
        own = scores[np.arange(num), labels]
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - own) + np.square(weights).sum() / (2 * c * num))

    at = np.column_stack([model.coef_, model.intercept_])
    steps = np.eye(at.size).reshape(at.size, *at.shape) * 1e-5
    slopes = [(objective(at + step) - objective(at - step)) / 2e-5 for step in steps]
    grad_norm, num_iter = fit.certificate()
    assert grad_norm == pytest.approx(np.abs(slopes).max(), rel=1e-5) and grad_norm > 1e-4
    assert num_iter == 1


def test_every_c_is_as_if_fitted_alone(digits: Split) -> None:
    train, labels, test, _ = digits
    path = LogisticFit(train, labels, tol=1e-7, max_iter=1000)
    for c in (1e-3, 1e-1, 10.0):
        path.to(c)
    alone = LogisticFit(train, labels, tol=1e-7, max_iter=1000)
    alone.to(10.0)
    np.testing.assert_allclose(path.probabilities(test), alone.probabilities(test), atol=1e-3)


def test_a_fit_that_is_given_up_is_reported(digits: Split) -> None:
    found = evaluate(*digits, replace(COARSE, max_iter=1, num_c=3))
    assert "3 of 3 fits have not converged" in found.warnings[0] and "1e-05 is wanted" in found.warnings[0]
    assert "the final fit" in found.warnings[1]


def test_all_c_at_once_make_the_same_choice_and_figures(digits: Split) -> None:
    alone, together = evaluate(*digits, COARSE), evaluate(*digits, COARSE, device=torch.device("cpu"))
    assert (together.c, together.top1, together.mean_per_class) == (alone.c, alone.top1, alone.mean_per_class)
    curves = [[each.heldout_top1 for each in result.curve] for result in (together, alone)]
    np.testing.assert_allclose(*curves, atol=1.5 / alone.num_heldout)
    assert max([together.grad_norm, *(each.grad_norm for each in together.curve)]) <= COARSE.tol
    assert together.warnings == ()


def test_what_cannot_be_fitted_is_refused(digits: Split) -> None:
    train, labels, test, targets = digits
    with pytest.raises(DataError, match=r"2 classes of the test images have no training image \(seven, 8\)"):
        known = (labels != 7) & (labels != 8)
        evaluate(train[known], labels[known], test, targets, COARSE, class_names=["-"] * 7 + ["seven"])
    with pytest.raises(DataError, match="all training images are of one class"):
        evaluate(train[labels == 1], labels[labels == 1], test[targets == 1], targets[targets == 1], COARSE)
    with pytest.raises(DataError, match="test: 500 images with 0 labels"):
        evaluate(train, labels, test, targets[:0], COARSE)


def test_features_that_are_all_alike_predict_the_largest_class() -> None:
    labels = np.repeat([0, 1], [60, 20])
    same = np.full((80, 3), 0.1, dtype=np.float32)
    found = evaluate(same, labels, same, labels, replace(COARSE, num_c=2))
    assert (found.top1.value, found.mean_per_class.value) == (0.75, 0.5)
    assert "an end of the grid" in found.warnings[-1]


def test_presets_are_frozen_and_their_grids_are_the_papers() -> None:
    assert PRESETS["kornblith"].cs == pytest.approx((1 / np.logspace(-6, 5, 45))[::-1].tolist())
    assert PRESETS["dinov2"].cs == pytest.approx((10 ** np.linspace(-6, 5, 45)).tolist())
    assert PRESETS["kornblith"] == Preset("kornblith", (-5.0, 6.0), 45, 0.1, 1e-5, 1000)
    # These hashes stand in result files: whoever changes one changes a protocol, and should name it anew.
    assert {name: preset.hash for name, preset in PRESETS.items()} == {
        "kornblith": "a788cd9580423fed",
        "dinov2": "c00d853bb240ce6f",
    }
