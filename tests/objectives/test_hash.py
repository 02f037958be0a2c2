from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests import processes
from ukd import distributed
from ukd.errors import UserError
from ukd.features import Features
from ukd.objectives import Batch, hash
from ukd.objectives.hash import BRCD, straight_through
from ukd.row_blocks import RowBlocks

seeds = st.integers(0, 2**32 - 1)
BITS = 6


def views(seed: int, n: int, student_dim: int, teacher_dim: int) -> list[Tensor]:
    """The student's and the teacher's features of a first and a second view that differ a little."""
    generator = torch.Generator().manual_seed(seed)

    def view(dim: int) -> list[Tensor]:
        first = torch.randn(n, dim, generator=generator, dtype=torch.float64)
        return [first, first + 0.3 * torch.randn(n, dim, generator=generator, dtype=torch.float64)]

    return [*view(student_dim), *view(teacher_dim)]


def batch(student1: Tensor, student2: Tensor, teacher1: Tensor, teacher2: Tensor) -> Batch:
    student, teacher = {0: Features(student1), 1: Features(student2)}, {0: Features(teacher1), 1: Features(teacher2)}
    return Batch(student, teacher, torch.arange(len(student1)))


def fitted(num_clusters: int = 3, **options: float) -> BRCD:
    torch.manual_seed(0)
    objective = BRCD(4, 5, bits=BITS, num_clusters=num_clusters, **options).double()  # type: ignore[arg-type]
    objective.fit(RowBlocks(views(7, 40, 1, 5)[2]))
    return objective


def loss(objective: BRCD, given: list[Tensor]) -> Tensor:
    found: Tensor = objective(batch(*given))["hash"]
    return found


def cosine(x: list[float], y: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)


def direction(objective: BRCD, s1: Tensor, t1: Tensor, t2: Tensor) -> float:
    """The formula of the docstring for the student in one view, one number at a time."""

    def of_teacher(features: Tensor) -> tuple[list[list[float]], list[int]]:
        codes, clusters = [], []
        for row in nn.functional.normalize(features).tolist():
            centred = [x - m for x, m in zip(row, objective.mean.tolist(), strict=True)]
            columns = objective.projection.T.tolist()
            components = [math.fsum(x * w for x, w in zip(centred, column, strict=True)) for column in columns]
            codes.append([1.0 if x >= 0 else -1.0 for x in components])
            away = [math.dist(components, centre) for centre in objective.centres.tolist()]
            clusters.append(away.index(min(away)))
        return codes, clusters

    student = [[1.0 if x >= 0 else -1.0 for x in row] for row in objective.head(s1).tolist()]
    (same, c1), (other, c2) = of_teacher(t1), of_teacher(t2)
    masks = objective.masks.tolist()
    u = [[x * m for x, m in zip(code, masks[c], strict=True)] for code, c in zip(student, c1, strict=True)]
    v = [[x * m for x, m in zip(code, masks[c], strict=True)] for code, c in zip(other, c1, strict=True)]
    terms = []
    for i in range(len(student)):
        alpha = objective.alpha if c1[i] == c2[i] else 1.0
        positive = alpha * cosine(student[i], same[i]) + (1 - alpha) * cosine(u[i], v[i])
        negatives = [u[j] for j in range(len(u)) if j != i and c1[j] != c1[i]]
        negatives += [v[j] for j in range(len(v)) if j != i and c2[j] != c1[i]]
        for anchor in (u[i], v[i]):
            powers = [math.exp(cosine(anchor, y) / objective.temp) for y in negatives]
            own = math.exp(positive / objective.temp)
            terms.append(-math.log(own / (own + math.fsum(powers))))
    return math.fsum(terms) / len(terms)


@settings(max_examples=30)
@given(
    seed=seeds,
    n=st.integers(1, 6),
    num_clusters=st.integers(1, 5),
    alpha=st.floats(0, 1),
    temp=st.floats(0.1, 1),
    margin=st.floats(0, 1),
)
def test_equals_a_loop_over_the_formula(
    seed: int, n: int, num_clusters: int, alpha: float, temp: float, margin: float
) -> None:
    objective = fitted(num_clusters, alpha=alpha, temp=temp, margin=margin)
    s1, s2, t1, t2 = views(seed, n, 4, 5)
    expected = (direction(objective, s1, t1, t2) + direction(objective, s2, t2, t1)) / 2
    assert loss(objective, [s1, s2, t1, t2]).item() == pytest.approx(expected, abs=1e-10)


def by_hand(alpha: float, temp: float) -> BRCD:
    """Codes are the signs of two numbers; the clusters are the four quadrants, and no bit is silenced."""
    objective = BRCD(2, 2, bits=2, alpha=alpha, temp=temp, num_clusters=4)
    objective.head = nn.Identity()
    objective.projection.copy_(torch.eye(2))
    objective.centres.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]))
    return objective


def test_by_hand() -> None:
    teacher = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    # The student's first code differs from the teacher's in one bit: cosine 0; the second agrees: cosine 1.
    student = torch.tensor([[3.0, -1.0], [-1.0, -3.0]])
    objective = by_hand(alpha=1.0, temp=1.0)
    # First image: to the student's and the teacher's codes of the second image, (-1, -1), its code (1, -1) has cosine
    # 0, the teacher's (1, 1) has -1. Second image: to (1, -1) of the student 0, to (1, 1) of the teacher -1, from both.
    first = (math.log(1 + 2) + math.log(1 + 2 * math.exp(-1))) / 2
    second = math.log(1 + (1 + math.exp(-1)) / math.e)
    assert loss(objective, [student, student, teacher, teacher]).item() == pytest.approx((first + second) / 2)


def test_a_view_in_another_cluster_is_no_positive() -> None:
    # Of one image there are no negatives, so the loss is 0 but its gradient is no guide; of two there are.
    first, moved = torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), torch.tensor([[1.0, -2.0], [-1.0, -2.0]])
    student = torch.tensor([[1.0, 1.0], [-1.0, -3.0]])
    heard = [loss(by_hand(alpha, 1.0), [student, student, first, moved]).item() for alpha in (0.0, 0.8, 1.0)]
    # The second image's views agree and so do its codes; the first image listens to its own view whatever alpha is.
    assert heard == pytest.approx([heard[0]] * 3)
    stays = [loss(by_hand(alpha, 1.0), [student, student, first, first * 2]).item() for alpha in (0.0, 1.0)]
    assert stays[0] == pytest.approx(stays[1])


def test_images_of_one_cluster_are_no_negatives() -> None:
    same = torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]])
    assert loss(by_hand(0.8, 0.3), [-same, -same, same, same]) == 0


@given(seed=seeds, temp=st.floats(0.1, 1))
def test_with_every_image_in_a_cluster_of_its_own_it_is_nt_xent(seed: int, temp: float) -> None:
    objective = BRCD(4, 4, bits=4, alpha=0.0, temp=temp, num_clusters=5).double()
    objective.head = nn.Identity()
    torch.manual_seed(seed)
    teacher = 3 * torch.eye(5, 4, dtype=torch.float64) - 1.5 + 0.1 * torch.rand(5, 4, dtype=torch.float64)
    objective.projection.copy_(torch.eye(4))
    objective.centres.copy_(nn.functional.normalize(teacher))
    student = torch.randn(2, 5, 4, dtype=torch.float64)
    found = loss(objective, [*student, teacher, teacher])
    nt_xent = NTXentLoss(temperature=temp)
    theirs = [nt_xent(x.sign(), teacher.sign()) for x in student]
    torch.testing.assert_close(found, torch.stack(theirs).mean(), rtol=0, atol=1e-8)


def test_codes_have_the_gradient_of_the_sigmoid() -> None:
    x = torch.tensor([-2.0, -0.1, 0.0, 3.0], requires_grad=True)
    codes = straight_through(x)
    assert codes.tolist() == [-1, -1, 1, 1]
    codes.sum().backward()
    torch.testing.assert_close(x.grad, x.sigmoid() * (1 - x.sigmoid()))
    assert straight_through(torch.tensor([math.nan])).isnan()


def test_students_and_teachers_codes() -> None:
    objective = fitted()
    student, _, teacher, _ = views(0, 30, 4, 5)
    codes, teachers = objective.codes(student), objective.teacher_codes(teacher)
    assert codes.dtype == teachers.dtype == torch.bool and codes.shape == teachers.shape == (30, BITS)
    assert torch.equal(codes, straight_through(objective.head(student)) > 0)
    assert torch.equal(objective.teacher_codes(1e3 * teacher), teachers)
    # Of the bank itself, every bit splits the images.
    assert (objective.teacher_codes(views(7, 40, 1, 5)[2]).double().mean(0) - 0.5).abs().max() < 0.4


def test_the_student_learns_the_teachers_codes() -> None:
    torch.manual_seed(0)
    centres = 2 * torch.randn(4, 12)
    teacher = centres[torch.arange(256) % 4] + torch.randn(256, 12)
    student = teacher @ torch.randn(12, 9)
    objective = BRCD(9, 12, bits=8, num_clusters=4)
    objective.fit(RowBlocks(teacher))
    agreement = [(objective.codes(student) == objective.teacher_codes(teacher)).double().mean().item()]
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss(objective, [student, student, teacher, teacher]).backward()
        optimizer.step()
    agreement.append((objective.codes(student) == objective.teacher_codes(teacher)).double().mean().item())
    assert agreement[0] < 0.7 and agreement[1] > 0.9


def test_gradient_to_the_student_and_none_to_the_teacher() -> None:
    objective = fitted()
    given = [x.requires_grad_() for x in views(0, 8, 4, 5)]
    loss(objective, given).backward()
    assert all(x.grad is not None and x.grad.any() for x in given[:2])
    assert all(x.grad is None for x in given[2:])
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_the_order_of_images_and_of_views_is_nothing() -> None:
    objective, given, order = fitted(), views(0, 8, 4, 5), torch.randperm(8)
    expected = loss(objective, given)
    torch.testing.assert_close(loss(objective, [x[order] for x in given]), expected, rtol=0, atol=1e-12)
    swapped = [given[1], given[0], given[3], given[2]]
    torch.testing.assert_close(loss(objective, swapped), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e3, 1e30])
def test_fp32_and_finite_under_autocast_at_batch_2(size: float) -> None:
    objective = fitted().float()
    given = [(x * size).to(torch.bfloat16).requires_grad_() for x in views(0, 2, 4, 5)]
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(objective, given)
    found.backward()
    assert found.dtype == torch.float32 and found.isfinite()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in given[:2])


def test_zero_and_equal_rows_have_a_finite_gradient() -> None:
    objective, given = fitted(), views(0, 6, 4, 5)
    for x in given:
        x[1] = 0
        x[3] = x[4]
    found = loss(objective, [x.requires_grad_() for x in given])
    found.backward()
    assert found.isfinite() and all(x.grad is not None and x.grad.isfinite().all() for x in given[:2])


def test_a_nan_of_the_student_reaches_the_loss() -> None:
    given = views(0, 6, 4, 5)
    given[1][2, 3] = math.nan
    assert loss(fitted(), given).isnan()


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    first, second = fitted(), BRCD(4, 5, bits=BITS, num_clusters=3).double()
    second.load_state_dict(first.state_dict())
    given = views(0, 6, 4, 5)
    assert torch.equal(loss(first, given), loss(second, given))


def test_fewer_images_than_clusters_are_refused() -> None:
    with pytest.raises(UserError, match=r"choose num_clusters <= 4$"):
        BRCD(4, 5, num_clusters=6).fit(RowBlocks(torch.randn(4, 5)))


class Distillation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.objective = fitted()
        self.student = nn.Linear(6, 4, dtype=torch.float64)

    def forward(self, x1: Tensor, x2: Tensor, teacher1: Tensor, teacher2: Tensor) -> Tensor:
        return loss(self.objective, [self.student(x1), self.student(x2), teacher1, teacher2])


def step() -> dict[str, Tensor]:
    """Loss and gradients of a global batch, with any number of processes."""
    rank, world_size = distributed.rank(), distributed.world_size()
    module = Distillation()
    model = DistributedDataParallel(module) if world_size > 1 else module
    found = model(*(x.chunk(world_size)[rank] for x in views(0, 8, 6, 5)))
    found.backward()
    gradients = {name: x.grad for name, x in module.named_parameters() if x.grad is not None}
    return {"loss": distributed.mean_over_processes(found), **gradients}


def both_steps() -> list[dict[str, Tensor]]:
    exact = step()
    hash.gather_rows_with_grad = hash.gather_rows = lambda x: x
    hash.own_rows = lambda num_rows: slice(0, num_rows)
    return [exact, step()]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    expected = step()
    for exact, naive in processes.run(both_steps, folder=tmp_path):
        torch.testing.assert_close(exact, expected, rtol=0, atol=1e-10)
        weight = "student.weight"
        assert (naive[weight] - expected[weight]).norm() > 1e-2 * expected[weight].norm()
