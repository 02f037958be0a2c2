"""Both votes against scikit-learn and lightly on random features and digits; properties; awkward cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.utils.benchmarking.knn import knn_predict
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from ukd.errors import DataError
from ukd.eval import votes
from ukd.eval.knn import (
    PRESETS,
    Preset,
    evaluate,
)
from ukd.eval.votes import majority_vote, rank_of, target_ranks, weighted_vote
from ukd.neighbours import nearest

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def random_split(num_queries: int = 200, num_bank: int = 1500, num_classes: int = 7, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((num_classes, 24))
    labels = rng.integers(num_classes, size=num_queries + num_bank)
    features = (centres[labels] + 2 * rng.standard_normal((len(labels), 24))).astype(np.float32)
    return features[:num_queries], labels[:num_queries], features[num_queries:], labels[num_queries:]


def digits_split() -> Split:
    pixels, labels = load_digits(return_X_y=True)
    return pixels[:500].astype(np.float32), labels[:500], pixels[500:].astype(np.float32), labels[500:]


@pytest.fixture(params=[random_split, digits_split], ids=["random", "digits"])
def split(request: pytest.FixtureRequest) -> Split:
    return request.param()  # type: ignore[no-any-return]


@pytest.mark.parametrize("k", [1, 2, 4, 20, 200])
def test_majority_is_scikit_learns(split: Split, k: int) -> None:
    queries, _, bank, labels = split
    oracle = KNeighborsClassifier(k, algorithm="brute", metric="cosine").fit(bank.astype(np.float64), labels)
    votes = majority_vote(labels[nearest(queries, bank, k)[1]], labels.max() + 1)
    np.testing.assert_array_equal(votes.argmax(axis=1), oracle.predict(queries.astype(np.float64)))


@pytest.mark.parametrize("k", [1, 10, 20, 100, 200])
def test_weighted_is_scikit_learns_and_lightlys(split: Split, k: int) -> None:
    queries, _, bank, labels = split
    similarity, index = nearest(queries, bank, k)
    ours = weighted_vote(similarity, labels[index], labels.max() + 1, temp=0.07).argmax(axis=1)
    oracle = KNeighborsClassifier(k, algorithm="brute", metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    np.testing.assert_array_equal(ours, oracle.fit(bank.astype(np.float64), labels).predict(queries.astype(np.float64)))
    unit_queries, unit_bank = (torch.nn.functional.normalize(torch.from_numpy(x), dim=1) for x in (queries, bank))
    theirs = knn_predict(unit_queries, unit_bank.T, torch.from_numpy(labels), int(labels.max()) + 1, k, 0.07)
    np.testing.assert_array_equal(ours, theirs[:, 0].numpy())


def test_top1_and_top5_are_the_accuracies_of_these_predictions(split: Split) -> None:
    queries, targets, bank, labels = split
    rows = {(row.preset.name, row.k): row for row in evaluate(*split, list(PRESETS.values())).rows}
    dino = [("dino", k) for k in (10, 20, 100, 200)]
    assert list(rows) == [*dino, ("ukd", 1), ("ukd", 20), ("lightly", 200), ("vissl", 200)]
    similarity, index = nearest(queries, bank, 20)
    scores = weighted_vote(similarity, labels[index], labels.max() + 1, temp=0.07)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    assert rows["dino", 20].top1.value == np.mean(best[:, 0] == targets)
    in_best = (best == targets[:, None]) & (np.take_along_axis(scores, best, axis=1) > 0)
    assert rows["dino", 20].top5.value == in_best.any(axis=1).mean()
    counts = majority_vote(labels[index], labels.max() + 1)
    assert rows["ukd", 20].top1.value == np.mean(counts.argmax(axis=1) == targets)
    assert rows["ukd", 1].top5 == rows["ukd", 1].top1


def test_lightly_is_lightlys(split: Split) -> None:
    queries, targets, bank, labels = split
    unit_queries, unit_bank = (torch.nn.functional.normalize(torch.from_numpy(x), dim=1) for x in (queries, bank))
    theirs = knn_predict(unit_queries, unit_bank.T, torch.from_numpy(labels), int(labels.max()) + 1, 200, 0.1)
    (row,) = evaluate(*split, [PRESETS["lightly"]]).rows
    assert row.top1.value == np.mean(theirs[:, 0].numpy() == targets)


def test_vissl_is_the_vote_of_the_inner_products_of_features_as_they_are() -> None:
    queries, targets, bank, labels = random_split(60, 400)
    stretched = bank * np.random.default_rng(1).uniform(0.2, 1, (400, 1)).astype(np.float32)
    right = []
    for query, target in zip(0.1 * queries.astype(np.float64), targets, strict=True):
        products = stretched.astype(np.float64) @ query
        votes_of = np.zeros(labels.max() + 1)
        for j in sorted(range(400), key=lambda j: -products[j])[:200]:
            votes_of[labels[j]] += np.exp(products[j] / 0.1)
        right.append(votes_of.argmax() == target)
    vissl, lightly = evaluate(0.1 * queries, targets, stretched, labels, [PRESETS["vissl"], PRESETS["lightly"]]).rows
    assert vissl.top1.value == np.mean(right) != lightly.top1.value
    assert (PRESETS["vissl"].norm, PRESETS["lightly"].norm) == ("none", "l2")


def test_votes_by_hand() -> None:
    similarity = np.array([[0.9, 0.8, 0.8]], dtype=np.float64)
    labels = np.array([[2, 0, 0]])
    weighted = weighted_vote(similarity, labels, 4, temp=0.1)
    np.testing.assert_allclose(weighted, [[2 * np.exp(-1), 0, 1, 0]])
    assert majority_vote(labels, 4).tolist() == [[2, 0, 1, 0]]
    assert weighted_vote(similarity, labels, 4, temp=1e-5).tolist() == [[0, 0, 1, 0]]


def test_ties_go_to_the_lowest_class_and_classes_without_a_vote_are_never_right() -> None:
    scores = np.array([[1.0, 2.0, 2.0, 0.0, 0.0]]).repeat(5, axis=0)
    assert rank_of(np.array([1, 2, 0, 3, -1]), scores).tolist() == [0, 1, 2, 5, 5]


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    ks=st.sets(st.integers(1, 40), min_size=1),
    temp=st.sampled_from([None, 0.07, 1.0]),
)
def test_every_k_is_as_if_asked_alone(seed: int, ks: set[int], temp: float | None) -> None:
    rng = np.random.default_rng(seed)
    similarity = -np.sort(-rng.uniform(-1, 1, (9, 40)), axis=1)
    labels, targets = rng.integers(5, size=(9, 40)), rng.integers(-1, 5, size=9)
    together = target_ranks(similarity, labels, targets, 5, sorted(ks), temp)
    for k in ks:
        alone = target_ranks(similarity[:, :k], labels[:, :k], targets, 5, [k], temp)
        np.testing.assert_array_equal(together[k], alone[k])


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_neither_the_banks_order_nor_the_rows_length_matters(seed: int) -> None:
    queries, targets, bank, labels = random_split(40, 300, seed=seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(bank))
    stretched = (bank * 2.0 ** rng.integers(-9, 9, (len(bank), 1))).astype(np.float32)
    presets = [preset for preset in PRESETS.values() if preset.norm == "l2"]
    plain = evaluate(queries, targets, bank, labels, presets)
    assert evaluate(queries, targets, bank[order], labels[order], presets) == plain
    assert evaluate(queries * 4, targets, stretched, labels, presets) == plain


def test_tiles_change_nothing(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(*split, list(PRESETS.values()))
    monkeypatch.setattr(votes, "TILE_ENTRIES", 1000)
    assert evaluate(*split, list(PRESETS.values())) == whole


def test_label_values_need_not_be_contiguous() -> None:
    queries, targets, bank, labels = random_split()
    values = np.array([-40, -1, 3, 70, 71, 900, 10**12])
    presets = list(PRESETS.values())
    assert evaluate(queries, values[targets], bank, values[labels], presets) == evaluate(
        queries, targets, bank, labels, presets
    )


def test_queries_of_a_class_the_bank_lacks_are_errors_and_said_so() -> None:
    queries, targets, bank, labels = random_split()
    keep = labels != 3
    result = evaluate(queries, targets, bank[keep], labels[keep], [PRESETS["ukd"]])
    num = int((targets == 3).sum())
    assert result.warnings == (f"{num} of 200 queries are of classes the bank lacks (3): they count as errors",)
    known = evaluate(queries[targets != 3], targets[targets != 3], bank[keep], labels[keep], [PRESETS["ukd"]])
    assert result.rows[1].top1.value == pytest.approx(known.rows[1].top1.value * (200 - num) / 200)


def test_a_class_missing_from_the_queries_is_no_matter() -> None:
    queries, targets, bank, labels = random_split()
    seen = targets < 4
    assert evaluate(queries[seen], targets[seen], bank, labels, [PRESETS["dino"]]).warnings == ()


def test_k_above_the_bank_leaves_the_row_out_with_a_warning() -> None:
    queries, targets, bank, labels = random_split(num_bank=50)
    result = evaluate(queries, targets, bank, labels, [PRESETS["dino"], PRESETS["ukd"]])
    assert [(row.preset.name, row.k) for row in result.rows] == [
        ("dino", 10),
        ("dino", 20),
        ("ukd", 1),
        ("ukd", 20),
    ]
    assert result.warnings == (
        "dino: k=100 left out: the bank holds 50 images",
        "dino: k=200 left out: the bank holds 50 images",
    )
    with pytest.raises(DataError, match="knn: k=10, 20, 100, 200 but the bank holds 5 images; choose k <= 5"):
        evaluate(queries, targets, bank[:5], labels[:5], [PRESETS["dino"]])


def test_one_query_one_class_one_image() -> None:
    one = np.ones((1, 4), dtype=np.float32)
    row = evaluate(one, np.array([5]), one, np.array([5]), [PRESETS["ukd"]]).rows[0]
    assert (row.top1.value, row.top5.value, row.top1.low, row.top1.high, row.top1.n) == (
        1.0,
        1.0,
        1.0,
        1.0,
        1,
    )


def test_zero_features_vote_like_any_others_and_nan_is_refused() -> None:
    queries, targets, bank, labels = random_split()
    dead = evaluate(np.zeros_like(queries), targets, np.zeros_like(bank), labels, [PRESETS["ukd"]])
    assert dead.rows[0].top1.value == np.mean(targets == labels[0])
    queries[4, 2] = np.nan
    with pytest.raises(DataError, match="queries: NaN or infinity in 1 of 200 rows \\(row 4\\)"):
        evaluate(queries, targets, bank, labels, [PRESETS["ukd"]])


@pytest.mark.parametrize("num_labels", [0, 199])
def test_missing_labels_are_refused(num_labels: int) -> None:
    queries, targets, bank, labels = random_split()
    with pytest.raises(DataError, match=f"queries: 200 images with {num_labels} labels"):
        evaluate(queries, targets[:num_labels], bank, labels, [PRESETS["ukd"]])


def test_presets_are_frozen_and_their_hash_names_every_field() -> None:
    dino = PRESETS["dino"]
    assert dino == Preset("dino", "weighted", (10, 20, 100, 200), 0.07)
    changed = [
        replace(dino, name="x"),
        replace(dino, vote="majority"),
        replace(dino, ks=(10,)),
        replace(dino, temp=0.1),
    ]
    assert len({preset.hash for preset in [dino, *changed]}) == 5
    # These hashes stand in result files: whoever changes one changes a protocol, and should name it anew.
    assert {name: preset.hash for name, preset in PRESETS.items()} == {
        "dino": "baaa568a116d3ff0",
        "ukd": "ad4d3ed44bcbe6f0",
        "lightly": "f02f1b385130ea45",
        "vissl": "27f8e6680362c83a",
    }
