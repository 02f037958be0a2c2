"""What holds alike for the objectives that compare images with one another."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests import processes
from tests.objectives.features import batch, pair, total
from ukd import distributed
from ukd.objectives import OBJECTIVES, Objective


class Case(NamedTuple):
    name: str
    options: dict[str, Any]
    exchange: str = "gather_rows_with_grad"
    """What makes processes see the rows of the others, and the module in which the objective finds it."""
    module: str = ""
    bag_size: int = 1
    """Consecutive images that belong together."""


CASES = {
    "sp": Case("gram", {"kernel": "sp"}),
    "pkt": Case("gram", {"kernel": "pkt"}),
    "softmax": Case("gram", {"kernel": "softmax"}),
    "rkd": Case("rkd", {}),
    "seed": Case("seed", {"queue_size": 11, "hidden_dim": 4}, "gather_rows", "queue"),
    "compress_1q": Case("seed", {"queue_size": 11, "hidden_dim": 4, "own_pair": False}, "gather_rows", "queue"),
    "decoupled": Case("seed", {"queue_size": 11, "hidden_dim": 4, "decoupled": True}, "gather_rows", "queue"),
    "compress": Case("compress", {"queue_size": 11}, "gather_rows", "queue"),
    "disco": Case("disco", {"queue_size": 11, "hidden_dim": 4, "mse_weight": 1.0}, "gather_rows", "queue"),
    "bingo": Case("bingo", {"queue_size": 11, "hidden_dim": 4}, "gather_rows", "queue", bag_size=2),
    "smd": Case("smd", {"cosine_steps": 3}),
    "regression": Case(
        "regression", {"metric": "unic", "target": "standardised", "hidden_dim": 4}, "mean_over_processes", "targets"
    ),
    "multi": Case("multi", {"hidden_dim": 4}, "mean_over_processes", "targets"),
    "space": Case("transpose", {"of": "cosine", "row_weight": 1.0, "hidden_dim": 4}),
    "space_of_gram": Case("transpose", {"of": "gram", "options": {"kernel": "pkt"}, "hidden_dim": 4}),
    "sskd": Case("sskd", {}),
}
every_case = pytest.mark.parametrize("name", CASES)


def build(name: str, student_dim: int = 3, teacher_dim: int = 4) -> Objective:
    torch.manual_seed(0)
    case = CASES[name]
    return OBJECTIVES[case.name](student_dim, teacher_dim, **case.options)


@every_case
def test_gradient_to_the_student_and_none_to_the_teacher(name: str) -> None:
    objective = build(name).double()
    total(objective, *pair(1, 6, 3, 4))  # fills the queue
    student, teacher = pair(0, 6, 3, 4)
    objective.eval()
    student.requires_grad_()
    # That of smd takes some factors for constants, so its own test looks at it.
    assert name == "smd" or torch.autograd.gradcheck(lambda x: total(objective, x, teacher), student)
    total(objective, student, teacher.requires_grad_()).backward()
    assert student.grad is not None and student.grad.any()
    assert teacher.grad is None
    assert all(parameter.grad is not None for parameter in objective.parameters() if parameter.requires_grad)


@every_case
def test_the_order_of_images_is_nothing(name: str) -> None:
    objective = build(name).double()
    total(objective, *pair(1, 6, 3, 4))
    objective.eval()
    student, teacher = pair(0, 6, 3, 4)
    order = torch.arange(6).view(-1, CASES[name].bag_size)
    order = order[torch.randperm(len(order))].flatten()
    shuffled = total(objective, student[order], teacher[order])
    torch.testing.assert_close(shuffled, total(objective, student, teacher), rtol=0, atol=1e-10)


@every_case
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_fp32_and_finite_under_autocast_at_batch_2(name: str, size: float) -> None:
    objective = build(name)
    for _ in range(2):
        student = torch.randn(2, 3, dtype=torch.bfloat16).mul(size).requires_grad_()
        teacher = torch.randn(2, 4, dtype=torch.bfloat16) * size
        with torch.autocast("cpu", torch.bfloat16):
            terms = objective(batch(student, teacher))
        torch.stack(list(terms.values())).sum().backward()
        assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
        assert student.grad is not None and student.grad.isfinite().all()


@every_case
def test_zero_and_equal_rows_have_a_finite_gradient(name: str) -> None:
    objective = build(name)
    student, teacher = (x.float() for x in pair(0, 6, 3, 4))
    student[1] = teacher[2] = 0
    student[3], teacher[3] = student[4], teacher[4]
    for _ in range(2):
        loss = total(objective, student.requires_grad_(), teacher)
        loss.backward()
        assert loss.isfinite()
        assert student.grad is not None and student.grad.isfinite().all()
    collapsed = torch.ones(6, 3, requires_grad=True)
    total(objective, collapsed, teacher).backward()
    assert collapsed.grad is not None and collapsed.grad.isfinite().all()


@every_case
def test_a_nan_of_the_student_reaches_the_loss(name: str) -> None:
    objective = build(name)
    student, teacher = (x.float() for x in pair(0, 6, 3, 4))
    total(objective, student, teacher)
    student[1, 2] = math.nan
    assert total(objective, student, teacher).isnan()


@every_case
def test_state_dict_round_trip_continues_bit_for_bit(name: str) -> None:
    first, second = build(name), build(name)
    batches = [tuple(x.float() for x in pair(seed, 8, 3, 4)) for seed in range(4)]
    for features in batches[:2]:
        total(first, *features)
    second.load_state_dict(first.state_dict())
    for features in batches[2:]:
        assert torch.equal(total(first, *features), total(second, *features))


class Distillation(nn.Module):
    """A student and its objective as one module, so that DDP averages the gradients of both."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
        self.objective = objective

    def forward(self, x: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.objective(batch(self.student(x), teacher))
        return terms


def step(name: str) -> dict[str, Tensor]:
    """Loss terms and gradients of the second of two global batches, and the buffers, with any number of processes."""
    rank, world_size = distributed.rank(), distributed.world_size()
    distillation = Distillation(build(name, 3, 6)).double()
    model = DistributedDataParallel(distillation) if world_size > 1 else distillation
    terms: dict[str, Tensor] = {}
    for seed in range(2):
        distillation.zero_grad()
        x, teacher = (features.chunk(world_size)[rank] for features in pair(seed, 8, 6, 6))
        terms = model(x, teacher)
        torch.stack(list(terms.values())).sum().backward()
    found = {name: distributed.mean_over_processes(term) for name, term in terms.items()}
    found |= {name: x.grad for name, x in distillation.named_parameters() if x.grad is not None}
    return found | dict(distillation.named_buffers())


def naive_step(name: str) -> dict[str, Tensor]:
    """The same, where no process sees the rows of the others."""
    case = CASES[name]
    module = importlib.import_module(f"ukd.objectives.{case.module or case.name}")
    setattr(module, case.exchange, lambda x: x)
    if hasattr(module, "own_rows"):
        module.own_rows = lambda n: slice(0, n)
    return step(name)


def all_steps() -> list[dict[str, Tensor]]:
    return [step(name) for name in CASES] + [naive_step(name) for name in CASES]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    expected = [step(name) for name in CASES]
    for found in processes.run(all_steps, folder=tmp_path):
        exact, naive = found[: len(CASES)], found[len(CASES) :]
        torch.testing.assert_close(exact, expected, rtol=0, atol=1e-10)
        for name, one, other in zip(CASES, naive, expected, strict=True):
            weights = "student.0.weight"
            error = (one[weights] - other[weights]).norm() / other[weights].norm()
            assert error > 1e-2, f"{name}: the naive version should differ"
