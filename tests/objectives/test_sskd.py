from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import scipy.special
import sklearn.metrics.pairwise
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tests import processes
from tests.objectives.features import pair
from ukd import distributed
from ukd.features import Features
from ukd.objectives import Batch
from ukd.objectives.sskd import SSKD, error_levels, row_weights

seeds = st.integers(0, 2**32 - 1)
TURNS = range(3)


def batch(student: Tensor, teacher: Tensor, progress: float = 0.5) -> Batch:
    """Upright images are the first quarter of the rows; the same images turned, turn by turn, follow."""
    plain_s, *turned_s = (Features(rows) for rows in student.chunk(4))
    plain_t, *turned_t = (Features(rows) for rows in teacher.chunk(4))
    index = torch.arange(len(plain_s.pooled))
    rotated = Batch(dict(enumerate(turned_s)), dict(enumerate(turned_t)), index)
    return Batch({0: plain_s}, {0: plain_t}, index, rotated=rotated, progress=progress)


def similarity(objective: SSKD, student: Tensor, teacher: Tensor, progress: float = 0.5) -> Tensor:
    term: Tensor = objective(batch(student, teacher, progress))["similarity"]
    return term


def cosines(rows: list[list[float]]) -> list[list[float]]:
    """Of every turned image with every upright one; the latter are the first quarter of the rows."""
    n = len(rows) // 4
    return [
        [math.fsum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y) for y in rows[:n]]
        for x in rows[n:]
    ]


def kept_rows(found: list[list[float]], wrong_share: float) -> list[int]:
    """Rows in the order of how many images come before the own one, as far as they are kept."""
    n = len(found) // 3
    ranks, leads = [], []
    for r, row in enumerate(found):
        order = sorted(range(n), key=lambda j: -row[j])
        ranks.append(order.index(r % n))
        leads.append(max(row) - row[r % n])
    num_wrong = sum(rank > 0 for rank in ranks)
    by_error = sorted(range(3 * n), key=lambda r: (ranks[r], leads[r]))
    return by_error[: 3 * n - num_wrong + int(wrong_share * num_wrong)]


def loop(student: Tensor, teacher: Tensor, temp: float, wrong_share: float) -> float:
    """The paper's formula, one number at a time."""
    s, t = cosines(student.tolist()), cosines(teacher.tolist())

    def probabilities(row: list[float]) -> list[float]:
        powers = [math.exp(x / temp) for x in row]
        return [power / math.fsum(powers) for power in powers]

    divergences = []
    for r in kept_rows(t, wrong_share):
        p, q = probabilities(t[r]), probabilities(s[r])
        divergences.append(math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return temp**2 * math.fsum(divergences) / len(divergences) if divergences else 0.0


def test_by_hand() -> None:
    # Two images. The teacher sees each turned image as it is: cosine 1 with its own, 0 with the other. The student
    # sees all alike: 1/2 against 1/2. With temperature 1 the teacher's row is (e, 1) / (e + 1).
    teacher = torch.eye(2).repeat(4, 1)
    p = math.e / (math.e + 1)
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    objective = SSKD(3, 2, temp=1.0, head="none")
    assert similarity(objective, torch.ones(8, 3), teacher).item() == pytest.approx(expected)
    assert similarity(SSKD(2, 2, head="none"), teacher, teacher) == 0


@given(
    seed=seeds,
    n=st.integers(1, 6),
    dims=st.tuples(*[st.integers(2, 5)] * 2),
    temp=st.floats(0.05, 2),
    wrong_share=st.floats(0, 1),
)
def test_equals_a_loop_over_the_formula(
    seed: int, n: int, dims: tuple[int, int], temp: float, wrong_share: float
) -> None:
    student, teacher = pair(seed, 4 * n, *dims)
    objective = SSKD(*dims, temp=temp, wrong_share=wrong_share, head="none")
    found = similarity(objective, student, teacher)
    assert found.item() == pytest.approx(loop(student, teacher, temp, wrong_share), abs=1e-10)


@given(seed=seeds)
def test_equals_scikit_learn_and_scipy(seed: int) -> None:
    student, teacher = pair(seed, 12, 3, 4)
    s, t = (sklearn.metrics.pairwise.cosine_similarity(x[3:], x[:3]) / 0.5 for x in (student, teacher))
    divergence = scipy.special.rel_entr(scipy.special.softmax(t, axis=1), scipy.special.softmax(s, axis=1))
    found = similarity(SSKD(3, 4, wrong_share=1.0, head="none"), student, teacher)
    assert found.item() == pytest.approx(0.25 * divergence.sum() / 9, abs=1e-10)


def test_what_is_kept_by_hand() -> None:
    # Own columns 0, 1, 2, three times. Right; one before the own by .1; two before it; right where equals tie;
    # one before it by .3; one before it by .2; right; right; two before it by .4.
    right_or_wrong_twice = [[0.9, 0.1, 0.0], [0.6, 0.5, 0.0], [0.5, 0.4, 0.0]]
    ties_and_wrong_once = [[0.5, 0.5, 0.5], [0.6, 0.3, 0.0], [0.0, 0.6, 0.4]]
    the_rest = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.4, 0.3, 0.0]]
    rows = torch.tensor([*right_or_wrong_twice, *ties_and_wrong_once, *the_rest])
    own = torch.tensor([0, 1, 2] * 3)
    errors = error_levels(rows, own)
    assert errors.floor().tolist() == [0, 1, 2, 0, 1, 1, 0, 0, 2]
    assert errors.argsort(stable=True).tolist() == [0, 3, 6, 7, 1, 5, 4, 8, 2]
    for wrong_share, kept in [(0.0, [0, 3, 6, 7]), (0.59, [0, 1, 3, 5, 6, 7]), (0.6, [0, 1, 3, 4, 5, 6, 7])]:
        weights = row_weights(rows, own, wrong_share)
        assert weights.nonzero().flatten().tolist() == kept
        torch.testing.assert_close(weights[kept], torch.full((len(kept),), 9 / len(kept)))
    assert row_weights(rows, own, 1.0).tolist() == [1.0] * 9


def test_where_nothing_is_kept_the_loss_and_its_gradient_are_0() -> None:
    # Each turned image is the other one to the teacher.
    teacher = torch.cat([torch.eye(2), torch.eye(2).flip(0).repeat(3, 1)])
    student = torch.randn(8, 3, requires_grad=True)
    loss = similarity(SSKD(3, 2, wrong_share=0.0, head="none"), student, teacher)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0 and student.grad is not None and not student.grad.any()


def test_heads_are_as_wide_as_the_features() -> None:
    objective = SSKD(3, 5, teacher_head="mlp2")
    assert [tuple(x.shape) for x in objective.head.parameters()] == [(3, 3), (3,), (3, 3), (3,)]
    assert [tuple(x.shape) for x in objective.teacher_head.parameters()] == [(5, 5), (5,), (5, 5), (5,)]
    assert not list(SSKD(3, 5, head="none").parameters())


def test_while_the_teachers_head_learns_the_student_does_not() -> None:
    objective = SSKD(3, 4, teacher_head="mlp2", head_share=0.25).double()
    student, teacher = pair(0, 12, 3, 4)
    student.requires_grad_()
    teacher.requires_grad_()
    terms = objective(batch(student, teacher, progress=0.24))
    assert terms["similarity"] == 0
    similar = torch.tensor(cosines(objective.teacher_head(teacher).tolist()))
    expected = torch.nn.functional.cross_entropy(similar.double(), torch.arange(3).repeat(3))
    torch.testing.assert_close(terms["teacher_head"], expected, rtol=0, atol=1e-7)
    torch.stack(list(terms.values())).sum().backward()
    assert student.grad is not None and not student.grad.any() and teacher.grad is None
    assert all(x.grad is not None and not x.grad.any() for x in objective.head.parameters())
    assert all(x.grad is not None and x.grad.any() for x in objective.teacher_head.parameters())

    objective.zero_grad()
    terms = objective(batch(student, teacher, progress=0.25))
    assert terms["teacher_head"] == 0 < terms["similarity"]
    torch.stack(list(terms.values())).sum().backward()
    assert student.grad.any() and teacher.grad is None
    assert all(x.grad is not None and not x.grad.any() for x in objective.teacher_head.parameters())


def train(objective: SSKD, optimizer: torch.optim.Optimizer, steps: range, num_steps: int) -> list[float]:
    """Trains as the loop does; the terms of every step."""
    found = []
    for step in steps:
        optimizer.zero_grad()
        terms = objective(batch(*pair(step, 12, 3, 4), progress=step / num_steps))
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        objective.after_step((step + 1) / num_steps)
        found += [term.item() for term in terms.values()]
    return found


def build() -> tuple[SSKD, torch.optim.Optimizer]:
    torch.manual_seed(0)
    objective = SSKD(3, 4, teacher_head="mlp2", head_share=0.5).double()
    return objective, torch.optim.AdamW(objective.parameters(), lr=0.1, weight_decay=0.1)


def test_the_head_that_has_learnt_is_the_target_and_stays_as_it_is() -> None:
    objective, optimizer = build()
    train(objective, optimizer, range(3), num_steps=6)
    learnt = [x.detach().clone() for x in objective.teacher_head.parameters()]
    train(objective, optimizer, range(3, 6), num_steps=6)
    assert not torch.equal(next(objective.teacher_head.parameters()), learnt[0]), "momentum and decay go on"
    assert all(torch.equal(x, y) for x, y in zip(objective.frozen_head.parameters(), learnt, strict=True))
    rows, teacher = pair(9, 12, 3, 4)
    without = SSKD(3, 4, head="mlp2").double()
    without.head.load_state_dict(objective.head.state_dict())
    expected = similarity(without, rows, objective.frozen_head(teacher))
    torch.testing.assert_close(similarity(objective, rows, teacher), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_stopped_around_the_end_of_the_heads_stage_it_continues_bit_for_bit(stop: int) -> None:
    first, optimizer = build()
    train(first, optimizer, range(stop), num_steps=6)
    second, other = build()
    second.load_state_dict(first.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    rest = range(stop, 6)
    assert train(first, optimizer, rest, num_steps=6) == train(second, other, rest, num_steps=6)


def step_with_head(progress: float) -> dict[str, Tensor]:
    """Terms and gradients of one global batch, with any number of processes."""
    objective = build()[0]
    rank, world_size = distributed.rank(), distributed.world_size()
    model = DistributedDataParallel(objective) if world_size > 1 else objective
    rows = [torch.cat([part.chunk(world_size)[rank] for part in each.chunk(4)]) for each in pair(0, 16, 3, 4)]
    terms = model(batch(rows[0], rows[1], progress))
    torch.stack(list(terms.values())).sum().backward()
    found = {name: distributed.mean_over_processes(term) for name, term in terms.items()}
    return found | {name: x.grad for name, x in objective.named_parameters() if x.grad is not None}


def row_choice() -> Tensor:
    """Which rows this process keeps, where one of two processes has nearly all of the wrong ones."""
    similarity, own = torch.full((6, 4), 0.1, dtype=torch.float64), torch.tensor([0, 1] * 3)
    if distributed.rank() == 0:
        similarity[range(6), own] = 0.5
        similarity[2, 3] = 0.9
        return row_weights(similarity, own, 0.5)
    similarity[:, 0] = torch.tensor([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    return row_weights(similarity, own + 2, 0.5)


def several_steps() -> list[dict[str, Tensor]]:
    return [step_with_head(0.0), step_with_head(0.5)]


def in_two_processes() -> tuple[list[dict[str, Tensor]], Tensor]:
    return several_steps(), row_choice()


def test_two_processes_equal_one_in_both_stages_and_keep_a_share_of_all_rows(tmp_path: Path) -> None:
    expected = several_steps()
    assert expected[0]["teacher_head.0.weight"].any() and expected[1]["head.0.weight"].any()
    (steps, first), (others_steps, second) = processes.run(in_two_processes, folder=tmp_path)
    for found in (steps, others_steps):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    # 7 of 12 rows are wrong, so 3 of them are kept beside the 5 right ones: the closest, which the second process has.
    assert (first > 0).tolist() == [True, True, False, True, True, True]
    assert (second > 0).tolist() == [True, True, True, False, False, False]
    torch.testing.assert_close(torch.cat([first, second]), torch.cat([first, second]).bool().double() * 12 / 8)
