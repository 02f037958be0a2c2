from __future__ import annotations

import math

import pytest
import scipy.spatial.distance
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ukd.errors import UserError
from ukd.features import Features
from ukd.objectives import Batch
from ukd.objectives.cosine import Cosine
from ukd.objectives.heads import Projector


def batch(student: Tensor, teacher: Tensor) -> Batch:
    return Batch({0: Features(student)}, {0: Features(teacher)}, torch.arange(len(student)))


def loss(student: Tensor, teacher: Tensor) -> Tensor:
    term: Tensor = Cosine(student.shape[1], teacher.shape[1], head="none")(batch(student, teacher))["cosine"]
    return term


def test_by_hand() -> None:
    # Cosines 3 / 5 and -1: the terms are 2 - 1.2 = 0.8 and 4, their mean is 2.4.
    student = torch.tensor([[3.0, 4.0], [0.0, -5.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert loss(student, teacher).item() == pytest.approx(2.4)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), dim=st.integers(1, 6))
def test_equals_the_squared_distance_of_normalised_features(seed: int, n: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    by_loop = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        length_s, length_t = math.hypot(*s), math.hypot(*t)
        by_loop.append(math.fsum((a / length_s - b / length_t) ** 2 for a, b in zip(s, t, strict=True)))
    found = loss(student, teacher).item()
    assert found == pytest.approx(math.fsum(by_loop) / n, abs=1e-10)
    scipys = [2 * scipy.spatial.distance.cosine(s, t) for s, t in zip(student, teacher, strict=True)]
    assert found == pytest.approx(math.fsum(scipys) / n, abs=1e-10)
    order = torch.randperm(n)
    assert found == pytest.approx(loss(student[order], teacher[order]).item(), abs=1e-12)


def test_the_default_head_is_that_of_simreg() -> None:
    head = Cosine(8, 20).head
    assert isinstance(head, nn.Sequential)
    linear, norm, relu = nn.Linear, nn.BatchNorm1d, nn.ReLU
    assert [type(layer) for layer in head] == [linear, norm, relu, linear, linear, norm, relu, linear]
    widths = [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)]
    assert widths == [(8, 16), (16, 8), (8, 16), (16, 20)]


@pytest.mark.parametrize("head", ["simreg4", "mlp2", "linear"])
def test_every_head_trains_the_student_and_not_the_teacher(head: Projector) -> None:
    objective = Cosine(3, 5, head=head, hidden_dim=4)
    student, teacher = torch.randn(6, 3, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    objective(batch(student, teacher))["cosine"].backward()
    assert student.grad is not None and student.grad.any()
    assert teacher.grad is None
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_head_none_needs_equal_widths() -> None:
    assert not list(Cosine(8, 8, head="none").parameters())
    with pytest.raises(UserError, match=r"8 dimensions and the teacher's 12; choose head: simreg4, mlp2"):
        Cosine(8, 12, head="none")


def test_zero_student_rows_have_a_gradient_of_zero() -> None:
    student = torch.zeros(4, 3, requires_grad=True)
    loss(student, torch.randn(4, 3)).backward()
    assert student.grad is not None and not student.grad.any()


@pytest.mark.parametrize("head", ["simreg4", "mlp2", "linear"])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_fp32_and_finite_under_autocast_at_batch_2(head: Projector, size: float) -> None:
    student = torch.randn(2, 3, dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.randn(2, 5, dtype=torch.bfloat16) * size
    with torch.autocast("cpu", torch.bfloat16):
        term = Cosine(3, 5, head=head, hidden_dim=4)(batch(student, teacher))["cosine"]
    term.backward()
    assert term.dtype == torch.float32 and 0 <= term <= 4
    assert student.grad is not None and student.grad.isfinite().all()


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    first, second = Cosine(3, 5), Cosine(3, 5)
    features = batch(torch.randn(6, 3), torch.randn(6, 5))
    first(features)  # moves the running statistics of the batch norm
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(features)["cosine"], second(features)["cosine"])
    first.eval(), second.eval()
    assert torch.equal(first(features)["cosine"], second(features)["cosine"])
