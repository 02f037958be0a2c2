from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.objectives.features import pair
from ukd.features import Features
from ukd.objectives import Batch, Needs
from ukd.objectives.base import BOTH, EMA, SECOND
from ukd.objectives.disco import DisCo

seeds = st.integers(0, 2**32 - 1)
Views = tuple[Tensor, Tensor]


def batch(student: Views, teacher: Views, ema: Views) -> Batch:
    of_student, of_teacher, of_ema = (
        {number: Features(view) for number, view in enumerate(views)} for views in (student, teacher, ema)
    )
    return Batch(of_student, of_teacher, torch.arange(len(student[0])), ema={1: of_ema[1]})


def views(seed: int, n: int, dim: int = 4) -> tuple[Views, Views, Views]:
    """Random fp64 features of n images in two views, of student, teacher and EMA student."""
    return pair(seed, n, dim, dim), pair(seed + 1, n, dim, dim), pair(seed + 2, n, dim, dim)


def disco_of(past: Tensor, **options: float) -> DisCo:
    """DisCo without a head, in eval mode, whose EMA student has given these features."""
    dim = past.shape[1]
    objective = DisCo(dim, dim, head="none", queue_size=len(past), **options)  # type: ignore[arg-type]
    objective.to(past.dtype)
    assert objective(batch((past, past), (past, past), (past, past)))["contrast"] == 0  # Nothing to be told from.
    return objective.eval()


def loop(student: Views, teacher: Views, ema: Views, past: Tensor, mse_weight: float, temp: float) -> float:
    """The paper's formula, one number at a time."""

    def unit(rows: Tensor) -> list[list[float]]:
        return [[x / math.hypot(*row) for x in row] for row in rows.tolist()]

    def dot(a: list[float], b: list[float]) -> float:
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    n, loss = len(student[0]), 0.0
    for s, t in zip(student, teacher, strict=True):
        loss += mse_weight / n * sum(math.dist(a, b) ** 2 for a, b in zip(unit(s), unit(t), strict=True))
    for query, key in zip(unit(student[0]), unit(ema[1]), strict=True):
        positive = math.exp(dot(query, key) / temp)
        negatives = math.fsum(math.exp(dot(query, other) / temp) for other in unit(past))
        loss -= math.log(positive / (positive + negatives)) / n
    return loss


def test_by_hand() -> None:
    # The first view is the teacher's and the second at a right angle to it: squared distances 0 and 2. The first view
    # has similarity 0 with its key, which is the second of the EMA student, and 1 with the one image before.
    objective = disco_of(torch.tensor([[3.0, 0.0]]), mse_weight=0.5, temp=1.0)
    x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    found = objective(batch((x, y), (x, x), (x, y)))
    assert {name: term.item() for name, term in found.items()} == pytest.approx(
        {"mse": 0.5 * 2, "contrast": math.log(1 + math.e)}
    )


@given(
    seed=seeds, n=st.integers(1, 5), num_past=st.integers(1, 6), mse_weight=st.floats(0.1, 40), temp=st.floats(0.05, 1)
)
def test_equals_a_loop_over_the_formula(seed: int, n: int, num_past: int, mse_weight: float, temp: float) -> None:
    features, past = views(seed, n), pair(seed + 3, num_past, 4, 4)[0]
    found = disco_of(past, mse_weight=mse_weight, temp=temp)(batch(*features))
    assert sum(found.values()).item() == pytest.approx(loop(*features, past, mse_weight, temp), abs=1e-10)


def test_equals_torchs_summed_squares_and_lightlys_moco() -> None:
    from lightly.loss import NTXentLoss

    features, past = views(0, 6), pair(9, 10, 4, 4)[0]
    found = disco_of(past, mse_weight=6, temp=0.2)(batch(*features))
    s, t, e = ([nn.functional.normalize(x) for x in each] for each in features)
    # The released code sums over the images of a GPU: with 6 of them, 6 times our mean.
    summed = nn.MSELoss(reduction="sum")
    torch.testing.assert_close(found["mse"], summed(s[0], t[0]) + summed(s[1], t[1]), rtol=0, atol=1e-10)
    moco = NTXentLoss(temperature=0.2, memory_bank_size=(10, 4))
    moco.memory_bank.bank = nn.functional.normalize(past)
    torch.testing.assert_close(found["contrast"], moco(s[0], e[1]), rtol=0, atol=1e-10)


def test_the_mean_cosine_over_both_views_can_be_read_off_the_terms() -> None:
    student, teacher, ema = views(0, 6)
    objective = disco_of(torch.eye(4, dtype=torch.float64), mse_weight=7)
    found = objective.teacher_cosine(objective(batch(student, teacher, ema)))
    torch.testing.assert_close(found, torch.cosine_similarity(torch.cat(student), torch.cat(teacher)).mean())


def test_the_head_of_the_ema_student_starts_as_the_head_and_follows_it() -> None:
    objective = DisCo(3, 4, queue_size=8, hidden_dim=5, ema_momentum=0.75)
    assert not any(parameter.requires_grad for parameter in objective.ema_head.parameters())
    before = [parameter.clone() for parameter in objective.ema_head.parameters()]
    for parameter, same in zip(objective.head.parameters(), before, strict=True):
        assert torch.equal(parameter, same)
        nn.init.constant_(parameter, 2.0)
    objective.after_step(0.5)
    for parameter, start in zip(objective.ema_head.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), 0.75 * start + 0.25 * 2)


def test_the_queue_takes_in_the_second_view_of_the_ema_student_and_only_in_training() -> None:
    features = views(0, 6, 3)
    objective = DisCo(3, 3, queue_size=8, hidden_dim=5).double()
    for parameter in objective.head.parameters():
        nn.init.zeros_(parameter)  # The queue is none of its business.
    objective(batch(*features))
    key = objective.ema_head(features[2][1])
    torch.testing.assert_close(objective.queue(), nn.functional.normalize(key))
    objective.eval()(batch(*features))
    assert len(objective.queue()) == 6


def test_it_asks_for_two_views_and_an_ema_student_and_has_the_papers_head() -> None:
    objective = DisCo(3, 4, queue_size=8)
    assert objective.needs == DisCo.needs == Needs(BOTH, BOTH, SECOND, ema=EMA(0.999, 0.999))
    assert isinstance(objective.head, nn.Sequential)
    assert [type(layer) for layer in objective.head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(x.shape) for x in objective.head.parameters()] == [(2048, 3), (2048,), (4, 2048), (4,)]
