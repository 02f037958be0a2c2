"""Measures of spaces against slow loops from their formulas, scikit-learn, and cases known by analysis."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from sklearn.manifold import trustworthiness as oracle

from ukd.eval import spaces
from ukd.eval.spaces import (
    dimension_cosine,
    length_correlation,
    procrustes_error,
    rankme,
    trustworthiness,
    unbiased_cka,
    unbiased_hsic,
    unit,
)


def gaussian(num: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, dim))


def rotation(dim: int) -> np.ndarray:
    return np.linalg.qr(gaussian(dim, dim, seed=9))[0]


def hsic_by_the_formula(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012 with n x n matrices and loops, as it is printed."""
    num = len(x)
    kernels = []
    for rows in (x, y):
        kernels.append(np.array([[0.0 if i == j else a @ b for j, b in enumerate(rows)] for i, a in enumerate(rows)]))
    of_x, of_y = kernels
    trace = sum(of_x[i, j] * of_y[j, i] for i in range(num) for j in range(num))
    sums = of_x.sum() * of_y.sum() / ((num - 1) * (num - 2))
    rows_sums = 2 / (num - 2) * sum(of_x[:, i].sum() * of_y[i].sum() for i in range(num))
    return float((trace + sums - rows_sums) / (num * (num - 3)))


@settings(max_examples=40)
@given(
    num=st.integers(4, 12),
    dims=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    offset=st.sampled_from([0.0, 3.0, -100.0]),
    seed=st.integers(0, 1000),
)
def test_hsic_is_the_formula(num: int, dims: tuple[int, int], offset: float, seed: int) -> None:
    x, y = gaussian(num, dims[0], seed) + offset, gaussian(num, dims[1], seed + 1)
    y[:, 0] += x[:, 0] - offset
    scale = np.sqrt(hsic_by_the_formula(x - offset, x - offset) * hsic_by_the_formula(y, y))
    np.testing.assert_allclose(unbiased_hsic(x, y), hsic_by_the_formula(x, y), rtol=1e-9, atol=1e-9 * (scale + 1))


def test_hsic_is_the_same_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(100, 7), gaussian(100, 5, seed=1)
    whole = unbiased_hsic(x, y)
    monkeypatch.setattr(spaces, "TILE_ROWS", 13)
    np.testing.assert_allclose(unbiased_hsic(x, y), whole, rtol=1e-10)


def test_hsic_has_no_bias() -> None:
    estimates = [unbiased_hsic(gaussian(8, 3, 2 * trial), gaussian(8, 3, 2 * trial + 1)) for trial in range(2000)]
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / np.sqrt(len(estimates))


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_cka_knows_neither_rotation_nor_scale_nor_offset(offset: float) -> None:
    x = gaussian(300, 20)
    for same in (x, 5 * x + offset, x @ rotation(20), np.hstack([x, np.zeros((300, 9))])):
        assert unbiased_cka(x, same) == pytest.approx(1, abs=1e-9)
    assert unbiased_cka(x, x * np.linspace(0.1, 5, 20)) < 0.9  # type: ignore[operator]


def test_unrelated_spaces_have_no_cka_where_the_biased_estimator_sees_one() -> None:
    x, y = gaussian(256, 384), gaussian(256, 384, seed=1)
    centred = [z - z.mean(axis=0) for z in (x, y)]
    gram = [z @ z.T for z in centred]
    biased = (gram[0] * gram[1]).sum() / np.sqrt((gram[0] ** 2).sum() * (gram[1] ** 2).sum())
    assert biased > 0.55
    assert abs(unbiased_cka(x, y)) < 0.01  # type: ignore[arg-type]


def test_a_collapsed_space_has_no_cka() -> None:
    x = gaussian(50, 8).astype(np.float32)
    constant = np.full((50, 8), 0.1, dtype=np.float32)
    assert unbiased_cka(x, constant) is None and unbiased_cka(np.zeros_like(x), x) is None
    assert unbiased_cka(x, constant + 1e-3 * x) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("rank", [1, 5, 40])
def test_rankme_of_equal_directions_is_their_number(rank: int) -> None:
    basis = np.linalg.qr(gaussian(200, rank))[0] @ np.linalg.qr(gaussian(64, rank, seed=1))[0].T
    assert rankme(basis, eps=1e-7) == pytest.approx(rank, rel=2e-4)
    assert rankme(1e-6 * basis, eps=1e-7) == pytest.approx(rank, rel=2e-4)


def test_rankme_by_hand_and_at_its_ends() -> None:
    values = np.array([3.0, 1.0])
    features = np.zeros((5, 2))
    features[:2] = np.diag(values)
    assert rankme(features, eps=0.0) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert rankme(np.zeros((5, 3)), eps=1e-7) == 1
    assert rankme(gaussian(500, 8) + 100, eps=1e-7) < 1.5  # Not centred: an offset is a direction.


def trustworthiness_by_the_formula(original: np.ndarray, embedded: np.ndarray, k: int) -> float:
    num, penalty = len(original), 0
    for i in range(num):
        others = [j for j in range(num) if j != i]
        ranked = sorted(others, key=lambda j: -original[i] @ original[j])
        near = sorted(others, key=lambda j: -embedded[i] @ embedded[j])[:k]
        penalty += sum(max(0, ranked.index(j) + 1 - k) for j in near)
    return 1 - 2 * penalty / (num * k * (2 * num - 3 * k - 1))


def test_trustworthiness_is_scikit_learns_and_the_formula() -> None:
    x = gaussian(60, 10)
    y = x[:, :2] + 0.3 * gaussian(60, 2, seed=1)
    units = unit(x), unit(y)
    assert trustworthiness(*units, 7) == oracle(x, units[1], n_neighbors=7, metric="cosine")
    assert trustworthiness(*units, 7) == pytest.approx(trustworthiness_by_the_formula(*units, 7), abs=1e-12)
    assert trustworthiness(units[0], units[0], 7) == 1


@pytest.mark.parametrize("dims", [(6, 6), (4, 9), (9, 4)])
def test_the_procrustes_error_is_that_of_scipys_rotation(
    dims: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = gaussian(200, dims[0]) + 3, gaussian(200, dims[1], seed=1) - 50
    y[:, : min(dims)] += 2 * x[:, ::-1][:, : min(dims)]
    wide = [np.pad(z - z.mean(axis=0), ((0, 0), (0, max(dims) - z.shape[1]))) for z in (x, y)]
    turn, total = orthogonal_procrustes(*wide)
    scale = total / np.square(wide[0]).sum()
    expected = np.linalg.norm(scale * wide[0] @ turn - wide[1]) / np.linalg.norm(wide[1])
    monkeypatch.setattr(spaces, "TILE_ROWS", 37)
    assert 0.1 < expected < 0.9 and procrustes_error(x, y) == pytest.approx(expected, rel=1e-9)
    assert procrustes_error(x, 7 * x @ rotation(dims[0]) + 2) == pytest.approx(0, abs=1e-6)


def test_each_dimension_has_its_cosine_over_the_images() -> None:
    x, y = gaussian(40, 5), gaussian(40, 5, seed=1) + 1
    y[:, 2] = 0
    slow = [
        sum(a * b for a, b in zip(x[:, d], y[:, d], strict=True))
        / (sum(a * a for a in x[:, d]) * sum(b * b for b in y[:, d])) ** 0.5
        for d in (0, 1, 3, 4)
    ]
    assert dimension_cosine(x, y) == pytest.approx(sum(slow) / 5, abs=1e-12)
    x[:, 2] = 0
    assert dimension_cosine(x, y) == pytest.approx(sum(slow) / 4, abs=1e-12)
    assert dimension_cosine(0 * x, 0 * y) is None
    x = gaussian(40, 5)
    assert dimension_cosine(x, x * np.array([1.0, 5.0, 0.1, -1.0, -2.0])) == pytest.approx(0.2)


def test_lengths_correlate_whatever_their_unit() -> None:
    x = gaussian(400, 6).astype(np.float32)
    assert length_correlation(x, 3 * x @ rotation(6)) == pytest.approx(1)
    assert abs(length_correlation(x, gaussian(400, 6, seed=1))) < 0.15  # type: ignore[arg-type]
    assert length_correlation(x, unit(x).astype(np.float16)) is None
    assert length_correlation(np.zeros_like(x), x) is None
