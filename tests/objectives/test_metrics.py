from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tests.objectives.features import pair
from ukd.objectives.metrics import WEIGHTS, Metric, by_image, cross_entropy_by_image

seeds = st.integers(0, 2**32 - 1)
every_metric = pytest.mark.parametrize("metric", WEIGHTS)


def loss(metric: Metric, student: Tensor, target: Tensor) -> Tensor:
    return torch.stack([*by_image(metric, student, target).values()]).sum(0)


# Differences 3 and 0.5: their squares are 9 and 0.25, Huber's function of them 2.5 and 0.125. The cosine is 3 / 5.
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("cosine", 2 * 0.4),
        ("mse", 9.25 / 2),
        ("smooth_l1", 2.625 / 2),
        ("unic", 0.5 * 0.4 + 0.5 * 2.625 / 2),
        ("radio", 0.9 * 0.4 + 0.1 * 2.625 / 2),
    ],
)
def test_by_hand(metric: Metric, expected: float) -> None:
    difference = torch.tensor([[3.0, -0.5]])
    cosine = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]])
    parts = by_image(metric, difference, torch.zeros(1, 2)) | {
        name: part for name, part in by_image(metric, *cosine).items() if name == "cosine"
    }
    assert torch.stack([*parts.values()]).sum().item() == pytest.approx(expected)


def loop(metric: str, s: list[float], t: list[float]) -> float:
    """The formula of the docstring, one number at a time."""
    cos = math.fsum(a * b for a, b in zip(s, t, strict=True)) / math.hypot(*s) / math.hypot(*t)
    differences = [a - b for a, b in zip(s, t, strict=True)]
    squares = math.fsum(x * x for x in differences) / len(s)
    huber = math.fsum(x * x / 2 if abs(x) < 1 else abs(x) - 0.5 for x in differences) / len(s)
    return {
        "cosine": 2 - 2 * cos,
        "mse": squares,
        "smooth_l1": huber,
        "unic": 0.5 * (1 - cos) + 0.5 * huber,
        "radio": 0.9 * (1 - cos) + 0.1 * huber,
    }[metric]


@every_metric
@given(seed=seeds, n=st.integers(1, 5), dim=st.integers(1, 6))
def test_equals_a_loop_over_the_formula(metric: Metric, seed: int, n: int, dim: int) -> None:
    student, target = pair(seed, n, dim, dim)
    expected = [loop(metric, s, t) for s, t in zip(student.tolist(), target.tolist(), strict=True)]
    assert loss(metric, student, target).tolist() == pytest.approx(expected, abs=1e-10)


@given(seed=seeds, student_temp=st.floats(0.05, 2), target_temp=st.floats(0.02, 2))
def test_cross_entropy_equals_torchs(seed: int, student_temp: float, target_temp: float) -> None:
    student, target = pair(seed, 4, 5, 5)
    probabilities = (target / target_temp).softmax(1)
    expected = functional.cross_entropy(student / student_temp, probabilities, reduction="none")
    found = cross_entropy_by_image(student, target, student_temp, target_temp)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@every_metric
def test_least_where_the_student_is_the_target(metric: Metric) -> None:
    target = pair(0, 5, 4, 4)[0]
    student = target.clone().requires_grad_()
    found = loss(metric, student, target)
    found.sum().backward()
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)
    assert student.grad is not None and student.grad.abs().max() < 1e-12


@every_metric
def test_fp32_of_half_precision(metric: Metric) -> None:
    student, target = torch.randn(2, 3, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [*by_image(metric, student, target).values(), cross_entropy_by_image(student, target, 0.1, 0.04)]
    assert all(part.dtype == torch.float32 and part.shape == (3,) for part in parts)
