"""Exact search against sklearn and a full matrix; duplicates, zero rows, ties and bad rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.neighbors import NearestNeighbors

from ukd import neighbours
from ukd.errors import DataError
from ukd.neighbours import Limits, nearest, nearest_by_block, nearest_others, search_on, shared_share, without_self

SMALL_INTEGERS = st.integers(2, 24).flatmap(
    lambda n: hnp.arrays(np.float32, (n, 3), elements=st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]))
)


def random(num: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, width)).astype(np.float32)


def test_agrees_with_sklearn_on_tie_free_data() -> None:
    queries, bank = random(300, 32), random(1000, 32, seed=1)
    similarity, index = nearest(queries, bank, 20)
    distance, expected = (
        NearestNeighbors(n_neighbors=20, metric="cosine", algorithm="brute").fit(bank).kneighbors(queries)
    )
    np.testing.assert_array_equal(index, expected)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)
    assert similarity.dtype == np.float32 and index.dtype == np.int64


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = random(50, 8), random(200, 8, seed=1)
    whole, others = nearest(queries, bank, 7)[1], nearest_others(bank, 7)
    monkeypatch.setattr(neighbours, "CPU_LIMITS", Limits(listed=100, bank=150, queries=6))
    np.testing.assert_array_equal(nearest(queries, bank, 7)[1], whole)
    np.testing.assert_array_equal(nearest_others(bank, 7), others)


def test_blocks_of_queries_are_parts_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = np.repeat(random(25, 8), 2, axis=0), random(60, 8, seed=1)
    similarity, index = nearest(queries, bank, 7)
    monkeypatch.setattr(neighbours, "CPU_LIMITS", Limits(listed=100, bank=150, queries=6))
    blocks = list(nearest_by_block(queries, bank, 7))
    assert [(block.start, block.stop) for block, _, _ in blocks] == [(0, 14), (14, 28), (28, 42), (42, 50)]
    np.testing.assert_array_equal(np.concatenate([each for _, _, each in blocks]), index)
    np.testing.assert_allclose(np.concatenate([each for _, each, _ in blocks]), similarity, atol=1e-6)
    with pytest.raises(DataError, match=r"queries: NaN or infinity in 1 of 50 rows \(row 49\)"):
        next(nearest_by_block(np.where(np.arange(50)[:, None] == 49, np.nan, queries), bank, 7))


def test_a_row_leaves_its_own_list_or_the_last_place() -> None:
    listed = np.array([[3, 0, 7], [1, 2, 5], [4, 9, 8]])
    assert without_self(listed, np.array([0, 1, 2])).tolist() == [[3, 7], [2, 5], [4, 9]]


def test_small_k_is_the_beginning_of_large_k() -> None:
    queries, bank = random(64, 16), random(500, 16, seed=1)
    np.testing.assert_array_equal(nearest(queries, bank, 5)[1], nearest(queries, bank, 200)[1][:, :5])


@settings(deadline=None, max_examples=60)
@given(bank=SMALL_INTEGERS, power=st.integers(-20, 20), data=st.data())
def test_duplicates_and_zero_rows_are_listed_by_number(bank: np.ndarray, power: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(bank)))
    similarity, index = nearest(bank * 2.0**power, bank, k)
    norm = np.linalg.norm(bank, axis=1, keepdims=True)
    unit = (bank / np.where(norm > 0, norm, 1)).astype(np.float64)
    full = unit @ unit.T
    np.testing.assert_allclose(similarity, -np.sort(-full, axis=1)[:, :k], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(full, index, axis=1), similarity, atol=1e-6)
    tied = similarity[:, 1:] == similarity[:, :-1]
    assert (np.diff(index, axis=1)[tied] > 0).all()
    assert all(len(set(row)) == k for row in index.tolist())


def test_many_duplicates_at_the_end_of_the_list_come_lowest_first() -> None:
    bank = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)[[2] + [1] * 500 + [0] + [1] * 500]
    index = nearest(np.array([[1.0, 0.0]], dtype=np.float32), bank, 10)[1]
    assert index.tolist() == [[501, 0, 1, 2, 3, 4, 5, 6, 7, 8]]


def test_distinct_rows_with_equal_similarity_come_lowest_first() -> None:
    angles = np.linspace(1, 100, 300, dtype=np.float32)
    bank = np.stack([np.zeros_like(angles), angles, angles[::-1]], axis=1)
    index = nearest(np.array([[1.0, 0.0, 0.0]], dtype=np.float32), bank, 20)[1]
    assert index.tolist() == [list(range(20))]


def test_others_never_hold_the_row_itself() -> None:
    features = random(400, 8)
    others = nearest_others(features, 10)
    distance = 1 - (unit := features / np.linalg.norm(features, axis=1, keepdims=True)) @ unit.T
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(others, np.argsort(distance, axis=1, kind="stable")[:, :10])
    assert others.dtype == np.int32


def test_a_row_hidden_behind_its_duplicates_still_has_k_others() -> None:
    features = np.concatenate([np.tile(random(1, 4), (9, 1)), random(20, 4, seed=1)])
    others = nearest_others(features, 3)
    assert others[0].tolist() == [1, 2, 3]
    assert others[2].tolist() == [0, 1, 3]
    assert others[8].tolist() == [0, 1, 2]


def test_a_dead_model_gives_lists_and_no_error() -> None:
    others = nearest_others(np.zeros((2000, 4), dtype=np.float32), 31)
    assert others.shape == (2000, 31)
    assert others[0].tolist() == list(range(1, 32))


def test_a_zero_query_is_equally_far_from_all_and_lists_the_lowest_rows() -> None:
    queries, bank = np.zeros((2, 4), np.float32), random(50, 4)
    queries[1] = bank[7]
    similarity, index = nearest(queries, bank, 5)
    assert index[0].tolist() == [0, 1, 2, 3, 4] and not similarity[0].any()
    assert index[1, 0] == 7 and similarity[1, 0] == pytest.approx(1, abs=1e-6)


def test_huge_and_tiny_rows_keep_their_direction() -> None:
    bank = random(50, 8)
    np.testing.assert_array_equal(nearest(bank * 1e30, bank, 3)[1], nearest(bank * 1e-30, bank, 3)[1])
    assert (nearest(bank * 1e30, bank, 1)[0] > 0.999).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_rows_are_refused_by_number(value: float) -> None:
    features = random(30, 4)
    features[[3, 17], 1] = value
    with pytest.raises(DataError, match=r"bank: NaN or infinity in 2 of 30 rows \(row 3, 17\)"):
        nearest(random(2, 4), features, 3)
    with pytest.raises(DataError, match="row 3, 17"):
        nearest_others(features, 3)


def test_k_beyond_the_bank_and_other_widths_are_refused() -> None:
    with pytest.raises(DataError, match="k=6 but the bank holds 5 images"):
        nearest(random(2, 4), random(5, 4), 6)
    with pytest.raises(DataError, match="k=5 but each of the 5 images has 4 others"):
        nearest_others(random(5, 4), 5)
    with pytest.raises(DataError, match="queries are 3 wide but the bank is 4 wide"):
        nearest(random(2, 3), random(5, 4), 2)


def test_no_query_and_one_image() -> None:
    assert nearest(random(0, 4), random(5, 4), 2)[1].shape == (0, 2)
    assert nearest(random(1, 4), random(1, 4), 1)[1].tolist() == [[0]]


def test_shared_share_by_hand() -> None:
    ours = np.array([[1, 2, 3], [4, 5, 6]])
    theirs = np.array([[3, 9, 1], [7, 8, 9]])
    assert shared_share(ours, theirs) == pytest.approx(2 / 6)
    assert shared_share(ours, ours[:, ::-1]) == 1.0


def test_unrelated_features_share_about_k_over_n() -> None:
    ours, theirs = nearest_others(random(1000, 16), 20), nearest_others(random(1000, 16, seed=1), 20)
    assert shared_share(ours, theirs) == pytest.approx(20 / 999, abs=0.005)


def test_gpu_functions_are_left_alone_without_a_gpu_or_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    called: list[int] = []
    gpus: list[int] = []

    class Resources:
        def setTempMemory(self, size: int) -> None:
            pass

    def knn_gpu(resources: Resources, queries: np.ndarray, bank: np.ndarray, k: int, **options: int) -> object:
        called.append(k)
        gpus.append(options["device"])
        return faiss.knn(queries, bank, k, metric=options["metric"])

    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu)
    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    bank = random(3000, 4)
    monkeypatch.setattr(neighbours, "_gpu", -1)  # As it is before a run says where it computes.
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    expected = nearest(bank[:5], bank, 10)[1]
    assert called == [] and neighbours.backend().endswith("cpu")
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    np.testing.assert_array_equal(nearest(bank[:5], bank, 10)[1], expected)
    nearest(bank[:5], bank, 2500)
    assert called == [11] and neighbours.backend().endswith("gpu")
    search_on(torch.device("cpu"))
    np.testing.assert_array_equal(nearest(bank[:5], bank, 10)[1], expected)
    assert called == [11] and neighbours.backend().endswith("cpu")
    search_on(torch.device("cuda", 3))
    nearest(bank[:5], bank, 10)
    assert called == [11, 11] and gpus == [-1, 3]
