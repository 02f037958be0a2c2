from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.objectives.features import batch, pair, total
from ukd.objectives.smd import SMD

seeds = st.integers(0, 2**32 - 1)


def loss(student: Tensor, teacher: Tensor, temp: float = 0.04) -> Tensor:
    """The metric term alone, of the features themselves."""
    return total(SMD(student.shape[1], teacher.shape[1], temp=temp, head="none", cosine_steps=0), student, teacher)


def loop(student: Tensor, teacher: Tensor, temp: float) -> float:
    """The formula, one image at a time."""
    s, t = ([[x / math.hypot(*row) for x in row] for row in rows.tolist()] for rows in (student, teacher))
    by_image = []
    for i, anchor in enumerate(t):
        d = [math.dist(anchor, other) for other in s]
        e = [math.dist(anchor, other) for other in t]
        negatives = [j for j in range(len(t)) if e[j] > d[i]]
        positives = [j for j in range(len(t)) if j not in negatives]
        margin = 0.0
        if negatives:
            a = min(negatives, key=lambda j: d[j])
            margin += max(0.0, e[a] - d[a]) * d[a]
        p = max(positives, key=lambda j: d[j])
        margin -= max(0.0, d[p] - e[p]) * d[p]
        by_image.append(-math.log(1 / (1 + math.exp(-margin / temp))))
    return math.fsum(by_image) / len(by_image)


def test_by_hand() -> None:
    # First image: the student errs by 1 (60 degrees); the second is negative, sqrt(2) away for the teacher and for the
    # student alike, so of weight 0; the positive is the image itself, of weight 1 - 0 and distance 1.
    # Second image: no error, so a positive of weight 0; the first is negative, sqrt(2) away for the teacher and
    # 2 sin(15 degrees) for the student.
    student = torch.tensor([[1.0, math.sqrt(3)], [0.0, 2.0]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    negative = 2 * math.sin(math.pi / 12)
    margins = (-1, (math.sqrt(2) - negative) * negative)
    expected = math.fsum(math.log(1 + math.exp(-margin)) for margin in margins) / 2
    assert loss(student, teacher, temp=1.0).item() == pytest.approx(expected, abs=1e-12)


@given(seed=seeds, n=st.integers(1, 7), dim=st.integers(2, 6), noise=st.floats(0.1, 2), temp=st.floats(0.01, 1))
def test_equals_a_loop_over_the_formula(seed: int, n: int, dim: int, noise: float, temp: float) -> None:
    other, teacher = pair(seed, n, dim, dim)
    student = teacher + noise * other  # near the teacher for some, so that there are negatives
    assert loss(student, teacher, temp).item() == pytest.approx(loop(student, teacher, temp), abs=1e-10)


@settings(max_examples=20)
@given(seed=seeds)
def test_the_gradient_takes_the_weights_for_constants(seed: int) -> None:
    other, teacher = pair(seed, 6, 4, 4)
    student = (teacher + 0.5 * other).requires_grad_()
    s, t = nn.functional.normalize(student), nn.functional.normalize(teacher)
    by_image = []
    for i in range(6):
        d, e = ((t[i] - rows).norm(dim=1) for rows in (s, t))
        a = d.masked_fill(e <= d[i], 9).argmin()
        p = d.masked_fill(e > d[i], 0).argmax()
        w_a, w_p = (max((x - y).item(), 0) for x, y in ((e[a], d[a]), (d[p], e[p])))
        margin = w_a * bool((e > d[i]).any()) * d[a] - w_p * d[p]
        by_image.append(nn.functional.softplus(-margin / 0.5))
    (expected,) = torch.autograd.grad(torch.stack(by_image).mean(), student)
    (found,) = torch.autograd.grad(loss(student, teacher, temp=0.5), student)
    assert found.any()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
def test_log_2_and_no_gradient_where_the_student_is_the_teacher(seed: int, factor: float) -> None:
    teacher = pair(seed, 6, 4, 4)[1]
    student = (factor * teacher).requires_grad_()
    found = loss(student, teacher)
    found.backward()
    assert found.item() == pytest.approx(math.log(2), abs=1e-12)
    assert student.grad is not None and (factor * student.grad).abs().max() < 1e-12


def test_the_cosine_is_added_in_the_first_steps_only() -> None:
    student, teacher = (x.float() for x in pair(0, 6, 4, 4))
    objective = SMD(4, 4, head="none", cosine_steps=2)
    expected = -torch.cosine_similarity(student, teacher).mean()
    objective.eval()
    for _ in range(3):  # steps are counted in training only
        torch.testing.assert_close(objective(batch(student, teacher))["cosine"], expected)
    objective.train()
    found = [objective(batch(student, teacher)) for _ in range(4)]
    torch.testing.assert_close(found[1]["cosine"], expected)
    assert [bool(terms["cosine"]) for terms in found] == [True, True, False, False]
    assert len({terms["metric"].item() for terms in found}) == 1


def test_the_default_head_is_linear() -> None:
    head = SMD(3, 4).head
    assert isinstance(head, nn.Linear) and head.weight.shape == (4, 3)
