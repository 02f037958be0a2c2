from __future__ import annotations

import math
from itertools import permutations

import pytest
import scipy.spatial.distance
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ukd.objectives.rkd
from tests.objectives.features import batch, pair, rotation, total
from ukd.objectives.rkd import RKD

seeds = st.integers(0, 2**32 - 1)


def terms(student: Tensor, teacher: Tensor) -> tuple[float, float]:
    """Distance and angle term with weight 1."""
    objective = RKD(student.shape[1], teacher.shape[1], distance_weight=1.0, angle_weight=1.0)
    found = objective(batch(student, teacher))
    return found["distance"].item(), found["angle"].item()


def huber(a: float, b: float) -> float:
    return (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 1 / 2


def loop(student: Tensor, teacher: Tensor) -> tuple[float, float]:
    """The paper's formulas, one number at a time."""
    s, t = student.tolist(), teacher.tolist()
    pairs, triples = list(permutations(range(len(s)), 2)), list(permutations(range(len(s)), 3))

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values) if values else 0.0

    def psi_d(x: list[list[float]]) -> list[float]:
        found = [math.dist(x[i], x[j]) for i, j in pairs]
        return [distance / mean(found) for distance in found]

    def psi_a(x: list[list[float]], i: int, j: int, k: int) -> float:
        one = [a - b for a, b in zip(x[i], x[j], strict=True)]
        other = [a - b for a, b in zip(x[k], x[j], strict=True)]
        return math.fsum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)

    distance = mean([huber(a, b) for a, b in zip(psi_d(s), psi_d(t), strict=True)])
    return distance, mean([huber(psi_a(s, *triple), psi_a(t, *triple)) for triple in triples])


def test_by_hand() -> None:
    # Teacher: an equilateral triangle, so relative distances 1 and cosines 1 / 2. Student: three points in a row, at
    # distances 1, 1 and 2, so 3/4, 3/4 and 3/2; the cosine is 1 at the ends and -1 in the middle.
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    student = torch.tensor([[0.0], [7.0], [14.0]], dtype=torch.float64)
    distance = (2 * (1 / 4) ** 2 / 2 + (1 / 2) ** 2 / 2) / 3
    angle = (2 * (1 / 2) ** 2 / 2 + (3 / 2 - 1 / 2)) / 3
    assert terms(student, teacher) == pytest.approx((distance, angle), abs=1e-12)


@given(seed=seeds, n=st.integers(2, 6), dims=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_equals_a_loop_over_the_formula(seed: int, n: int, dims: tuple[int, int]) -> None:
    student, teacher = pair(seed, n, *dims)
    assert terms(student, teacher) == pytest.approx(loop(student, teacher), abs=1e-10)


@given(seed=seeds)
def test_distances_equal_scipy(seed: int) -> None:
    student, teacher = pair(seed, 6, 3, 4)
    s, t = (scipy.spatial.distance.pdist(x.numpy()) for x in (student, teacher))
    expected = [huber(a, b) for a, b in zip(s / s.mean(), t / t.mean(), strict=True)]
    assert terms(student, teacher)[0] == pytest.approx(math.fsum(expected) / len(expected), abs=1e-10)


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_turning_scaling_and_moving_the_student_is_nothing(seed: int, factor: float) -> None:
    student, teacher = pair(seed, 6, 4, 3)
    assert terms(factor * (student @ rotation(4) + 1), teacher) == pytest.approx(terms(student, teacher), abs=1e-10)
    assert terms(factor * (teacher @ rotation(3) + 1), teacher) == pytest.approx((0, 0), abs=1e-12)
    assert min(terms(student, teacher)) > 1e-6


def test_angles_a_few_at_a_time_are_all_angles(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = pair(0, 7, 3, 4)
    gradients, losses = [], []
    for at_once in (1, 150, 10**9):
        monkeypatch.setattr(ukd.objectives.rkd, "ANGLES_AT_ONCE", at_once)
        leaf = student.clone().requires_grad_()
        losses.append(total(RKD(3, 4), leaf, teacher))
        losses[-1].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(losses[:2], losses[2:] * 2, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients[:2], gradients[2:] * 2, rtol=0, atol=1e-12)


def test_weights() -> None:
    student, teacher = pair(0, 5, 3, 4)
    distance, angle = terms(student, teacher)
    found = RKD(3, 4)(batch(student, teacher))
    assert found["distance"].item() == pytest.approx(25 * distance)
    assert found["angle"].item() == pytest.approx(50 * angle)
    assert list(RKD(3, 4, angle_weight=0.0)(batch(student, teacher))) == ["distance"]


def test_two_images_have_no_angle() -> None:
    assert terms(*pair(0, 2, 3, 4)) == (0, 0)  # and one distance, which is its own mean


def test_no_parameters() -> None:
    assert not RKD(3, 4).state_dict()
