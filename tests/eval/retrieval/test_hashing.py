"""Hamming retrieval: distances against FAISS, figures against a slow loop, codes by hand."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from ukd.errors import DataError
from ukd.eval.retrieval import hashing
from ukd.eval.retrieval.hashing import PRESETS, Preset, SignCoder, evaluate, hamming

TEN = Preset("ten", (10,))


def random_codes(num: int, num_bytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, num_bytes), dtype=np.uint8)


@pytest.mark.parametrize("num_bytes", [1, 3, 8, 12, 48])
def test_distances_are_those_of_faiss(num_bytes: int) -> None:
    queries, bank = random_codes(20, num_bytes), random_codes(300, num_bytes, seed=1)
    nearest, index = faiss.knn_hamming(queries, bank, 300)
    found = hamming(queries, bank)
    np.testing.assert_array_equal(np.sort(found, axis=1), nearest)
    np.testing.assert_array_equal(np.take_along_axis(found, index, axis=1), nearest)


def test_codes_are_the_signs_about_the_mean_eight_a_byte() -> None:
    features = np.array([[2.0, 0, 5, 0, 0, 0, 0, 0, 1], [0.0, 4, 5, 0, 0, 0, 0, 0, 3]], dtype=np.float32)
    coder = SignCoder(features)
    assert coder.bits == 9
    assert coder.codes(features).tolist() == [[0b10000000, 0], [0b01000000, 0b10000000]]


def test_tie_free_figures_are_those_of_a_slow_loop() -> None:
    # 63 codes, each with one more bit set than the one before it: all distances from zero differ.
    bits = np.tri(63, 64, dtype=np.uint8)
    bank, query = np.packbits(bits, axis=1), np.zeros((1, 8), dtype=np.uint8)
    labels = np.random.default_rng(0).integers(0, 3, 63)
    shares = evaluate(query, np.array([1]), bank, labels, TEN).shares
    hits = [place for place, label in enumerate(labels[:10]) if label == 1]
    summed = sum((rank + 1) / (place + 1) for rank, place in enumerate(hits))
    assert shares["map_at_10_over_retrieved"].value == pytest.approx(summed / len(hits))
    assert shares["map_at_10_over_min_r_k"].value == pytest.approx(summed / min(10, (labels == 1).sum()))
    assert shares["map_at_10_over_all"].value == pytest.approx(summed / (labels == 1).sum())
    assert shares["precision_at_10"].value == pytest.approx(len(hits) / 10)


def test_the_order_of_the_database_does_not_matter() -> None:
    queries, bank = random_codes(30, 1), random_codes(500, 1, seed=1)
    rng = np.random.default_rng(0)
    query_labels, labels, order = rng.integers(0, 5, 30), rng.integers(0, 5, 500), rng.permutation(500)
    one = evaluate(queries, query_labels, bank, labels, TEN)
    other = evaluate(queries, query_labels, bank[order], labels[order], TEN)
    assert one == other


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = random_codes(30, 2), random_codes(100, 2, seed=1)
    labels = np.arange(130) % 4
    whole = evaluate(queries, labels[:30], bank, labels[30:], TEN)
    monkeypatch.setattr(hashing, "TILE_ENTRIES", 700)
    assert evaluate(queries, labels[:30], bank, labels[30:], TEN) == whole


def test_queries_of_a_class_that_is_not_there_count_nothing() -> None:
    codes = random_codes(20, 1)
    figures = evaluate(codes[:2], np.array([0, 9]), codes, np.zeros(20, dtype=np.int64), TEN)
    assert {name: share.value for name, share in figures.shares.items()} == {
        "map_at_10_over_retrieved": 0.5,
        "map_at_10_over_min_r_k": 0.5,
        "map_at_10_over_all": 0.25,
        "precision_at_10": 0.5,
    }
    assert figures.warnings == ("1 of 2 queries are of classes the database lacks: they count 0",)


def test_what_cannot_be_measured_is_refused_or_left_out() -> None:
    codes, labels = random_codes(20, 2), np.zeros(20, dtype=np.int64)
    with pytest.raises(DataError, match="codes of 1 bytes cannot find codes of 2"):
        evaluate(codes[:, :1], labels, codes, labels, TEN)
    with pytest.raises(DataError, match="database: 20 codes with 19 labels"):
        evaluate(codes, labels, codes, labels[1:], TEN)
    with pytest.raises(DataError, match="k=1000 but the database holds 20 images; choose k <= 20"):
        evaluate(codes, labels, codes, labels, PRESETS["hashing"])
    figures = evaluate(codes, labels, codes, labels, Preset("both", (10, 1000)))
    assert figures.warnings == ("k=1000 left out: the database holds 20 images",) and len(figures.shares) == 4
