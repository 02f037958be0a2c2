from __future__ import annotations

import math

import pytest
import scipy.special
import sklearn.metrics.pairwise
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.objectives.features import pair, rotation, total
from ukd.objectives.gram import Gram

seeds = st.integers(0, 2**32 - 1)
kernels = st.sampled_from(["sp", "pkt", "softmax"])


def loss(kernel: str, student: Tensor, teacher: Tensor, temp: float = 0.07) -> Tensor:
    return total(Gram(student.shape[1], teacher.shape[1], kernel=kernel, temp=temp), student, teacher)  # type: ignore[arg-type]


def dot(x: list[float], y: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def rows_of(kernel: str, features: Tensor, temp: float) -> list[list[float]]:
    """What an image is to the others by the papers' formulas, one number at a time."""
    x, found = features.tolist(), []
    for i, row in enumerate(x):
        if kernel == "sp":
            products = [dot(row, other) for other in x]
            found.append([product / math.hypot(*products) for product in products])
            continue
        cosines = [dot(row, other) / math.hypot(*row) / math.hypot(*other) for j, other in enumerate(x) if j != i]
        affinities = [(1 + cos) / 2 if kernel == "pkt" else math.exp(cos / temp) for cos in cosines]
        found.append([affinity / math.fsum(affinities) for affinity in affinities])
    return found


def loop(kernel: str, student: Tensor, teacher: Tensor, temp: float) -> float:
    pairs = zip(rows_of(kernel, student, temp), rows_of(kernel, teacher, temp), strict=True)
    n = len(student)
    if kernel == "sp":
        return math.fsum((a - b) ** 2 for s, t in pairs for a, b in zip(s, t, strict=True)) / n**2
    return math.fsum(b * math.log(b / a) for s, t in pairs for a, b in zip(s, t, strict=True)) / n


def test_sp_by_hand() -> None:
    # Student: the Gram matrix is [[1, 1], [1, 2]], its rows scaled (1, 1) / sqrt(2) and (1, 2) / sqrt(5).
    student, teacher = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.eye(2)
    a, b = 1 / math.sqrt(2), 1 / math.sqrt(5)
    expected = ((1 - a) ** 2 + a**2 + b**2 + (1 - 2 * b) ** 2) / 4
    assert loss("sp", student, teacher).item() == pytest.approx(expected)


def test_pkt_by_hand() -> None:
    # To the first image, the other two have affinity 1/2 and 0 + 1/2 for the teacher (90 degrees both), and for the
    # student 1 and 1/2: (1/2, 1/2) against (2/3, 1/3). So for the second. To the third, both are alike to both.
    student = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    expected = (2 * (math.log(3 / 4) + math.log(3 / 2)) / 2 + 0) / 3
    assert loss("pkt", student, torch.eye(3)).item() == pytest.approx(expected)


def test_softmax_by_hand() -> None:
    # As above, with temperature 1: (1/2, 1/2) against (e, 1) / (e + 1), twice in three.
    student = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    divergence = math.log((math.e + 1) / 2) - 1 / 2
    assert loss("softmax", student, torch.eye(3), temp=1.0).item() == pytest.approx(2 * divergence / 3)


@given(
    seed=seeds, kernel=kernels, n=st.integers(2, 6), dims=st.tuples(*[st.integers(2, 6)] * 2), temp=st.floats(0.05, 2)
)
def test_equals_a_loop_over_the_formula(seed: int, kernel: str, n: int, dims: tuple[int, int], temp: float) -> None:
    student, teacher = pair(seed, n, *dims)
    expected = loop(kernel, student, teacher, temp)
    assert loss(kernel, student, teacher, temp).item() == pytest.approx(expected, abs=1e-10)


@given(seed=seeds)
def test_equals_scikit_learn_and_scipy(seed: int) -> None:
    student, teacher = pair(seed, 5, 3, 4)
    s, t = (sklearn.metrics.pairwise.cosine_similarity(x) for x in (student, teacher))
    divergence = 0.0
    for i in range(5):
        p, q = ([(1 + x[i, j]) / 2 for j in range(5) if j != i] for x in (t, s))
        divergence += scipy.special.rel_entr([x / sum(p) for x in p], [x / sum(q) for x in q]).sum()
    assert loss("pkt", student, teacher).item() == pytest.approx(divergence / 5, abs=1e-10)


@given(seed=seeds, kernel=kernels, factor=st.floats(1e-3, 1e3))
def test_turning_and_scaling_the_student_is_nothing(seed: int, kernel: str, factor: float) -> None:
    student, teacher = pair(seed, 6, 4, 3)
    turned = factor * student @ rotation(4)
    torch.testing.assert_close(loss(kernel, turned, teacher), loss(kernel, student, teacher), rtol=0, atol=1e-10)
    assert loss(kernel, factor * teacher @ rotation(3), teacher).abs() < 1e-12 < loss(kernel, student, teacher)


def test_opposite_images_have_a_finite_divergence() -> None:
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    found = loss("pkt", student, torch.ones(3, 2))
    found.backward()
    assert found.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_no_parameters() -> None:
    assert not Gram(3, 4).state_dict()
