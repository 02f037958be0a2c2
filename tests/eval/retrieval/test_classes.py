"""Retrieval by class: against pytorch-metric-learning, and on features made to go wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN

from ukd import neighbours
from ukd.errors import DataError
from ukd.eval.retrieval import classes
from ukd.eval.retrieval.classes import PRESETS, Preset, evaluate

SMALL = Preset("small", (1, 2, 4))


def clustered(num: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes of different sizes, two images in each at least; the same centres for every seed."""
    rng = np.random.default_rng(seed)
    sizes = np.minimum(rng.geometric(0.3, num - 2 * num_classes) - 1, num_classes - 1)
    labels = np.concatenate([np.arange(num_classes), np.arange(num_classes), sizes])
    centres = np.random.default_rng(99).standard_normal((num_classes, 16))
    return (centres[labels] + 1.5 * rng.standard_normal((num, 16))).astype(np.float32), labels


def theirs(queries: np.ndarray, query_labels: np.ndarray, bank: np.ndarray, labels: np.ndarray, own: bool) -> dict:
    """pytorch-metric-learning's figures; k=None ranks everything, as its full average precision needs."""
    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r", "mean_average_precision")
    calculator = AccuracyCalculator(include=names, k=None, knn_func=CustomKNN(CosineSimilarity()))
    arrays = [torch.from_numpy(each) for each in (queries, query_labels, bank, labels)]
    return calculator.get_accuracy(*arrays, ref_includes_query=own)


@pytest.mark.parametrize("own", [True, False])
def test_equals_pytorch_metric_learning(own: bool) -> None:
    queries, query_labels = clustered(300, 8)
    bank, labels = (queries, query_labels) if own else clustered(400, 8, seed=1)
    shares = evaluate(queries, query_labels, bank, labels, SMALL, own=own).shares
    expected = theirs(queries, query_labels, bank, labels, own)
    assert 0.2 < shares["map_full"].value < 0.9
    for ours, name in {
        "recall_at_1": "precision_at_1",
        "r_precision": "r_precision",
        "map_at_r": "mean_average_precision_at_r",
        "map_full": "mean_average_precision",
    }.items():
        assert shares[ours].value == pytest.approx(expected[name], abs=1e-9), ours


def test_recall_at_k_counts_queries_and_not_answers() -> None:
    bank = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]], dtype=np.float32)
    shares = evaluate(bank[:1], np.array([0]), bank, np.array([1, 0, 1, 0]), SMALL).shares
    assert (shares["recall_at_1"].value, shares["recall_at_2"].value) == (0, 1)


def test_blocks_of_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clustered(200, 5)
    whole = evaluate(features, labels, features, labels, SMALL, own=True)
    monkeypatch.setattr(neighbours, "CPU_LIMITS", neighbours.CPU_LIMITS._replace(listed=1000))
    assert evaluate(features, labels, features, labels, SMALL, own=True) == whole


def test_a_large_database_is_ranked_as_deep_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clustered(200, 5)
    whole = evaluate(features, labels, features, labels, SMALL, own=True)
    monkeypatch.setattr(classes, "MAX_RANKED", 100)
    cut = evaluate(features, labels, features, labels, SMALL, own=True)
    assert {**cut.shares, "map_full": whole.shares["map_full"]} == whole.shares
    assert cut.warnings == ("map_full left out: it ranks all of the database, and that is done up to 100 images",)


def test_duplicates_come_by_number_and_never_stand_for_their_query() -> None:
    features = np.repeat(np.eye(2, dtype=np.float32), [6, 2], axis=0)
    labels = np.array([0, 1, 1, 1, 1, 0, 2, 2])
    shares = evaluate(features, labels, features, labels, SMALL, own=True).shares
    # Query 0 meets 1, 2, 3, 4, 5; query 5 meets 0 first; queries 1 to 4 meet 0 first; 6 and 7 meet each other.
    assert shares["recall_at_1"].value == pytest.approx((0 + 1 + 0 + 2) / 8)
    assert shares["recall_at_2"].value == pytest.approx((0 + 1 + 4 + 2) / 8)


def test_another_models_database_leaves_out_the_querys_own_image() -> None:
    rng = np.random.default_rng(0)
    teacher, labels = clustered(60, 4)
    student = teacher + 0.01 * rng.standard_normal(teacher.shape).astype(np.float32)
    alone = evaluate(teacher, labels, teacher, labels, SMALL, own=True).shares
    mixed = evaluate(student, labels, teacher, labels, SMALL, own=True).shares
    for name, share in mixed.items():
        assert share.value == pytest.approx(alone[name].value, abs=0.05)
    assert evaluate(student, labels, teacher, labels, SMALL).shares["recall_at_1"].value == 1


def test_zero_features_have_a_result() -> None:
    features, labels = np.zeros((6, 4), dtype=np.float32), np.array([0, 0, 1, 1, 2, 2])
    shares = evaluate(features, labels, features, labels, Preset("one", (1,)), own=True).shares
    assert shares["recall_at_1"].value == pytest.approx(2 / 6)


def test_one_class_is_found_throughout() -> None:
    features = clustered(20, 2)[0]
    labels = np.zeros(20, dtype=np.int64)
    shares = evaluate(features, labels, features, labels, SMALL, own=True).shares
    assert {share.value for share in shares.values()} == {1.0}


def test_queries_without_an_answer_do_not_count_and_are_reported() -> None:
    features, labels = clustered(30, 3)
    lonely = np.concatenate([labels, [1000, 1001]])
    rows = np.concatenate([features, features[:2] + 1])
    figures = evaluate(rows, lonely, rows, lonely, SMALL, own=True)
    assert figures.shares["recall_at_1"].n == 30
    assert figures.warnings == ("2 of 32 queries left out: the database has no other image of their class",)


def test_what_cannot_be_measured_is_refused() -> None:
    features, labels = clustered(30, 3)
    broken = features.copy()
    broken[[4, 9], 0] = np.nan
    with pytest.raises(DataError, match=r"NaN or infinity in 2 of 30 rows \(row 4, 9\)"):
        evaluate(broken, labels, broken, labels, SMALL, own=True)
    with pytest.raises(DataError, match="queries: 30 images with 29 labels"):
        evaluate(features, labels[1:], features, labels, SMALL)
    with pytest.raises(DataError, match="k=1 but each query has 0 images to find"):
        evaluate(features[:1], labels[:1], features[:1], labels[:1], SMALL, own=True)
    with pytest.raises(DataError, match="every class has one image"):
        evaluate(features, np.arange(30), features, np.arange(30), SMALL, own=True)
    with pytest.raises(DataError, match="queries are 8 wide but the bank is 16 wide"):
        evaluate(features[:, :8], labels, features, labels, SMALL)


def test_a_k_above_the_database_is_left_out_and_said() -> None:
    features, labels = clustered(9, 2)
    figures = evaluate(features, labels, features, labels, PRESETS["sop"], own=True)
    assert [name for name in figures.shares if name.startswith("recall")] == ["recall_at_1"]
    assert "R@10 left out: each query has 8 images to find" in figures.warnings
