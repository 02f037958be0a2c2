"""The regressions of transfer against scikit-learn's own, and 11-point precision by hand and by its definition."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve

from ukd.errors import DataError
from ukd.eval.transfer import Preset, Use, average_precision_11point, evaluate

TOP1 = Preset("tests/digits", "top1", "train", "val", "test", (-4.0, 2.0), num_c=5)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """450 digits, 2 of each 9 for validation and 3 for tests, some of them gone so that classes differ in size."""
    pixels, labels = load_digits(return_X_y=True)
    kept = np.arange(500) % 20 != 3
    use = np.array([Use.TRAIN] * 4 + [Use.VAL] * 2 + [Use.TEST] * 3)[np.arange(500) % 9]
    return (pixels[:500][kept] / 16).astype(np.float32), labels[:500][kept].astype(np.int64), use[kept]


def by_hand(features: np.ndarray, labels: np.ndarray, c: float, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    model = LogisticRegression(C=c, max_iter=20_000, tol=1e-7).fit(features[fitted].astype(np.float64), labels[fitted])
    predicted: np.ndarray = model.predict(features[asked].astype(np.float64))
    return predicted


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_c_is_chosen_on_val_and_fitted_to_train_and_val(
    digits: tuple[np.ndarray, np.ndarray, np.ndarray], metric: str, device: torch.device | None
) -> None:
    features, labels, use = digits
    preset = replace(TOP1, metric=metric)
    found = evaluate(features, labels, use, preset, device=device)
    train, val, test = (use == each for each in Use)

    def score(truth: np.ndarray, predicted: np.ndarray) -> float:
        if metric == "top1":
            return float((truth == predicted).mean())
        return float(balanced_accuracy_score(truth, predicted))

    curve = [score(labels[val], by_hand(features, labels, c, train, val)) for c in preset.cs]
    assert [each.val for each in found.curve] == pytest.approx(curve, abs=1e-12)
    assert found.c == preset.cs[int(np.argmax(curve))] and found.num_val == val.sum()
    expected = score(labels[test], by_hand(features, labels, found.c, train | val, test))
    assert found.figure.value == pytest.approx(expected, abs=1e-12)
    assert found.figure.n == test.sum() and found.figure.ci is not None
    assert found.figure.ci[0] <= found.figure.value <= found.figure.ci[1]
    assert max([found.grad_norm, *(each.grad_norm for each in found.curve)]) <= preset.tol


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_several_classes_have_a_regression_each_and_difficult_images_are_left_out(
    digits: tuple[np.ndarray, np.ndarray, np.ndarray], device: torch.device | None
) -> None:
    features, labels, use = digits
    marks = np.where(np.stack([labels < 4, labels % 2 == 0, labels == 9], axis=1), 1, -1)
    marks[::7, 1] = 0
    preset = replace(TOP1, metric="map_11point", num_c=3)
    found = evaluate(features, marks, use, preset, device=device)
    wide, precisions = features.astype(np.float64), []
    for column in marks.T:
        fitted, asked = (use != Use.TEST) & (column != 0), (use == Use.TEST) & (column != 0)
        model = LogisticRegression(C=found.c, max_iter=20_000, tol=1e-8).fit(wide[fitted], column[fitted])
        precision, recall, _ = precision_recall_curve(column[asked], model.decision_function(wide[asked]), pos_label=1)
        precisions.append(np.mean([precision[recall >= tenth / 10 - 1e-9].max() for tenth in range(11)]))
    assert found.figure.value == pytest.approx(np.mean(precisions), abs=1e-3)
    assert found.figure.ci is None and found.c == max(found.curve, key=lambda each: each.val).c


def test_11_point_precision_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    # Hits at ranks 1 and 4: precision 1 up to a recall of 1/2, then 2/4.
    marks = np.array([1, -1, -1, 1, -1])
    assert average_precision_11point(scores, marks) == pytest.approx((6 * 1 + 5 * 0.5) / 11, abs=1e-15)
    # The difficult image at rank 2 counts neither way: the second hit is at rank 3.
    assert average_precision_11point(scores, np.array([1, 0, -1, 1, -1])) == pytest.approx(
        (6 + 5 * 2 / 3) / 11, abs=1e-15
    )
    # A tie of all five is one group of precision 2/5.
    assert average_precision_11point(np.zeros(5), marks) == pytest.approx(0.4, abs=1e-15)
    # Recalls of 3/10 count as at least 0.3.
    marks = np.array([1, 1, 1, *[-1] * 10, *[1] * 7])
    expected = (4 * 1 + sum(max((3 + k) / (13 + k) for k in range(tenth - 3, 8)) for tenth in range(4, 11))) / 11
    assert average_precision_11point(-np.arange(20.0), marks) == pytest.approx(expected, abs=1e-15)


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([-1, 0, 1])), min_size=1, max_size=25))
def test_11_point_precision_is_that_of_its_definition(images: list[tuple[int, int]]) -> None:
    images = [*images, (3, 1)]
    judged = [(score, mark) for score, mark in images if mark]
    points = []
    for threshold in {score for score, _ in judged}:
        shown = [mark for score, mark in judged if score >= threshold]
        hits = shown.count(1)
        points.append((Fraction(hits, sum(mark == 1 for _, mark in judged)), Fraction(hits, len(shown))))
    best = [max(precision for recall, precision in points if recall >= Fraction(tenth, 10)) for tenth in range(11)]
    scores, marks = (np.array(column) for column in zip(*images, strict=True))
    assert average_precision_11point(scores.astype(np.float64), marks) == pytest.approx(
        float(sum(best) / 11), abs=1e-12
    )


def test_classes_without_images_are_refused_by_name(digits: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    features, labels, use = digits
    names = [*"abcdefghij", "k"]
    with pytest.raises(DataError, match=r"tests/digits: 1 classes have no training image \(k\)"):
        evaluate(features, labels, use, TOP1, class_names=names)
    kept = (labels != 4) | (use != Use.TEST)
    with pytest.raises(DataError, match=r"1 classes have no test image \(e\)"):
        evaluate(features[kept], labels[kept], use[kept], TOP1, class_names=names[:10])
    kept = (labels != 4) | (use == Use.VAL)
    with pytest.raises(DataError, match=r"1 classes of the test images have no training image \(e\)"):
        evaluate(features[kept], labels[kept], use[kept], TOP1, class_names=names[:10])
    marks = np.where(labels[:, None] == np.arange(2), 1, -1)
    marks[(use == Use.TEST) & (marks[:, 1] == 1), 1] = 0
    with pytest.raises(DataError, match=r"1 classes have no test image \(b\)"):
        evaluate(features, marks, use, replace(TOP1, metric="map_11point"), class_names=names)
    with pytest.raises(DataError, match="a class is on every train image"):
        evaluate(features, np.ones((len(use), 1), dtype=np.int64), use, replace(TOP1, metric="map_11point"))


def test_a_class_of_one_image_and_an_end_of_the_grid_are_said(
    digits: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    features, labels, use = digits
    labels = labels.copy()
    labels[[np.flatnonzero(use == Use.TRAIN)[0], np.flatnonzero(use == Use.TEST)[0]]] = 10
    found = evaluate(features, labels, use, replace(TOP1, num_c=1))
    assert "tests/digits: the chosen C=0.0001 is an end of the grid" in found.warnings[0]
    assert "tests/digits: 1 classes have a single training image" in found.warnings[1]
