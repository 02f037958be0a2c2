from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.objectives.features import batch, pair, total
from ukd.features import Block, Features, Shape, Wanted
from ukd.objectives import Batch, Needs
from ukd.objectives.cosine import Cosine
from ukd.objectives.regression import Regression
from ukd.row_blocks import RowBlocks

seeds = st.integers(0, 2**32 - 1)


def loss(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    return total(Regression(student.shape[1], teacher.shape[1], head="none", **options).double(), student, teacher)


def test_by_hand() -> None:
    # Rows (3, 4) and (1, 0): cosine 3 / 5, differences 2 and 4. Rows (0, 2) and (0, 2.5): cosine 1, difference 0.5.
    student, teacher = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.5]])
    assert loss(student, teacher).item() == pytest.approx(0.8 / 2)
    assert loss(student, teacher, metric="mse").item() == pytest.approx((20 / 2 + 0.25 / 2) / 2)
    huber = ((1.5 + 3.5) / 2 + 0.125 / 2) / 2
    assert loss(student, teacher, metric="smooth_l1").item() == pytest.approx(huber)
    assert loss(student, teacher, metric="unic").item() == pytest.approx(0.5 * 0.2 + 0.5 * huber)
    assert loss(student, teacher, metric="radio").item() == pytest.approx(0.9 * 0.2 + 0.1 * huber)


@given(seed=seeds)
def test_the_default_metric_is_simregs(seed: int) -> None:
    student, teacher = pair(seed, 5, 4, 4)
    assert torch.equal(loss(student, teacher), total(Cosine(4, 4, head="none"), student, teacher))


@given(seed=seeds, student_temp=st.floats(0.05, 2), teacher_temp=st.floats(0.02, 2))
def test_softmax_equals_torchs_cross_entropy(seed: int, student_temp: float, teacher_temp: float) -> None:
    student, teacher = pair(seed, 5, 4, 4)
    found = loss(student, teacher, metric="softmax", student_temp=student_temp, teacher_temp=teacher_temp)
    expected = torch.nn.functional.cross_entropy(student / student_temp, (teacher / teacher_temp).softmax(1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@given(seed=seeds)
def test_a_whitened_target_sees_no_linear_map_of_the_teacher_but_turns(seed: int) -> None:
    bank, teacher = pair(seed, 30, 4, 4)
    student = pair(seed + 1, 30, 4, 4)[0]
    mixing = torch.randn(4, 4, dtype=torch.float64) + 4 * torch.eye(4)

    def cosines(bank: Tensor, teacher: Tensor) -> Tensor:
        objective = Regression(4, 4, head="none", target="whitened").double()
        objective.fit(RowBlocks(bank))
        target: Tensor = objective.target(teacher, 0.0)
        return torch.nn.functional.normalize(target) @ torch.nn.functional.normalize(target).T

    torch.testing.assert_close(cosines(bank, teacher), cosines(bank @ mixing, teacher @ mixing), rtol=0, atol=1e-7)
    assert not torch.allclose(loss(student, teacher), loss(student, teacher @ mixing))


def test_what_it_needs() -> None:
    narrow = Shape("narrow", pooled=6, tokens=6, blocks=(2, 4, 6))
    wide = Shape("wide", pooled=10, tokens=10)
    assert Regression.for_models(narrow, [wide]).needs == Needs()
    assert Regression.for_models(narrow, [wide], target="whitened").needs == Needs(bank=True)
    assert Regression.for_models(narrow, [wide], head="ladder").needs == Needs(student=Wanted(blocks=3))


def test_a_ladder_hears_every_block() -> None:
    objective = Regression(6, 5, (2, 4, 6), head="ladder", hidden_dim=8)
    widths = (2, 4, 6)
    maps = [torch.randn(3, width, requires_grad=True) for width in widths]
    student = Features(maps[-1] * 2, blocks=tuple(Block(None, each) for each in maps))
    features = Batch({0: student}, {0: Features(torch.randn(3, 5))}, torch.arange(3))
    torch.stack([*objective(features).values()]).sum().backward()
    assert all(each.grad is not None and each.grad.any() for each in maps)
    assert all(parameter.grad is not None for parameter in objective.parameters())


@pytest.mark.parametrize("metric", ["cosine", "unic", "radio"])
def test_the_mean_cosine_can_be_read_off_the_terms(metric: Any) -> None:
    student, teacher = pair(0, 5, 4, 4)
    expected = torch.cosine_similarity(student, teacher).mean()
    objective = Regression(4, 4, head="none", metric=metric)
    torch.testing.assert_close(objective.teacher_cosine(objective(batch(student, teacher))), expected)
    standardised = Regression(4, 4, head="none", metric=metric, target="standardised").double()
    assert standardised.teacher_cosine(standardised(batch(student, teacher))) is None


def test_other_metrics_tell_no_cosine() -> None:
    for metric in ("mse", "smooth_l1", "softmax"):
        assert Regression(4, 4, metric=metric).teacher_cosine({}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("head", ["ln_linear", "mlp2"])
def test_every_head_trains_the_student(head: Any) -> None:
    objective = Regression(3, 5, head=head, norm="layer", hidden_dim=4, metric="unic", target="standardised")
    student = torch.randn(6, 3, requires_grad=True)
    total(objective, student, torch.randn(6, 5)).backward()
    assert student.grad is not None and student.grad.any()
    assert all(parameter.grad is not None for parameter in objective.parameters())
