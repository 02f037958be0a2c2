from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests import processes
from ukd import distributed
from ukd.features import Features
from ukd.objectives import Batch
from ukd.objectives.simclr import SimCLR


def batch(first: Tensor, second: Tensor) -> Batch:
    return Batch({0: Features(first), 1: Features(second)}, {}, torch.arange(len(first)))


def loss(first: Tensor, second: Tensor, temp: float) -> float:
    """NT-Xent of the features themselves, without a head."""
    objective = SimCLR(first.shape[1], 0, temp=temp, hidden_dim=2, out_dim=2)
    objective.head = nn.Identity()
    return float(objective(batch(first, second))["nt_xent"])


def test_by_hand() -> None:
    # Similarity 1 to the other view and 0 to the two views of the other image: -log(e / (e + 1 + 1)).
    z = torch.eye(2)
    assert loss(z, z, temp=1.0) == pytest.approx(math.log(1 + 2 / math.e))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 5), temp=st.floats(0.05, 2))
def test_equals_a_loop_over_the_formula(seed: int, n: int, temp: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
    z = [[x / math.hypot(*row) for x in row] for row in [*first.tolist(), *second.tolist()]]
    by_loop = []
    for i in range(2 * n):
        logits = [sum(a * b for a, b in zip(z[i], other, strict=True)) / temp for other in z]
        others = math.fsum(math.exp(logits[k]) for k in range(2 * n) if k != i)
        by_loop.append(math.log(others) - logits[(i + n) % (2 * n)])
    assert loss(first, second, temp) == pytest.approx(math.fsum(by_loop) / len(by_loop), abs=1e-10)
    order = torch.randperm(n)
    assert loss(first[order], second[order], temp) == pytest.approx(loss(first, second, temp), abs=1e-10)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_fp32_and_finite_under_autocast_at_batch_2(size: float) -> None:
    objective = SimCLR(3, 0, hidden_dim=4, out_dim=2)
    views = torch.randn(2, 2, 3, dtype=torch.bfloat16).mul(size).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        term = objective(batch(*views))["nt_xent"]
    term.backward()
    assert term.dtype == torch.float32 and term.isfinite()
    assert views.grad is not None and views.grad.isfinite().all()


def test_the_loss_itself_keeps_fp32_under_autocast() -> None:
    views = torch.randn(2, 8, 3)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = loss(*views, temp=0.1)
    assert under_autocast == loss(*views, temp=0.1)


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    first, second = (SimCLR(3, 0, hidden_dim=4, out_dim=2) for _ in range(2))
    views = batch(torch.randn(6, 3), torch.randn(6, 3))
    first(views)  # moves the running statistics of the batch norm
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(views)["nt_xent"], second(views)["nt_xent"])


def gradients() -> dict[str, Tensor]:
    """Loss and gradients of the global batch, with any number of processes."""
    rank, world_size = distributed.rank(), distributed.world_size()
    torch.manual_seed(0)
    objective = SimCLR(5, 0, hidden_dim=6, out_dim=4).double()
    objective.head.eval()  # the statistics of a batch norm would be those of each process
    views = torch.randn(2, 8, 5, dtype=torch.float64)[:, rank::world_size]
    step = DistributedDataParallel(objective) if world_size > 1 else objective
    term = step(batch(*views))["nt_xent"]
    term.backward()
    found = {name: x.grad for name, x in objective.named_parameters() if x.grad is not None}
    return found | {"loss": distributed.mean_over_processes(term)}


def test_two_processes_equal_one(tmp_path: Path) -> None:
    for result in processes.run(gradients, folder=tmp_path):
        torch.testing.assert_close(result, gradients(), rtol=0, atol=1e-10)
