from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import sklearn.decomposition
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ukd.errors import UserError
from ukd.objectives.quantisation import (
    cluster_centres,
    iterative_quantisation,
    nearest_centre,
    project,
    signs,
    telling_bits,
)
from ukd.row_blocks import RowBlocks

seeds = st.integers(0, 2**32 - 1)


def rows(seed: int, n: int, dim: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.2, 2, dim, dtype=torch.float64)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) * scales + 0.7


def error(components: Tensor) -> float:
    """Mean squared distance of rows to their codes, which ITQ makes small (equation 2)."""
    return float((signs(components) - components).square().sum(1).mean())


def test_signs() -> None:
    assert signs(torch.tensor([-0.5, -0.0, 0.0, 3.0])).tolist() == [-1, 1, 1, 1]


@given(seed=seeds)
def test_every_step_brings_the_rows_closer_to_their_codes(seed: int) -> None:
    x, errors = rows(seed, 60, 5), []
    for num_steps in (0, 1, 2, 5, 50):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ukd.objectives.quantisation.ITQ_STEPS", num_steps)
            errors.append(error(project(RowBlocks(x), *iterative_quantisation(RowBlocks(x), 3))))
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


@given(seed=seeds, bits=st.integers(1, 4))
def test_a_rotation_of_the_principal_components_that_is_a_fixed_point(seed: int, bits: int) -> None:
    x = rows(seed, 60, 4)
    mean, projection = iterative_quantisation(RowBlocks(x), bits)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(projection.T @ projection, torch.eye(bits, dtype=torch.float64), rtol=0, atol=1e-10)
    components = project(RowBlocks(x), mean, projection)
    pca = sklearn.decomposition.PCA(bits).fit_transform(x)
    # A rotation leaves the products of rows as they are.
    np.testing.assert_allclose(components @ components.T, pca @ pca.T, rtol=0, atol=1e-8)
    best = scipy.linalg.orthogonal_procrustes(components.numpy(), signs(components).numpy())[0]
    np.testing.assert_allclose(best, np.eye(bits), rtol=0, atol=1e-6)


@given(seed=seeds)
def test_narrow_rows_are_spread_over_all_bits(seed: int) -> None:
    x = rows(seed, 60, 2)
    mean, projection = iterative_quantisation(RowBlocks(x), 8)
    assert projection.shape == (2, 8)
    components = project(RowBlocks(x), mean, projection)
    centred = x - x.mean(0)
    torch.testing.assert_close(components @ components.T, centred @ centred.T)
    assert (signs(components).mean(0).abs() < 1).all()


def test_it_is_the_same_every_time() -> None:
    x = rows(0, 50, 6)
    state = torch.get_rng_state()
    first, second = iterative_quantisation(RowBlocks(x), 4), iterative_quantisation(RowBlocks(x), 4)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(cluster_centres(x, 5), cluster_centres(x, 5))
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_of_rows_are_all_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows(0, 50, 6)
    whole = iterative_quantisation(RowBlocks(x), 4)
    monkeypatch.setattr("ukd.row_blocks.ROWS_AT_ONCE", 7)
    by_blocks = iterative_quantisation(RowBlocks(x), 4)
    for one, other in zip(by_blocks, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_separate_heaps_are_the_clusters() -> None:
    heaps = torch.arange(60) % 3
    x = 100 * torch.eye(3, dtype=torch.float64)[heaps] + rows(0, 60, 3)
    found = nearest_centre(x, cluster_centres(x, 3))
    assert len(torch.unique(torch.stack([heaps, found]), dim=1).T) == 3


def test_more_clusters_than_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"^num_clusters: 9 clusters cannot be made of 8 .* choose num_clusters <= 8$"):
        cluster_centres(rows(0, 8, 2), 9)


def test_telling_bits_by_hand() -> None:
    # Means in cluster 0: 1, 0, 1/2, -1; in cluster 1: 0, 0, 0, -1; no image is in cluster 2.
    codes = torch.tensor(
        [[1, 1, 1, -1], [1, -1, 1, -1], [1, 1, 1, -1], [1, -1, -1, -1], [1, 1, 1, -1], [-1, -1, -1, -1]]
    )
    clusters = torch.tensor([0, 0, 0, 0, 1, 1])

    def kept(margin: float) -> list[list[float]]:
        masks: list[list[float]] = telling_bits(codes.double(), clusters, 3, margin).tolist()
        return masks

    assert kept(0.5) == [[0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    # The half that is shared least stays, even where the margin would silence it.
    assert kept(0.1) == [[0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert kept(1.0) == [[1, 1, 1, 1]] * 3


@given(seed=seeds, bits=st.integers(1, 7), margin=st.floats(0, 1))
def test_at_least_half_of_the_bits_tell(seed: int, bits: int, margin: float) -> None:
    codes = signs(rows(seed, 20, bits))
    clusters = torch.arange(20) % 4
    masks = telling_bits(codes, clusters, 4, margin)
    assert (2 * masks.sum(1) >= bits).all()
    for cluster in range(4):
        shared = codes[clusters == cluster].mean(0).abs()
        assert masks[cluster][shared <= margin].all()
        silenced = shared[masks[cluster] == 0]
        assert not len(silenced) or silenced.min() >= shared[masks[cluster] == 1].max() - 1e-12
