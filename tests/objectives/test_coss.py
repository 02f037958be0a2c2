from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests import processes
from ukd import distributed
from ukd.features import Features
from ukd.objectives import Batch
from ukd.objectives.cosine import Cosine
from ukd.objectives.coss import CoSS

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)


def batch(student: Tensor, teacher: Tensor) -> Batch:
    return Batch({0: Features(student)}, {0: Features(teacher)}, torch.arange(len(student)))


def terms(student: Tensor, teacher: Tensor, lam: float = 1.0, scale: float = 70.0) -> dict[str, Tensor]:
    objective = CoSS(student.shape[1], teacher.shape[1], lam=lam, scale=scale)
    return objective(batch(student, teacher))


def loss(student: Tensor, teacher: Tensor, lam: float = 1.0, scale: float = 70.0) -> Tensor:
    return torch.stack(list(terms(student, teacher, lam, scale).values())).sum()


def pair(seed: int, n: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, n, dim, generator=generator, dtype=torch.float64)
    return student, teacher


def loop(student: Tensor, teacher: Tensor, lam: float, scale: float) -> float:
    """The paper's formula, one number at a time."""

    def cos(x: list[float], y: list[float]) -> float:
        dot = math.fsum(p * q for p, q in zip(x, y, strict=True))
        return dot / math.sqrt(math.fsum(p * p for p in x)) / math.sqrt(math.fsum(q * q for q in y))

    rows_s, rows_t = student.tolist(), teacher.tolist()
    columns_s, columns_t = student.T.tolist(), teacher.T.tolist()
    feature = math.fsum(cos(s, t) for s, t in zip(rows_s, rows_t, strict=True)) / len(rows_s)
    space = math.fsum(cos(s, t) for s, t in zip(columns_s, columns_t, strict=True)) / len(columns_s)
    return scale * (-feature - lam * space)


def test_by_hand() -> None:
    student = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    # Rows: (3, 4) with (1, 0) is 3 / 5, (0, 5) with (0, 2) is 1; their mean is 0.8.
    # Columns: (3, 0) with (1, 0) is 1, (4, 5) with (0, 2) is 5 / sqrt(41); their mean is 0.890434.
    found = terms(student, teacher, lam=0.5, scale=10.0)
    assert set(found) == {"feature", "space"}
    assert found["feature"].item() == pytest.approx(-10 * 0.8)
    assert found["space"].item() == pytest.approx(-10 * 0.5 * (1 + 5 / math.sqrt(41)) / 2)


@given(seed=seeds, n=sizes, dim=sizes, lam=st.floats(0, 2), scale=st.floats(0.1, 150))
def test_equals_a_loop_over_the_formula(seed: int, n: int, dim: int, lam: float, scale: float) -> None:
    student, teacher = pair(seed, n, dim)
    assert loss(student, teacher, lam, scale).item() == pytest.approx(loop(student, teacher, lam, scale), abs=1e-10)


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_least_exactly_where_the_student_is_the_teacher_times_one_number(seed: int, factor: float) -> None:
    teacher = pair(seed, 5, 4)[1]
    uneven = torch.linspace(0.5, 2.0, 20, dtype=torch.float64)
    assert loss(factor * teacher, teacher, lam=0.5).item() == pytest.approx(-70 * 1.5, abs=1e-10)
    # Each term alone cannot see one of the two rescalings; together they see both.
    rows = terms(teacher * uneven[:5, None], teacher)
    assert rows["feature"].item() == pytest.approx(-70, abs=1e-10)
    assert rows["space"].item() > -70 + 1e-3
    columns = terms(teacher * uneven[:4], teacher)
    assert columns["space"].item() == pytest.approx(-70, abs=1e-10)
    assert columns["feature"].item() > -70 + 1e-3


@given(seed=seeds)
def test_without_space_similarity_it_is_cosine_regression(seed: int) -> None:
    student, teacher = pair(seed, 5, 4)
    regression = Cosine(4, 4, head="none")(batch(student, teacher))["cosine"]
    without_space = loss(student, teacher, lam=0, scale=2.0)
    assert without_space.item() + 2 == pytest.approx(regression.item(), abs=1e-12)


@given(seed=seeds)
def test_the_order_of_images_and_of_dimensions_is_nothing(seed: int) -> None:
    student, teacher = pair(seed, 6, 5)
    rows, columns = torch.randperm(6), torch.randperm(5)
    shuffled = loss(student[rows][:, columns], teacher[rows][:, columns])
    torch.testing.assert_close(shuffled, loss(student, teacher), rtol=0, atol=1e-10)


def test_gradient() -> None:
    student, teacher = pair(0, 4, 3)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, lam=0.7), student.requires_grad_())


def test_no_gradient_to_the_teacher() -> None:
    student, teacher = pair(0, 4, 3)
    loss(student.requires_grad_(), teacher.requires_grad_()).backward()
    assert student.grad is not None and student.grad.any()
    assert teacher.grad is None


def test_dimensions_in_which_the_teacher_is_dead_are_left_out_of_the_space_term() -> None:
    student, teacher = pair(0, 4, 5)
    alive = [0, 2, 4]
    teacher[:, [1, 3]] = 0
    expected = terms(student[:, alive], teacher[:, alive])["space"]
    torch.testing.assert_close(terms(student, teacher)["space"], expected)
    assert terms(student, torch.zeros_like(teacher))["space"] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_zero_student_columns_and_rows_have_a_gradient_of_zero(dtype: torch.dtype) -> None:
    student, teacher = (x.to(dtype) for x in pair(0, 4, 3))
    student[:, 1] = 0
    student[2] = 0
    loss(student.requires_grad_(), teacher).backward()
    assert student.grad is not None and student.grad.isfinite().all()
    # Entry (2, 1) lies in a zero row and in a zero column; the others are seen by one of the terms.
    assert student.grad[2, 1] == 0 and student.grad.count_nonzero() == 11
    assert student.grad.abs().max() < 1e4


def test_a_nan_of_the_student_reaches_the_loss() -> None:
    student, teacher = pair(0, 4, 3)
    student[1, 2] = math.nan
    assert all(term.isnan() for term in terms(student, teacher).values())


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_fp32_and_finite_under_autocast_at_batch_2(size: float) -> None:
    objective = CoSS(3, 4, hidden_dim=8)
    student = torch.randn(2, 3, dtype=torch.bfloat16).mul(size).requires_grad_()
    teacher = torch.randn(2, 4, dtype=torch.bfloat16) * size
    with torch.autocast("cpu", torch.bfloat16):
        found = objective(batch(student, teacher))
    torch.stack(list(found.values())).sum().backward()
    assert all(term.dtype == torch.float32 and term.isfinite() for term in found.values())
    assert student.grad is not None and student.grad.isfinite().all()


def test_the_head_is_there_only_where_the_widths_differ() -> None:
    assert not list(CoSS(8, 8).parameters())
    head = CoSS(8, 12).head
    assert isinstance(head, nn.Sequential)
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(x.shape) for x in head.parameters()] == [(2048, 8), (2048,), (12, 2048), (12,)]


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    features = batch(torch.randn(6, 3), torch.randn(6, 4))
    first, second = CoSS(3, 4, hidden_dim=8), CoSS(3, 4, hidden_dim=8)
    second.load_state_dict(first.state_dict())
    assert first(features) == second(features)


class Distillation(nn.Module):
    """A student and its objective as one module, so that DDP averages the gradients of both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
        self.objective = CoSS(3, 5, hidden_dim=9)

    def forward(self, x: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.objective(batch(self.student(x), teacher))
        return terms


def images(content: str) -> tuple[Tensor, Tensor]:
    """8 inputs and their teacher features; of 2 processes, one has the even rows and one the odd."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    if content == "uneven":
        teacher[::2, 0] = 0  # dead in one process only
        teacher[:, 1] = 0  # dead in both
        x[1::2] *= 10
        teacher[1::2] *= 100
    return x, teacher


def gradients(content: str, naive: bool = False) -> dict[str, Tensor]:
    """Loss terms and gradients of the global batch, with any number of processes."""
    rank, world_size = distributed.rank(), distributed.world_size()
    module = Distillation().double()
    if naive:
        import ukd.objectives.coss

        ukd.objectives.coss.sum_over_processes = lambda x: x
    x, teacher = images(content)
    step = DistributedDataParallel(module) if world_size > 1 else module
    terms = step(x[rank::world_size], teacher[rank::world_size])
    torch.stack(list(terms.values())).sum().backward()
    found = {name: distributed.mean_over_processes(term) for name, term in terms.items()}
    return found | {name: x.grad for name, x in module.named_parameters() if x.grad is not None}


def all_gradients() -> list[dict[str, Tensor]]:
    return [gradients("even"), gradients("uneven"), gradients("even", naive=True)]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    for even, uneven, naive in processes.run(all_gradients, folder=tmp_path):
        torch.testing.assert_close(even, gradients("even"), rtol=0, atol=1e-10)
        torch.testing.assert_close(uneven, gradients("uneven"), rtol=0, atol=1e-10)
        # The columns of each process by itself, as in the released code, are another loss.
        with pytest.raises(AssertionError):
            torch.testing.assert_close(naive, gradients("even"), rtol=0, atol=1e-2)
