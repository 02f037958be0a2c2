from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.decomposition
import sklearn.preprocessing
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ukd.objectives.targets import MIN_SPREAD, Standardised, Target, Whitened, target_of
from ukd.row_blocks import RowBlocks

seeds = st.integers(0, 2**32 - 1)


def rows(seed: int, n: int, dim: int) -> Tensor:
    """Rows with a mean, of correlated dimensions of different scales."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    mixed = mixed @ torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return mixed + torch.randn(dim, generator=generator, dtype=torch.float64)


def test_by_name() -> None:
    assert type(target_of("none", 3)) is Target
    assert type(target_of("standardised", 3)) is Standardised
    assert type(target_of("whitened", 3)) is Whitened
    x = rows(0, 4, 3)
    assert target_of("none", 3)(x, 0.5) is x


def test_standardised_by_hand() -> None:
    target = Standardised(1).double()
    first, second = torch.tensor([[1.0], [5.0]]).double(), torch.tensor([[5.0], [7.0]]).double()
    assert target(first, progress=0.0).tolist() == [[1], [5]]  # Nothing is known of the teacher yet.
    # The first batch has mean 3 and deviation 2, and counts alone.
    assert target(second, progress=1 / 2).tolist() == [[1], [2]]
    # The second has 6 and 1, and counts 0.001 + 0.999 / 2.
    weight = 0.001 + 0.999 / 2
    assert target.mean.item() == pytest.approx(3 + 3 * weight) and target.std.item() == pytest.approx(2 - weight)


@given(seed=seeds, num_batches=st.integers(1, 5))
def test_standardised_equals_a_loop_over_the_formula(seed: int, num_batches: int) -> None:
    target = Standardised(3).double()
    mean, std = [0.0] * 3, [1.0] * 3
    for step in range(num_batches):
        batch = rows(seed + step, 4, 3)
        expected = [[(x - m) / s for x, m, s in zip(row, mean, std, strict=True)] for row in batch.tolist()]
        assert np.allclose(target(batch, step / num_batches), expected, rtol=0, atol=1e-10)
        weight = 0.001 + (1 - 0.001) * (1 + math.cos(math.pi * step / num_batches)) / 2
        for j, column in enumerate(batch.T.tolist()):
            average = math.fsum(column) / 4
            deviation = math.sqrt(math.fsum((x - average) ** 2 for x in column) / 4)
            mean[j] = (1 - weight) * mean[j] + weight * average
            std[j] = (1 - weight) * std[j] + weight * deviation
    assert target.mean.tolist() == pytest.approx(mean, abs=1e-12)


def test_at_the_start_it_is_scikit_learns_scaler() -> None:
    target, batch = Standardised(4).double(), rows(0, 6, 4)
    target(batch, progress=0.0)
    expected = sklearn.preprocessing.StandardScaler().fit_transform(batch)
    np.testing.assert_allclose(target(batch, progress=0.9), expected, rtol=0, atol=1e-10)


def test_in_eval_mode_the_statistics_stay() -> None:
    target, batch = Standardised(3).double(), rows(0, 4, 3)
    target(batch, 0.0)
    before = target.mean.clone(), target.std.clone()
    target.eval()(batch + 5, 0.1)
    assert torch.equal(target.mean, before[0]) and torch.equal(target.std, before[1])


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_dimension_that_hardly_varies_is_not_blown_up(size: float) -> None:
    target, batch = Standardised(4), rows(0, 8, 4).float() * size
    batch[:, 2] = 3 * size
    target(batch, 0.0)
    found = target(batch, 0.1)
    torch.testing.assert_close(found[:, [0, 1, 3]].std(0, correction=0), torch.ones(3))
    assert (found[:, 2].abs() < 1e-3).all()
    batch[0, 2] = 4 * size
    std = batch[:, [0, 1, 3]].double().std(0, correction=0)
    assert target(batch, 0.2)[0, 2] < 1.001 * size / MIN_SPREAD / (std.square().sum() / 4).sqrt()


def test_equal_images_are_not_scaled() -> None:
    target = Standardised(3)
    same = torch.ones(4, 3)
    target(same, 0.0)
    assert target(same + 1, 0.1).tolist() == [[1, 1, 1]] * 4
    whitened = Whitened(3)
    whitened.fit(RowBlocks(same))
    torch.testing.assert_close(whitened(same + 1, 0.1), torch.ones(4, 3))


@given(seed=seeds)
def test_whitened_dimensions_are_uncorrelated_and_of_variance_1(seed: int) -> None:
    bank = rows(seed, 40, 4)
    target = Whitened(4).double()
    target.fit(RowBlocks(bank))
    found = target(bank, 0.0)
    variance = np.linalg.eigvalsh(np.cov(bank.T, bias=True))
    if variance[0] > MIN_SPREAD**2 * variance.mean():
        np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(4), rtol=0, atol=1e-8)
        # Whitening is unique but for a rotation, which the products of images do not see.
        theirs = sklearn.decomposition.PCA(whiten=True).fit_transform(bank) * math.sqrt(40 / 39)
        np.testing.assert_allclose(found @ found.T, theirs @ theirs.T, rtol=0, atol=1e-7)
    torch.testing.assert_close(target.whitening, target.whitening.T)


def test_whitening_leaves_white_features_as_they_are() -> None:
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    target = Whitened(2)
    target.fit(RowBlocks(corners + 3))
    torch.testing.assert_close(target(corners + 3, 0.0), corners)


def test_directions_that_hardly_vary_are_not_blown_up() -> None:
    bank = rows(0, 40, 4)
    bank[:, 3] = bank[:, 2]
    target = Whitened(4).double()
    target.fit(RowBlocks(bank))
    variance = torch.linalg.eigvalsh(torch.cov(bank.T, correction=0)).mean()
    assert torch.linalg.eigvalsh(target.whitening)[-1].item() == pytest.approx(1 / MIN_SPREAD / variance.sqrt().item())
