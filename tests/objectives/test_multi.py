from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests import processes
from ukd import distributed
from ukd.features import Features, Shape, Wanted
from ukd.objectives import Batch, Needs, build, multi
from ukd.objectives.metrics import Metric
from ukd.objectives.multi import Multi, kept
from ukd.objectives.regression import Regression

seeds = st.integers(0, 2**32 - 1)
STUDENT = Shape("student", pooled=3, tokens=3, blocks=(2, 3))
TEACHERS = [Shape("first", pooled=5, tokens=5), Shape("second", pooled=4, tokens=4), Shape("third", pooled=3, tokens=3)]


def features(seed: int, n: int, *dims: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dim, generator=generator, dtype=torch.float64) for dim in dims]


def batch(student: Tensor, *teachers: Tensor) -> Batch:
    first, *others = ({0: Features(teacher)} for teacher in teachers)
    return Batch({0: Features(student)}, first, torch.arange(len(student)), more_teachers=others, progress=0.5)


def losses_of(metric: Metric, student: Tensor, teachers: list[Tensor]) -> list[list[float]]:
    """Of every teacher and image, as `regression` of that teacher alone gives it."""
    regression = Regression(student.shape[1], teachers[0].shape[1], head="none", metric=metric)
    return [
        [
            math.fsum(map(float, regression(batch(s[None], t[None])).values()))
            for s, t in zip(student, teacher, strict=True)
        ]
        for teacher in teachers
    ]


def test_by_hand() -> None:
    # Under 2 - 2 cos the first teacher's losses are 0 and 4, the second's 2 and 0.
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    first, second = torch.tensor([[2.0, 0.0], [0.0, -3.0]]), torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    objective = Multi(2, 2, [2], head="none", metric="cosine", target="none", combine="mean")
    terms = objective(batch(student, first, second))
    assert {name: term.item() for name, term in terms.items()} == {"teacher_1": 4 / 4, "teacher_2": 2 / 4}


def test_dropping_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # As above: the first image keeps the second teacher, as harder, and drops the first; the second image keeps the
    # first teacher as harder and the second by chance. Three are kept, of losses 2, 4 and 0.
    draws = torch.tensor([[0.3, 0.1], [0.2, 0.6]])
    monkeypatch.setattr(torch, "rand_like", lambda losses: draws)
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    first, second = torch.tensor([[2.0, 0.0], [0.0, -3.0]]), torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    objective = Multi(2, 2, [2], head="none", metric="cosine", target="none")
    terms = objective(batch(student, first, second))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"teacher_1": 4 / 3, "teacher_2": 2 / 3}
    )


@given(seed=seeds, num_teachers=st.integers(1, 4), combine=st.sampled_from(["mean", "dropping"]))
def test_equals_a_loop_over_the_formula(seed: int, num_teachers: int, combine: Any) -> None:
    student, *teachers = features(seed, 6, *[4] * (num_teachers + 1))
    dims = [4] * (num_teachers - 1)
    objective = Multi(4, 4, dims, head="none", target="none", combine=combine).double()
    torch.manual_seed(seed)
    found = objective(batch(student, *teachers))
    torch.manual_seed(seed)
    draws = torch.rand(num_teachers, 6, dtype=torch.float64).tolist()
    losses = losses_of("unic", student, teachers)
    sums, count = [0.0] * num_teachers, 0
    for i in range(6):
        hardest = max(range(num_teachers), key=lambda t: losses[t][i])
        for t in range(num_teachers):
            if combine == "mean" or t == hardest or draws[t][i] >= 0.5:
                sums[t] += losses[t][i]
                count += 1
    assert [term.item() for term in found.values()] == pytest.approx([s / count for s in sums], abs=1e-10)


@given(seed=seeds, num_teachers=st.integers(1, 5))
def test_an_image_keeps_its_hardest_teacher_and_half_of_the_others(seed: int, num_teachers: int) -> None:
    torch.manual_seed(seed)
    losses = torch.rand(num_teachers, 4000)
    chosen = kept(losses)
    hardest = losses.argmax(0)
    assert chosen.gather(0, hardest[None]).all()
    others = chosen.sum(0) - 1
    mean, error = (num_teachers - 1) / 2, math.sqrt((num_teachers - 1) / 4 / 4000)
    assert abs(others.mean().item() - mean) <= 5 * error


def test_with_one_teacher_it_is_regression() -> None:
    student, teacher = features(0, 6, 3, 5)
    torch.manual_seed(0)
    one = build([_Summand("multi", {"hidden_dim": 4})], STUDENT, TEACHERS[:1]).double()
    torch.manual_seed(0)
    options = {"metric": "unic", "target": "standardised", "hidden_dim": 4}
    other = build([_Summand("regression", options)], STUDENT, TEACHERS[:1]).double()
    for _ in range(2):  # the second batch is standardised by the first
        terms = one(batch(student, teacher))
        assert list(terms) == ["teacher_1"]
        expected = torch.stack([*other(batch(student, teacher)).values()]).sum()
        torch.testing.assert_close(terms["teacher_1"], expected, rtol=0, atol=1e-12)


class _Summand:
    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name, self.options, self.weight = name, options, 1.0


def test_each_teacher_has_a_head_and_a_target_of_its_width() -> None:
    objective = build([_Summand("multi", {"head": "ladder", "hidden_dim": 8})], STUDENT, TEACHERS)
    assert isinstance(objective, Multi)
    assert [head.top[-1].out_features for head in objective.heads] == [5, 4, 3]  # type: ignore[index, union-attr]
    assert [target.mean.shape for target in objective.targets] == [(5,), (4,), (3,)]
    assert objective.needs == Needs(many_teachers=True, batch_coupled=True, student=Wanted(blocks=2))
    alone = build([_Summand("multi", {})], STUDENT, TEACHERS[:1])
    assert alone.needs == Needs(many_teachers=True)
    assert build([_Summand("multi", {"combine": "mean"})], STUDENT, TEACHERS).needs == Needs(many_teachers=True)


def test_a_teacher_of_large_scale_does_not_rule_once_it_is_standardised() -> None:
    student, first, second = features(0, 40, 3, 5, 4)
    objective = build([_Summand("multi", {"combine": "mean", "hidden_dim": 4})], STUDENT, TEACHERS[:2]).double()
    objective(batch(student, first, 1e6 * second))
    terms = objective(batch(student, first, 1e6 * second))
    assert terms["teacher_2"] < 2 * terms["teacher_1"]


@pytest.mark.parametrize("combine", ["mean", "dropping"])
def test_every_head_and_the_student_learn_and_no_teacher(combine: str) -> None:
    student, *teachers = (x.requires_grad_() for x in features(0, 8, 3, 5, 4, 3))
    objective = build([_Summand("multi", {"combine": combine, "hidden_dim": 4})], STUDENT, TEACHERS).double()
    torch.stack([*objective(batch(student, *teachers)).values()]).sum().backward()
    assert student.grad is not None and student.grad.any()
    assert all(teacher.grad is None for teacher in teachers)
    assert all(parameter.grad is not None for parameter in objective.parameters())


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_nan_reaches_the_loss(which: int) -> None:
    given = features(0, 6, 3, 5, 4)
    given[which][2, 1] = math.nan
    objective = build([_Summand("multi", {"hidden_dim": 4})], STUDENT, TEACHERS[:2]).double()
    assert torch.stack([*objective(batch(*given)).values()]).sum().isnan()


class Distillation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Linear(6, 3)
        self.objective = Multi(3, 5, [4], hidden_dim=4)

    def forward(self, x: Tensor, *teachers: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.objective(batch(self.student(x), *teachers))
        return terms


def step(naive: bool = False) -> dict[str, Tensor]:
    """Terms and gradients of the second of two global batches, with the same draws in any number of processes."""
    rank, world_size = distributed.rank(), distributed.world_size()
    module = Distillation().double()
    model = DistributedDataParallel(module) if world_size > 1 else module
    draws = torch.rand(2, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    original, torch.rand_like = torch.rand_like, lambda losses: draws.chunk(world_size, 1)[rank]
    if naive:
        multi.mean_over_processes = lambda count: count
    for seed in range(2):
        module.zero_grad()
        terms = model(*(x.chunk(world_size)[rank] for x in features(seed, 8, 6, 5, 4)))
        torch.stack([*terms.values()]).sum().backward()
    torch.rand_like = original
    found = {name: distributed.mean_over_processes(term) for name, term in terms.items()}
    found |= {name: x.grad for name, x in module.named_parameters() if x.grad is not None}
    return found | dict(module.named_buffers())


def both_steps() -> list[dict[str, Tensor]]:
    return [step(), step(naive=True)]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    for exact, naive in processes.run(both_steps, folder=tmp_path):
        torch.testing.assert_close(exact, step(), rtol=0, atol=1e-10)
        with pytest.raises(AssertionError):  # Each process over its own number of kept teachers is another loss.
            torch.testing.assert_close(naive, step(), rtol=0, atol=1e-4)
