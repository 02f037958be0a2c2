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
from tests.objectives.features import batch, pair, total
from tests.tiny import World
from ukd.cli.distill import app
from ukd.features import Features
from ukd.objectives import Batch
from ukd.objectives.seed import SEED

seeds = st.integers(0, 2**32 - 1)


def seed_of(past: Tensor, **options: Any) -> SEED:
    """SEED without a head, in eval mode, that has seen these teacher features."""
    dim = past.shape[1]
    objective = SEED(dim, dim, head="none", queue_size=max(len(past), 1), **options)
    objective.to(past.dtype)
    objective(batch(torch.ones_like(past), past))
    return objective.eval()


Distributions = list[tuple[list[float], list[float]]]


def distributions(
    student: Tensor, teacher: Tensor, past: Tensor, student_temp: float, teacher_temp: float, own_pair: bool = True
) -> Distributions:
    """The teacher's and the student's of every image, one number at a time; the own image comes first."""

    def unit(rows: Tensor) -> list[list[float]]:
        return [[x / math.hypot(*row) for x in row] for row in rows.tolist()]

    def probabilities(row: list[float], references: list[list[float]], temp: float) -> list[float]:
        logits = [math.fsum(a * b for a, b in zip(row, other, strict=True)) / temp for other in references]
        powers = [math.exp(logit - max(logits)) for logit in logits]
        return [power / math.fsum(powers) for power in powers]

    found = []
    for s, t in zip(unit(student), unit(teacher), strict=True):
        references = [t, *unit(past)] if own_pair else unit(past)
        found.append((probabilities(t, references, teacher_temp), probabilities(s, references, student_temp)))
    return found


def mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def cross_entropy(p: list[float], q: list[float]) -> float:
    return -math.fsum(a * math.log(b) for a, b in zip(p, q, strict=True))


def divergence(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


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
    expected = mean([cross_entropy(p, q) for p, q in distributions(student, teacher, past, student_temp, teacher_temp)])
    assert found.item() == pytest.approx(expected, abs=1e-10)


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


@given(seed=seeds, n=st.integers(1, 5), num_past=st.integers(1, 6), temp=st.floats(0.04, 1))
def test_without_the_own_pair_it_is_compress_with_one_queue(seed: int, n: int, num_past: int, temp: float) -> None:
    student, teacher = pair(seed, n, 4, 4)
    past = pair(seed + 1, num_past, 4, 4)[1]
    objective = seed_of(past, student_temp=temp, teacher_temp=temp, own_pair=False)
    expected = mean([divergence(p, q) for p, q in distributions(student, teacher, past, temp, temp, own_pair=False)])
    assert total(objective, student, teacher).item() == pytest.approx(expected, abs=1e-10)
    assert total(objective, teacher, teacher).abs() < 1e-12


@given(
    seed=seeds,
    n=st.integers(1, 5),
    num_past=st.integers(1, 6),
    temp=st.floats(0.1, 1),
    alpha=st.floats(0, 2),
    beta=st.floats(0, 8),
)
def test_decoupled_equals_a_loop_over_dkds_formula(
    seed: int, n: int, num_past: int, temp: float, alpha: float, beta: float
) -> None:
    student, teacher = pair(seed, n, 4, 4)
    past = pair(seed + 1, num_past, 4, 4)[1]
    objective = seed_of(past, student_temp=0.2, teacher_temp=temp, decoupled=True, alpha=alpha, beta=beta)
    found = objective(batch(student, teacher))
    both = distributions(student, teacher, past, 0.2, temp)
    own = [divergence([p[0], math.fsum(p[1:])], [q[0], math.fsum(q[1:])]) for p, q in both]
    others = [divergence(*([x / math.fsum(d[1:]) for x in d[1:]] for d in (p, q))) for p, q in both]
    assert list(found) == ["own", "queue"]
    assert found["own"].item() == pytest.approx(alpha * mean(own), abs=1e-10)
    assert found["queue"].item() == pytest.approx(beta * mean(others), abs=1e-10)


@given(seed=seeds, num_past=st.integers(1, 6))
def test_weighed_by_the_teachers_mass_the_decoupled_parts_are_the_whole_less_the_teachers_entropy(
    seed: int, num_past: int
) -> None:
    student, teacher = pair(seed, 1, 4, 4)
    past = pair(seed + 1, num_past, 4, 4)[1]
    p = distributions(student, teacher, past, 0.2, 0.3)[0][0]
    temps = {"student_temp": 0.2, "teacher_temp": 0.3}
    parts = total(seed_of(past, **temps, decoupled=True, alpha=1.0, beta=math.fsum(p[1:])), student, teacher)
    whole = total(seed_of(past, **temps), student, teacher)
    assert parts.item() == pytest.approx(whole.item() - cross_entropy(p, p), abs=1e-10)


def with_small(seed: int, n: int) -> Batch:
    """A batch with three small crops of each image."""
    crops = [pair(seed + number, n, 4, 4) for number in range(1, 4)]
    index = torch.arange(n)
    of_student, of_teacher = ({number: Features(crop[who]) for number, crop in enumerate(crops)} for who in (0, 1))
    small = Batch(of_student, of_teacher, index)
    student, teacher = pair(seed, n, 4, 4)
    return Batch({0: Features(student)}, {0: Features(teacher)}, index, small=small)


@pytest.mark.parametrize("options", [{}, {"decoupled": True}], ids=["whole", "decoupled"])
def test_small_crops_are_a_loss_of_their_own_with_a_queue_of_one_crop_of_each_image(options: dict[str, bool]) -> None:
    past, now = with_small(0, 5), with_small(10, 4)
    assert past.small and now.small
    objective = SEED(4, 4, head="none", queue_size=5, small_crops=True, **options).double()
    objective(past)
    found = objective.eval()(now)
    full = seed_of(past.teacher[0].pooled, **options)
    small = seed_of(past.small.teacher[0].pooled, **options)
    of_full = full(now)
    crops = zip(now.small.student.values(), now.small.teacher.values(), strict=True)
    of_crops = [small(batch(s.pooled, t.pooled)) for s, t in crops]
    assert list(found) == [*of_full, *(f"small_{name}" for name in of_full)]
    for name, term in of_full.items():
        torch.testing.assert_close(found[name], term, rtol=0, atol=1e-10)
        expected = torch.stack([terms[name] for terms in of_crops]).mean()
        torch.testing.assert_close(found[f"small_{name}"], expected, rtol=0, atol=1e-10)


def test_it_asks_for_small_crops_where_told_and_keeps_no_second_queue_elsewhere() -> None:
    assert SEED(3, 4, queue_size=8, small_crops=True).needs.small
    assert not SEED(3, 4, queue_size=8).needs.small
    assert not any("small" in name for name in SEED(3, 4, queue_size=8).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"own_pair": False, "decoupled": True},
            "decoupled: true weighs the own pair against the queue; choose own_pair",
        ),
        ({"small_crops": True}, "small_crops: true finds no small crops; choose views.num_small: 6"),
        ({"head": "none"}, "head: none needs equal widths"),
        ({"queue_size": 144}, "a queue of 144 images is no smaller than the data set of 144"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str, world: World, tmp_path: Path) -> None:
    raw = world.distillation(tmp_path / "run", objective={"name": "seed", "queue_size": 40, **options})
    done = invoke(app, tiny.write_recipe(tmp_path / "recipe.yaml", raw), "--check")
    assert done.exit_code == 2, done.output
    assert "objective seed: " in done.stderr and message in done.stderr and "Traceback" not in done.stderr
