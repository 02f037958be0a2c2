from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests import tiny
from tests.commands import invoke
from tests.objectives.features import pair
from tests.tiny import World
from ukd.cli.distill import app
from ukd.features import Features
from ukd.objectives import Batch
from ukd.objectives.base import CutMixed
from ukd.objectives.bingo import BINGO

seeds = st.integers(0, 2**32 - 1)


def batch(student: Tensor, mixed: Tensor, teacher: Tensor, share: float = 0.6, progress: float = 0.9) -> Batch:
    return Batch(
        student={0: Features(student)},
        teacher={1: Features(teacher)},
        index=torch.arange(len(student)),
        cutmix=CutMixed(Features(mixed), share),
        bag_size=len(student) // len(mixed),
        progress=progress,
    )


def bingo_of(past: Tensor, **options: float) -> BINGO:
    """BINGO without a head, in eval mode, whose teacher has given these features of anchors."""
    dim = past.shape[1]
    objective = BINGO(dim, dim, head="none", queue_size=len(past), **options)  # type: ignore[arg-type]
    objective.to(past.dtype)
    bags = past.repeat_interleave(2, 0)
    assert sum(objective(batch(bags, past, bags)).values()) == 0  # Nothing to be told from.
    return objective.eval()


def loop(student: Tensor, mixed: Tensor, teacher: Tensor, past: Tensor, share: float, w: float, temp: float) -> float:
    """The loss of the released code, one number at a time; bags of any size."""

    def contrast(query: Tensor, key: Tensor) -> float:
        def power(other: Tensor) -> float:
            cosine = math.fsum((query * other).tolist()) / math.hypot(*query.tolist()) / math.hypot(*other.tolist())
            return math.exp(cosine / temp)

        return -math.log(power(key) / (power(key) + math.fsum(power(other) for other in past)))

    def mean(numbers: list[float]) -> float:
        return math.fsum(numbers) / len(numbers)

    size, by_anchor = len(student) // len(mixed), []
    for number, mixture in enumerate(mixed):
        s, t = (rows[number * size : (number + 1) * size] for rows in (student, teacher))
        neighbours = range(1, size)
        anchor = w * contrast(s[0], t[0]) + (1 - w) * mean([contrast(s[0], t[p]) for p in neighbours])
        neighbour = mean([w * contrast(s[p], t[p]) + (1 - w) * contrast(s[p], t[0]) for p in neighbours])
        both = share * contrast(mixture, t[0]) + (1 - share) * contrast(mixture, t[1])
        by_anchor.append((anchor + neighbour + both) / 3)
    return mean(by_anchor)


def test_by_hand() -> None:
    # Everything lies on two axes, and the one anchor before on the first of them, at temperature 1. Of the bag, the
    # anchor lies on the first for student and teacher, the neighbour on the second, and the mixture on the first.
    x, y = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    objective = bingo_of(x[None], temp=1.0, delay=0.5)
    rows = torch.stack([x, y])
    near_own, far_other, near_other = math.log(2), math.log(1 + math.e), math.log(1 + 1 / math.e)
    early = objective(batch(rows, x[None], rows, share=0.75, progress=0.49))
    assert early["anchor"].item() == pytest.approx(near_own / 3)
    assert early["neighbour"].item() == pytest.approx(near_other / 3)
    late = objective(batch(rows, x[None], rows, share=0.75, progress=0.5))
    assert late["anchor"].item() == pytest.approx((near_own + far_other) / 2 / 3)
    assert late["neighbour"].item() == pytest.approx((near_other + math.log(2)) / 2 / 3)
    mixture = (0.75 * near_own + 0.25 * far_other) / 3
    assert early["cutmix"].item() == late["cutmix"].item() == pytest.approx(mixture)


@given(
    seed=seeds,
    num_bags=st.integers(1, 3),
    bag_size=st.integers(2, 4),
    num_past=st.integers(1, 6),
    share=st.floats(0, 1),
    temp=st.floats(0.05, 1),
    early=st.booleans(),
)
def test_equals_a_loop_over_the_formula(
    seed: int, num_bags: int, bag_size: int, num_past: int, share: float, temp: float, early: bool
) -> None:
    student, teacher = pair(seed, num_bags * bag_size, 4, 4)
    mixed, past = pair(seed + 1, num_bags, 4, 4)[0], pair(seed + 2, num_past, 4, 4)[0]
    objective = bingo_of(past, temp=temp)
    found = objective(batch(student, mixed, teacher, share, progress=0.0549 if early else 0.0551))
    expected = loop(student, mixed, teacher, past, share, 1.0 if early else 0.5, temp)
    assert sum(found.values()).item() == pytest.approx(expected, abs=1e-10)


def test_equals_lightlys_moco_where_bags_are_left_alone() -> None:
    from lightly.loss import NTXentLoss

    student, teacher = pair(0, 8, 4, 4)
    past, mixed = pair(1, 10, 4, 4)[0], pair(2, 4, 4, 4)[0]
    moco = NTXentLoss(temperature=0.2, memory_bank_size=(10, 4))
    moco.memory_bank.bank = nn.functional.normalize(past)
    found = bingo_of(past)(batch(student, mixed, teacher, share=1.0, progress=0.0))
    for term, queries, keys in [
        ("anchor", student[::2], teacher[::2]),
        ("neighbour", student[1::2], teacher[1::2]),
        ("cutmix", mixed, teacher[::2]),
    ]:
        torch.testing.assert_close(3 * found[term], moco(queries, keys), rtol=0, atol=1e-10)


@given(seed=seeds)
def test_where_the_neighbour_counts_anchor_and_neighbour_may_change_places(seed: int) -> None:
    student, teacher = pair(seed, 6, 4, 4)
    mixed, past = pair(seed + 1, 3, 4, 4)
    objective = bingo_of(past)
    swapped = [rows.unflatten(0, (3, 2)).flip(1).flatten(0, 1) for rows in (student, teacher)]
    there = sum(objective(batch(student, mixed, teacher, share=0.3)).values())
    back = sum(objective(batch(swapped[0], mixed, swapped[1], share=0.7)).values())
    torch.testing.assert_close(there, back, rtol=0, atol=1e-10)


def test_the_queue_holds_the_teachers_anchors_and_only_in_training() -> None:
    student, teacher = (x.float() for x in pair(0, 6, 3, 4))
    objective = BINGO(3, 4, queue_size=8, hidden_dim=5)
    objective(batch(student, torch.randn(2, 3), teacher))
    torch.testing.assert_close(objective.queue(), nn.functional.normalize(teacher[::3]))
    objective.eval()(batch(student, torch.randn(2, 3), teacher))
    assert len(objective.queue()) == 2


def test_it_asks_for_two_views_bags_and_mixtures_and_has_the_papers_head() -> None:
    objective = BINGO(3, 4, queue_size=8)
    assert (objective.needs.num_views, objective.needs.neighbours, objective.needs.cutmix) == (2, True, True)
    assert isinstance(objective.head, nn.Sequential)
    assert [type(layer) for layer in objective.head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(x.shape) for x in objective.head.parameters()] == [(2048, 3), (2048,), (4, 2048), (4,)]


def test_without_neighbours_it_is_refused(world: World, tmp_path: Path) -> None:
    raw = world.distillation(tmp_path / "run", objective={"name": "bingo", "queue_size": 40})
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", raw)
    done = invoke(app, recipe, "--check")
    assert done.exit_code == 2, done.output
    assert "objective bingo needs the neighbours of each image; add `neighbours: {k: 1, nearest: 5}`" in done.stderr
    as_told = invoke(app, recipe, "neighbours={k: 1, nearest: 5}", "--check")
    assert as_told.exit_code == 0, as_told.output
