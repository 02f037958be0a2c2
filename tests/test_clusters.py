"""Clusters by cosine and near-copies against scikit-learn and slow loops; the same for the same seed, from anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from tests.test_neighbour_lists import bursts, small_blocks, stored
from ukd import clusters as module
from ukd.clusters import near_copies, spherical_clusters
from ukd.errors import DataError, UserError
from ukd.neighbours import k_means
from ukd.store import open_store

CPU = torch.device("cpu")


def heaps(num: int = 400, num_heaps: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Directions about a few centres, of any length."""
    rng = np.random.default_rng(seed)
    of = rng.integers(num_heaps, size=num)
    rows = 5 * np.eye(16)[of] + rng.standard_normal((num, 16))
    return (rows * rng.uniform(0.01, 100, (num, 1))).astype(np.float32), of


def test_heaps_of_directions_are_the_clusters_whatever_the_lengths() -> None:
    rows, of = heaps()
    found = spherical_clusters(rows, 8, seed=0)
    assert adjusted_rand_score(of, found.of) > 0.98
    assert found.of.dtype == np.int32 and found.centres.dtype == found.cosine.dtype == np.float32


def test_every_row_is_with_its_nearest_centre_and_centres_are_mean_directions() -> None:
    rows, _ = heaps(num=200)
    found = spherical_clusters(rows, 5, seed=3)
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = unit @ found.centres.T
    np.testing.assert_allclose(similarity.max(1), found.cosine, atol=1e-6)
    np.testing.assert_allclose(similarity[np.arange(200), found.of], found.cosine, atol=1e-6)
    for cluster in range(5):
        mean = unit[found.of == cluster].mean(0)
        np.testing.assert_allclose(found.centres[cluster], mean / np.linalg.norm(mean), atol=1e-4)


def test_the_seed_decides_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float16).astype(np.float32)
    first, other = spherical_clusters(rows, 20, seed=1), spherical_clusters(rows, 20, seed=2)
    assert not np.array_equal(first.of, other.of)
    stored(rows, tmp_path)
    small_blocks(monkeypatch)
    for features in (rows, open_store(tmp_path)):
        again = spherical_clusters(features, 20, seed=1)
        np.testing.assert_array_equal(again.of, first.of)
        np.testing.assert_array_equal(again.centres, first.centres)


@pytest.mark.parametrize(("limit", "value"), [("ROWS_PER_CENTRE", 6), ("SAMPLE_BYTES", 48 * 16 * 4)])
def test_centres_come_from_a_sample_and_every_row_is_sorted(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(module, limit, value)
    monkeypatch.setattr(
        module, "k_means", lambda rows, *rest, **how: sizes.append(len(rows)) or k_means(rows, *rest, **how)
    )
    rows, of = heaps()
    found = spherical_clusters(rows, 8, seed=0)
    assert sizes == [48] and len(found.of) == 400 and adjusted_rand_score(of, found.of) > 0.7


def test_what_cannot_be_clustered_is_refused() -> None:
    with pytest.raises(UserError, match=r"clusters: 5 cannot be made of 4 images; choose a number from 1 to 4"):
        spherical_clusters(bursts(4), 5, seed=0)
    with pytest.raises(DataError, match=r"features: NaN or infinity in 1 of 4 rows"):
        spherical_clusters(np.where(np.arange(4)[:, None] == 2, np.nan, bursts(4)), 2, seed=0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), copies=st.integers(1, 12), in_blocks=st.booleans())
def test_near_copies_equal_a_loop_over_all_pairs(seed: int, copies: int, in_blocks: bool) -> None:
    rows = bursts(30, seed, copies)
    with pytest.MonkeyPatch.context() as patch:
        if in_blocks:
            small_blocks(patch)
            patch.setattr(module, "TILE_ROWS", 3)
            patch.setattr(module, "BLOCK_ENTRIES", 60)
        found = sorted(near_copies(rows, 0.97, CPU))
    unit = rows.astype(np.float64) / np.linalg.norm(rows, axis=1, keepdims=True)
    equal = (unit[:, None] == unit).all(2)
    first = equal.argmax(1)
    expected = [(int(first[row]), row, 1.0) for row in range(30) if first[row] < row]
    expected += [
        (a, b, float(unit[a] @ unit[b]))
        for a in range(30)
        for b in range(a + 1, 30)
        if first[a] == a and first[b] == b and unit[a] @ unit[b] > 0.97
    ]
    expected.sort()
    assert [pair[:2] for pair in found] == [pair[:2] for pair in expected]
    np.testing.assert_allclose([pair.cosine for pair in found], [pair[2] for pair in expected], atol=1e-6)
