from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests import tiny
from tests.commands import invoke
from tests.objectives.features import pair, rotation
from tests.tiny import World
from ukd.cli.distill import app
from ukd.features import Features
from ukd.objectives import Batch, Needs
from ukd.objectives.base import EMA, FIRST
from ukd.objectives.compress import CompRess

seeds = st.integers(0, 2**32 - 1)


def batch(student: Tensor, teacher: Tensor, ema: Tensor) -> Batch:
    return Batch({0: Features(student)}, {0: Features(teacher)}, torch.arange(len(student)), ema={0: Features(ema)})


def compress_of(past_ema: Tensor, past_teacher: Tensor, temp: float = 0.04) -> CompRess:
    """CompRess in eval mode that has seen these images."""
    objective = CompRess(past_ema.shape[1], past_teacher.shape[1], queue_size=len(past_ema), temp=temp)
    objective.to(past_ema.dtype)
    assert objective(batch(past_ema, past_teacher, past_ema))["compress"] == 0  # Nothing to be compared with.
    return objective.eval()


def loss(objective: CompRess, student: Tensor, teacher: Tensor) -> Tensor:
    terms: dict[str, Tensor] = objective(batch(student, teacher, torch.zeros_like(student)))
    assert list(terms) == ["compress"]
    return terms["compress"]


def loop(student: Tensor, teacher: Tensor, past_ema: Tensor, past_teacher: Tensor, temp: float) -> float:
    """The paper's formula, one number at a time."""

    def unit(rows: Tensor) -> list[list[float]]:
        return [[x / math.hypot(*row) for x in row] for row in rows.tolist()]

    def probabilities(row: list[float], references: list[list[float]]) -> list[float]:
        powers = [math.exp(math.fsum(a * b for a, b in zip(row, other, strict=True)) / temp) for other in references]
        return [power / math.fsum(powers) for power in powers]

    by_image = []
    for s, t in zip(unit(student), unit(teacher), strict=True):
        p, q = probabilities(t, unit(past_teacher)), probabilities(s, unit(past_ema))
        by_image.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return math.fsum(by_image) / len(by_image)


def test_by_hand() -> None:
    # Two images before; for the teacher the new one is the first of them and at a right angle to the second, for the
    # student the other way round: distributions (e, 1) and (1, e) over 1 + e, whose divergence is (e - 1) / (e + 1).
    past_teacher = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    objective = compress_of(torch.tensor([[1.0, 0.0], [0.0, 4.0]]), past_teacher, temp=1.0)
    found = loss(objective, torch.tensor([[0.0, 7.0]]), torch.tensor([[5.0, 0.0, 0.0]]))
    assert found.item() == pytest.approx((math.e - 1) / (math.e + 1))


@given(seed=seeds, n=st.integers(1, 5), num_past=st.integers(1, 6), temp=st.floats(0.04, 1))
def test_equals_a_loop_over_the_formula(seed: int, n: int, num_past: int, temp: float) -> None:
    student, teacher = pair(seed, n, 3, 4)
    past_ema, past_teacher = pair(seed + 1, num_past, 3, 4)
    found = loss(compress_of(past_ema, past_teacher, temp), student, teacher)
    assert found.item() == pytest.approx(loop(student, teacher, past_ema, past_teacher, temp), abs=1e-10)


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_zero_where_the_student_is_the_teacher_turned(seed: int, factor: float) -> None:
    teacher, past = pair(seed, 5, 4, 4)
    turn = rotation(4) * factor
    objective = compress_of(past @ turn, past)
    turned = (teacher @ turn).requires_grad_()
    found = loss(objective, turned, teacher)
    found.backward()
    assert found.abs() < 1e-10
    assert turned.grad is not None and (turned.grad * factor).abs().max() < 1e-10
    assert loss(objective, teacher @ turn.flip(0), teacher) > 1e-6


def test_both_queues_hold_the_same_images_at_the_same_places() -> None:
    objective, first = CompRess(2, 3, queue_size=7), 0
    for num in (3, 5, 4, 9, 2):
        angle = torch.arange(first, first + num) / 30
        ema = torch.stack([angle.cos(), angle.sin()], dim=1)
        objective(batch(torch.randn(num, 2), nn.functional.pad(ema, (0, 1)), ema))
        first += num
        assert torch.equal(objective.teacher_queue.rows[:, :2], objective.student_queue.rows)
    assert len(objective.student_queue()) == 7


def test_the_queue_takes_in_the_ema_student_after_the_comparison_and_only_in_training() -> None:
    student, teacher = (x.float() for x in pair(0, 4, 3, 5))
    ema = torch.randn(4, 3)
    objective = CompRess(3, 5, queue_size=8)
    assert objective(batch(student, teacher, ema))["compress"] == 0
    torch.testing.assert_close(objective.student_queue(), nn.functional.normalize(ema))
    torch.testing.assert_close(objective.teacher_queue(), nn.functional.normalize(teacher))
    objective.eval()(batch(student, teacher, ema))
    assert len(objective.student_queue()) == len(objective.teacher_queue()) == 4


def test_it_asks_for_an_ema_student_and_has_no_head() -> None:
    assert CompRess(3, 5, queue_size=1).needs == CompRess.needs == Needs(ema_views=FIRST, ema=EMA(0.999, 0.999))
    assert CompRess(3, 5, queue_size=1, ema_momentum=0.9).needs == Needs(ema_views=FIRST, ema=EMA(0.9, 0.9))
    assert not list(CompRess(3, 5, queue_size=1).parameters())


@pytest.mark.parametrize(
    ("others", "options", "message"),
    [
        ([], {"queue_size": 200}, "a queue of 200 images is no smaller than the data set of 144"),
        ([{"name": "disco", "queue_size": 40}], {"ema_momentum": 0.9}, "EMA students of momentum 0.9 and 0.999"),
    ],
    ids=["queue", "momentum"],
)
def test_what_cannot_work_is_refused(
    others: list[dict[str, Any]], options: dict[str, Any], message: str, world: World, tmp_path: Path
) -> None:
    objective = [{"name": "compress", "queue_size": 40, **options}, *others]
    raw = world.distillation(tmp_path / "run", objective=objective)
    done = invoke(app, tiny.write_recipe(tmp_path / "recipe.yaml", raw), "--check")
    assert done.exit_code == 2, done.output
    assert message in done.stderr and "Traceback" not in done.stderr
