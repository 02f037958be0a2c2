"""Searches of features as they are, against scikit-learn, SciPy's distances and a full matrix; ties; bad rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from ukd.errors import DataError
from ukd.eval import raw_neighbours
from ukd.eval.raw_neighbours import nearest_by_product, nearest_others_by_distance

INTEGERS = st.integers(2, 20).flatmap(
    lambda n: hnp.arrays(np.float32, (n, 3), elements=st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0]))
)


def random(num: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, dim)).astype(np.float32)


def test_distances_are_scikit_learns_however_far_from_the_origin() -> None:
    rows = random(300, 16) * np.linspace(0.1, 5, 300)[:, None]
    theirs = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(rows).kneighbors(return_distance=False)
    np.testing.assert_array_equal(nearest_others_by_distance(rows, 10), theirs)
    np.testing.assert_array_equal(nearest_others_by_distance(1e4 * rows + 1e5, 10), theirs)


@given(rows=INTEGERS, data=st.data())
def test_of_equal_distances_the_lowest_row_is_first(rows: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(rows) - 1))
    distances = cdist(rows, rows, "sqeuclidean")
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :k]
    found = nearest_others_by_distance(rows, k)
    np.testing.assert_allclose(
        np.take_along_axis(distances, found, axis=1), np.take_along_axis(distances, expected, axis=1)
    )
    assert all(len(set(row)) == k for row in found.tolist())
    if len(np.unique(rows, axis=0)) == 1:
        np.testing.assert_array_equal(found, expected)


@given(bank=INTEGERS, data=st.data())
def test_products_are_those_of_the_full_matrix_and_ties_go_to_the_lowest_row(
    bank: np.ndarray, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(bank)))
    full = bank[::-1] @ bank.T
    products, index = nearest_by_product(bank[::-1], bank, k)
    np.testing.assert_array_equal(index, np.argsort(-full, axis=1, kind="stable")[:, :k])
    np.testing.assert_array_equal(products, np.take_along_axis(full, index, axis=1))


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = random(40, 8), random(90, 8, seed=1)
    whole, others = nearest_by_product(queries, bank, 7), nearest_others_by_distance(bank, 7)
    monkeypatch.setattr(raw_neighbours, "TILE_ENTRIES", 500)
    monkeypatch.setattr(raw_neighbours, "TILE_ROWS", 13)
    for ours, theirs in zip(nearest_by_product(queries, bank, 7), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(nearest_others_by_distance(bank, 7), others)


def test_broken_rows_are_named() -> None:
    rows = random(20, 4)
    rows[3, 1] = np.nan
    with pytest.raises(DataError, match=r"bank: NaN or infinity in 1 of 20 rows \(row 3\)"):
        nearest_by_product(random(5, 4), rows, 2)
    with pytest.raises(DataError, match=r"features: NaN or infinity in 1 of 20 rows \(row 3\)"):
        nearest_others_by_distance(rows, 2)
