from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.objectives.features import batch, pair, total
from ukd.objectives.seed import SEED

seeds = st.integers(0, 2**32 - 1)


def seed_of(past: Tensor, **options: float) -> SEED:
    """SEED without a head, in eval mode, that has seen these teacher features."""
    dim = past.shape[1]
    objective = SEED(dim, dim, head="none", queue_size=max(len(past), 1), **options)  # type: ignore[arg-type]
    objective.to(past.dtype)
    objective(batch(torch.ones_like(past), past))
    return objective.eval()


def loop(student: Tensor, teacher: Tensor, past: Tensor, student_temp: float, teacher_temp: float) -> float:
    """The paper's formula, one number at a time."""

    def unit(rows: Tensor) -> list[list[float]]:
        return [[x / math.hypot(*row) for x in row] for row in rows.tolist()]

    def probabilities(row: list[float], references: list[list[float]], temp: float) -> list[float]:
        logits = [math.fsum(a * b for a, b in zip(row, other, strict=True)) / temp for other in references]
        powers = [math.exp(logit - max(logits)) for logit in logits]
        return [power / math.fsum(powers) for power in powers]

    by_image = []
    for s, t in zip(unit(student), unit(teacher), strict=True):
        references = [t, *unit(past)]
        p, q = probabilities(t, references, teacher_temp), probabilities(s, references, student_temp)
        by_image.append(-math.fsum(a * math.log(b) for a, b in zip(p, q, strict=True)))
    return math.fsum(by_image) / len(by_image)


def test_by_hand() -> None:
    # The student looks away from its own image (similarity 0) and at the one in the queue (1); for the teacher it is
    # the other way round. At temperature 1 the distributions are (1, e) and (e, 1) over 1 + e.
    objective = seed_of(torch.tensor([[0.0, 2.0]]), student_temp=1.0, teacher_temp=1.0)
    found = total(objective, torch.tensor([[0.0, 5.0]]), torch.tensor([[3.0, 0.0]]))
    expected = (math.e * math.log(1 + math.e) + math.log(1 + 1 / math.e)) / (1 + math.e)
    assert found.item() == pytest.approx(expected)


@given(
    seed=seeds,
    n=st.integers(1, 5),
    num_past=st.integers(1, 6),
    student_temp=st.floats(0.05, 1),
    teacher_temp=st.floats(0.01, 1),
)
def test_equals_a_loop_over_the_formula(
    seed: int, n: int, num_past: int, student_temp: float, teacher_temp: float
) -> None:
    student, teacher = pair(seed, n, 4, 4)
    past = pair(seed + 1, num_past, 4, 4)[1]
    found = total(seed_of(past, student_temp=student_temp, teacher_temp=teacher_temp), student, teacher)
    assert found.item() == pytest.approx(loop(student, teacher, past, student_temp, teacher_temp), abs=1e-10)


@given(seed=seeds)
def test_as_the_teachers_temperature_falls_it_becomes_infonce(seed: int) -> None:
    student, teacher = pair(seed, 5, 4, 4)
    past = pair(seed + 1, 6, 4, 4)[1]
    s, t, q = (nn.functional.normalize(x) for x in (student, teacher, past))
    logits = torch.cat([(s * t).sum(1, keepdim=True), s @ q.T], dim=1) / 0.2
    info_nce = nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64))
    found = total(seed_of(past, student_temp=0.2, teacher_temp=1e-9), student, teacher)
    torch.testing.assert_close(found, info_nce, rtol=0, atol=1e-10)


@given(seed=seeds)
def test_least_at_equal_temperatures_where_the_student_is_the_teacher(seed: int) -> None:
    student, teacher = pair(seed, 5, 4, 4)
    objective = seed_of(pair(seed + 1, 6, 4, 4)[1], student_temp=0.1, teacher_temp=0.1)
    equal = teacher.clone().requires_grad_()
    least = total(objective, equal, teacher)
    least.backward()
    assert least < total(objective, student, teacher)
    assert equal.grad is not None and equal.grad.abs().max() < 1e-12


def test_the_queue_holds_the_batches_before_this_one() -> None:
    objective = SEED(3, 4, queue_size=8, hidden_dim=5)
    student, teacher = (x.float() for x in pair(0, 6, 3, 4))
    assert total(objective, student, teacher) == 0  # Nothing to be told from.
    torch.testing.assert_close(objective.queue(), nn.functional.normalize(teacher))
    total(objective.eval(), student, teacher)
    assert len(objective.queue()) == 6
    total(objective.train(), student, teacher)
    assert len(objective.queue()) == 8


def test_the_default_head_is_the_papers() -> None:
    head = SEED(3, 4, queue_size=8).head
    assert isinstance(head, nn.Sequential)
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(x.shape) for x in head.parameters()] == [(2048, 3), (2048,), (4, 2048), (4,)]
