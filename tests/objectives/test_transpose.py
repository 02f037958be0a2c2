from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests import processes
from tests.objectives.features import batch, pair, total
from ukd import distributed
from ukd.errors import UserError
from ukd.objectives import options_models, transpose
from ukd.objectives.cosine import Cosine
from ukd.objectives.coss import CoSS
from ukd.objectives.gram import Gram
from ukd.objectives.regression import Regression
from ukd.objectives.rkd import RKD
from ukd.objectives.smd import SMD
from ukd.objectives.transpose import ROW_LOSSES, RowLoss, Transpose
from ukd.recipe_schema import explain

seeds = st.integers(0, 2**32 - 1)


def loss(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    objective = Transpose(student.shape[1], teacher.shape[1], head="none", **options).double()
    return total(objective, student, teacher)


def test_by_hand() -> None:
    # Columns: (3, 0) with (1, 0) has cosine 1, (4, 5) with (0, 2) has 5 / sqrt(41).
    student, teacher = torch.tensor([[3.0, 4.0], [0.0, 5.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    columns = (2 - 2 * 5 / 41**0.5) / 2
    assert loss(student, teacher).item() == pytest.approx(columns)
    # Rows: (3, 4) with (1, 0) has 3 / 5, (0, 5) with (0, 2) has 1.
    assert loss(student, teacher, row_weight=0.5).item() == pytest.approx(columns + 0.5 * 0.8 / 2)


@given(seed=seeds, lam=st.floats(0.1, 2))
def test_of_cosine_it_is_coss_but_for_a_constant(seed: int, lam: float) -> None:
    student, teacher = pair(seed, 6, 4, 4)
    coss = total(CoSS(4, 4, lam=lam, scale=2.0), student, teacher) + 2 * (1 + lam)
    # That of CoSS weighs the columns by lam, this one the rows by its inverse.
    torch.testing.assert_close(lam * loss(student, teacher, row_weight=1 / lam), coss, rtol=0, atol=1e-10)


@given(seed=seeds, student_temp=st.floats(0.05, 1), teacher_temp=st.floats(0.05, 1))
def test_of_softmax_it_is_dinoss(seed: int, student_temp: float, teacher_temp: float) -> None:
    student, teacher = pair(seed, 6, 4, 4)

    def cross_entropy(s: Tensor, t: Tensor) -> Tensor:
        return nn.functional.cross_entropy(s / student_temp, (t / teacher_temp).softmax(1))

    options = {"metric": "softmax", "student_temp": student_temp, "teacher_temp": teacher_temp}
    found = 0.5 * loss(student, teacher, of="regression", options=options, row_weight=2.0)
    expected = cross_entropy(student, teacher) + 0.5 * cross_entropy(student.T, teacher.T)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("of", "options", "inner"),
    [
        ("cosine", {}, Cosine(6, 6, head="none")),
        ("regression", {"metric": "radio"}, Regression(6, 6, head="none", metric="radio")),
        ("gram", {"kernel": "pkt"}, Gram(6, 6, kernel="pkt")),
        ("rkd", {"angle_weight": 1.0}, RKD(6, 6, angle_weight=1.0)),
        ("smd", {"temp": 0.5}, SMD(6, 6, head="none", temp=0.5)),
    ],
)
def test_it_is_the_objective_of_the_transposed_batch(of: RowLoss, options: dict[str, Any], inner: nn.Module) -> None:
    student, teacher = pair(0, 6, 4, 4)
    transposed = inner(batch(student.T, teacher.T))
    found = Transpose(4, 4, of=of, options=options, head="none", row_weight=3.0)(batch(student, teacher))
    rows = ROW_LOSSES[of](4, 4, **options, **({} if of in ("gram", "rkd") else {"head": "none"}))  # type: ignore[arg-type]
    by_row = rows(batch(student, teacher))
    assert list(found) == [*(f"column_{name}" for name in transposed), *(f"row_{name}" for name in by_row)]
    for name, value in transposed.items():
        torch.testing.assert_close(found[f"column_{name}"], value, rtol=0, atol=1e-12)
        torch.testing.assert_close(found[f"row_{name}"], 3 * by_row[name], rtol=0, atol=1e-12)


def test_rows_and_columns_pass_one_head() -> None:
    student, teacher = pair(0, 6, 3, 4)
    objective = Transpose(3, 4, hidden_dim=5, row_weight=1.0).double()
    head = objective.head(student)
    expected = loss(head, teacher, row_weight=1.0)
    torch.testing.assert_close(total(objective, student, teacher), expected, rtol=0, atol=1e-12)
    assert len(list(objective.parameters())) == 4


def test_the_mean_cosine_of_rows_can_be_read_off_the_terms() -> None:
    student, teacher = pair(0, 6, 4, 4)
    expected = torch.cosine_similarity(student, teacher).mean()
    both = Transpose(4, 4, head="none", row_weight=0.3)
    torch.testing.assert_close(both.teacher_cosine(both(batch(student, teacher))), expected)
    assert Transpose(4, 4).teacher_cosine({}) is None


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        (
            {"of": "gram", "options": {"kernl": "sp", "temp": 0}},
            {
                "options.kernl": "unknown key; did you mean kernel?",
                "options.temp": "must be a number above 0, got 0",
            },
        ),
        ({"of": "gram", "options": {"lam": 1}}, {"options.lam": "unknown key; the keys here are kernel, temp"}),
        ({"of": "cosine", "options": {"head": "none"}}, {"options.head": "unknown key; the keys here are none"}),
        (
            {"of": "regression", "options": {"metric": "cos"}},
            {
                "options.metric": "must be one of cosine, mse, smooth_l1, unic, radio, softmax, got 'cos'",
            },
        ),
        (
            {"of": "rkd", "options": 3},
            {"options": "must be a mapping with keys from: distance_weight, angle_weight, got 3"},
        ),
        # A queue holds images that no batch does.
        (
            {"of": "seed", "options": {"queue_size": 9}},
            {"of": "must be one of cosine, regression, gram, rkd, smd, got 'seed'"},
        ),
    ],
)
def test_options_are_checked_as_those_of_the_objective(given: dict[str, Any], problems: dict[str, str]) -> None:
    model = options_models()["transpose"]
    with pytest.raises(ValueError) as caught:
        model.model_validate(given)
    assert dict(explain(caught.value, model, ["name", "weight"])) == problems  # type: ignore[arg-type]


def test_options_are_filled_in_with_the_objectives_defaults() -> None:
    model = options_models()["transpose"]
    assert model().model_dump()["options"] == {}
    filled = model.model_validate({"of": "gram", "options": {"temp": 1}}).model_dump()
    assert filled["options"] == {"kernel": "sp", "temp": 1}
    Transpose(3, 4, **filled)


def test_the_schema_completes_the_options_of_every_objective() -> None:
    schema = json.dumps(options_models()["transpose"].model_json_schema())
    for key in ("kernel", "distance_weight", "cosine_steps", "teacher_temp"):
        assert f'"{key}"' in schema
    assert '"target"' not in schema


def test_dimensions_that_processes_cannot_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transpose, "world_size", lambda: 3)
    with pytest.raises(UserError, match="the teacher's 4 dimensions cannot be shared equally by 3 processes"):
        Transpose(3, 4)


class Distillation(nn.Module):
    def __init__(self, of: RowLoss) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Linear(6, 3)
        self.objective = Transpose(3, 4, of=of, hidden_dim=5, row_weight=0.5)

    def forward(self, x: Tensor, teacher: Tensor) -> Tensor:
        return total(self.objective, self.student(x), teacher)


def step(of: RowLoss) -> dict[str, Tensor]:
    """Loss and gradients of a global batch, with any number of processes."""
    rank, world_size = distributed.rank(), distributed.world_size()
    module = Distillation(of).double()
    model = DistributedDataParallel(module) if world_size > 1 else module
    found = model(*(x.chunk(world_size)[rank] for x in pair(0, 8, 6, 4)))
    found.backward()
    gradients = {name: x.grad for name, x in module.named_parameters() if x.grad is not None}
    return {"loss": distributed.mean_over_processes(found), **gradients}


def all_steps() -> list[dict[str, Tensor]]:
    exact = [step(of) for of in ROW_LOSSES]
    transpose.gather_rows_with_grad = lambda x: x
    return [*exact, step("cosine")]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    expected = [step(of) for of in ROW_LOSSES]
    for found in processes.run(all_steps, folder=tmp_path):
        torch.testing.assert_close(found[:-1], expected, rtol=0, atol=1e-10)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(found[-1], expected[0], rtol=0, atol=1e-3)
