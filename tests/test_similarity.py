from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import sklearn.metrics.pairwise
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ukd.row_blocks import RowBlocks
from ukd.similarity import (
    cosine,
    cosine_from_sums,
    cosine_sums,
    distances,
    dot_products,
    info_nce,
    kl_divergence,
    moments,
    normalised,
    soft_cross_entropy,
)

seeds = st.integers(0, 2**32 - 1)


def pair(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return a, b


def test_by_hand() -> None:
    # (3, 4).(4, 3) = 24, both have length 5; (1, 0).(0, 2) = 0.
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    b = torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    torch.testing.assert_close(cosine(a, b), torch.tensor([24 / 25, 0.0]))
    # Columns: (3, 1).(4, 0) = 12 over sqrt(10) * 4; (4, 0).(3, 2) = 12 over 4 * sqrt(13).
    by_column = torch.tensor([3 / math.sqrt(10), 3 / math.sqrt(13)])
    torch.testing.assert_close(cosine(a, b, dim=0), by_column)


@given(seed=seeds, rows=st.integers(1, 5), dim=st.integers(1, 7))
def test_equals_scipy_and_scikit_learn(seed: int, rows: int, dim: int) -> None:
    a, b = pair(seed, rows, dim)
    ours = cosine(a, b).numpy()
    scipys = [1 - scipy.spatial.distance.cosine(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(ours, scipys, rtol=0, atol=1e-12)
    sklearns = sklearn.metrics.pairwise.cosine_similarity(a.numpy(), b.numpy())
    np.testing.assert_allclose(ours, sklearns.diagonal(), rtol=0, atol=1e-12)


@given(seed=seeds)
def test_sums_of_parts_add_up(seed: int) -> None:
    a, b = pair(seed, 7, 3)
    parts = sum(cosine_sums(a[rows], b[rows], dim=0) for rows in (slice(0, 2), slice(2, 7)))
    assert isinstance(parts, Tensor)
    torch.testing.assert_close(cosine_from_sums(parts), cosine(a, b, dim=0), rtol=0, atol=1e-12)


def test_gradient() -> None:
    a, b = pair(0, 3, 4)
    assert torch.autograd.gradcheck(cosine, (a.requires_grad_(), b.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_zero_vector_has_similarity_and_gradient_zero(dtype: torch.dtype) -> None:
    a = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    b = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    similarity = cosine(a, b)
    similarity.sum().backward()
    assert a.grad is not None and b.grad is not None
    assert not similarity.any() and not a.grad.any() and not b.grad.any()


@pytest.mark.parametrize("size_a", [1e-45, 1e-38, 1e-30, 1.0, 1e30, 1e37])
@pytest.mark.parametrize("size_b", [1e-30, 1e37])
def test_extreme_magnitudes(size_a: float, size_b: float) -> None:
    a, b = (x.float() for x in pair(1, 4, 8))
    extreme_a = (a * size_a).requires_grad_()
    extreme_b = (b * size_b).requires_grad_()
    similarity = cosine(extreme_a, extreme_b)
    similarity.sum().backward()
    counts_as_zero = size_a < 1e-31
    expected = torch.zeros(4) if counts_as_zero else cosine(a, b)
    torch.testing.assert_close(similarity, expected, rtol=1e-5, atol=1e-6)
    assert extreme_a.grad is not None and extreme_a.grad.isfinite().all()
    assert extreme_b.grad is not None and extreme_b.grad.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_not_hidden(bad: float) -> None:
    a, b = torch.tensor([[bad, 1.0]]), torch.tensor([[1.0, 1.0]])
    assert cosine(a, b).isnan()
    assert cosine(b, a).isnan()


@pytest.mark.parametrize(
    ("of_a", "of_b", "expected"),
    [
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float32, torch.float32, torch.float32),
        (torch.float64, torch.bfloat16, torch.float64),
    ],
)
@pytest.mark.parametrize("autocast", [False, True])
def test_dtype(of_a: torch.dtype, of_b: torch.dtype, expected: torch.dtype, autocast: bool) -> None:
    a, b = pair(2, 3, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        similarity = cosine(a.to(of_a), b.to(of_b))
    assert similarity.dtype == expected
    exact = cosine(a.to(of_a).double(), b.to(of_b).double())
    torch.testing.assert_close(similarity.double(), exact, rtol=0, atol=1e-7)


@given(seed=seeds, rows=st.integers(1, 5), others=st.integers(1, 5), dim=st.integers(1, 7))
def test_pairs_of_rows_equal_scipy_and_scikit_learn(seed: int, rows: int, others: int, dim: int) -> None:
    a, b = (x[0] for x in (pair(seed, rows, dim), pair(seed + 1, others, dim)))
    found = dot_products(normalised(a), normalised(b)).numpy()
    np.testing.assert_allclose(found, sklearn.metrics.pairwise.cosine_similarity(a, b), rtol=0, atol=1e-12)
    expected = scipy.spatial.distance.cdist(a.numpy(), b.numpy())
    np.testing.assert_allclose(distances(a, b).numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(normalised(a, dim=0).norm(dim=0), 1, rtol=0, atol=1e-12)


def test_dot_products_of_each_image_by_itself() -> None:
    a, b = pair(0, 3, 4, 5)
    expected = [dot_products(rows, others).tolist() for rows, others in zip(a, b[:, :2], strict=True)]
    assert dot_products(a, b[:, :2]).tolist() == expected


def test_gradients_of_normalised_and_distances() -> None:
    a, b = pair(0, 3, 4)
    assert torch.autograd.gradcheck(normalised, a.requires_grad_())
    assert torch.autograd.gradcheck(distances, (a, b.requires_grad_()))


def test_zero_rows_and_equal_rows_have_a_gradient_of_zero() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit = normalised(rows)
    unit[0].sum().backward()
    assert unit.tolist() == [[0.0, 0.0], [torch.tensor(0.6).item(), torch.tensor(0.8).item()]]
    assert rows.grad is not None and not rows.grad.any()
    found = distances(rows, rows.detach() * (1 + 1e-7))
    found.diagonal().sum().backward()
    assert found.diagonal().tolist() == [0, 0] and not rows.grad.any()
    torch.testing.assert_close(found[0, 1].item(), 5.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e10, 1e30])
def test_pairs_of_rows_at_extreme_magnitudes(size: float) -> None:
    a, b = (x.float() for x in pair(1, 4, 8))
    large = (a * size).requires_grad_()
    similarity, distance = dot_products(normalised(large), normalised(b * size)), distances(large, b * size)
    torch.testing.assert_close(similarity, dot_products(normalised(a), normalised(b)))
    torch.testing.assert_close(distance / size, distances(a, b), rtol=1e-6, atol=1e-6)
    (similarity.sum() + (distance / size).sum()).backward()
    assert large.grad is not None and large.grad.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_pairs_of_rows_do_not_hide_nan_and_infinity(bad: float) -> None:
    a = torch.tensor([[bad, 1.0]])
    assert normalised(a).isnan().any() and distances(a, torch.ones(1, 2)).isnan().all()


def test_autocast_changes_nothing() -> None:
    a, b = (x.float() for x in pair(3, 4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = [normalised(a), dot_products(a, b), distances(a, b), soft_cross_entropy(a, b)]
    torch.testing.assert_close(under_autocast, [normalised(a), a @ b.T, distances(a, b), soft_cross_entropy(a, b)])
    assert dot_products(a.bfloat16(), b).dtype == torch.float32


@given(seed=seeds, num_classes=st.integers(1, 6), size=st.floats(0.1, 100))
def test_cross_entropy_and_divergence_equal_scipy(seed: int, num_classes: int, size: float) -> None:
    teacher, student = (size * x for x in pair(seed, 3, num_classes))
    p, log_q = scipy.special.softmax(teacher, axis=1), scipy.special.log_softmax(student, axis=1)
    by_scipy = -(p * log_q).sum(1)
    np.testing.assert_allclose(soft_cross_entropy(teacher, student), by_scipy, rtol=0, atol=1e-10)
    divergence = kl_divergence(teacher, student)
    expected = by_scipy - scipy.special.entr(p).sum(1)
    np.testing.assert_allclose(divergence, expected, rtol=0, atol=1e-10)
    assert (divergence >= -1e-12).all()
    assert not kl_divergence(teacher, teacher + 3).abs().max() > 1e-12


@given(seed=seeds, num_negatives=st.integers(0, 6), size=st.floats(0.1, 100))
def test_info_nce_equals_torchs_cross_entropy(seed: int, num_negatives: int, size: float) -> None:
    positive, others = pair(seed, 3, 2)[0] * size, pair(seed, 3, num_negatives)[1] * size
    logits = torch.cat([positive[:, :, None], others[:, None].expand(3, 2, num_negatives)], dim=2)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), torch.zeros(6, dtype=torch.int64), reduction="none")
    torch.testing.assert_close(info_nce(positive, others[:, None]).flatten(), expected, rtol=0, atol=1e-10)


def test_info_nce_without_negatives_is_zero_with_a_zero_gradient_and_hides_no_nan() -> None:
    positive, nothing = torch.tensor([3.0, math.nan], requires_grad=True), torch.zeros(2, 0)
    found = info_nce(positive, nothing)
    found[0].backward()
    assert found[0] == 0 and found[1].isnan()
    assert positive.grad is not None and positive.grad[0] == 0


@given(seed=seeds, n=st.integers(1, 9), dim=st.integers(1, 4))
def test_moments_equal_numpys_however_rows_are_cut(seed: int, n: int, dim: int) -> None:
    rows = pair(seed, n, dim)[0].float() + 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ukd.row_blocks.ROWS_AT_ONCE", 2)
        mean, covariance = moments(RowBlocks(rows))
    exact = rows.numpy().astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(exact.T, bias=True).reshape(dim, dim), rtol=0, atol=1e-12)
