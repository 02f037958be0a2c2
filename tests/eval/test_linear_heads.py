"""Heads trained together against `torch.nn.Linear` under `torch.optim.SGD`, one at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ukd.eval.linear import heads as heads_module
from ukd.eval.linear.heads import Grid, Heads

CPU = torch.device("cpu")
COLUMNS = {"first": slice(0, 5), "both": slice(0, 8)}
RATES = [(0.5, 0.0), (0.05, 0.1), (2.0, 1e-3)]
NUM_CLASSES = 4


def make_grid(rates: list[tuple[float, float]] = RATES, **changes: Any) -> Grid:
    settings = {"momentum": 0.9, "init_std": 0.01, "seed": 3, "device": CPU, "dtype": torch.float64, **changes}
    return Grid(COLUMNS, NUM_CLASSES, rates, **settings)


def steps(num: int, rows: int = 10) -> list[tuple[Tensor, Tensor, float]]:
    """Rows, targets and the share of the learning rate of each step."""
    rng = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(rows, 8, generator=rng, dtype=torch.float64),
            torch.randint(NUM_CLASSES, (rows,), generator=rng),
            1.0 / (1 + step),
        )
        for step in range(num)
    ]


def weights(grid: Grid) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of every head, in the grid's order."""
    state = grid.state()
    return [(weight, bias) for part in (0, 4) for weight, bias in zip(state[part], state[part + 1], strict=True)]


@pytest.mark.parametrize("init_std", [0.01, None])
def test_every_head_is_what_torch_trains_alone(init_std: float | None) -> None:
    grid = make_grid(init_std=init_std)
    alone = []
    for (weight, bias), head in zip(weights(grid), grid.heads, strict=True):
        linear = nn.Linear(weight.shape[1], NUM_CLASSES, dtype=torch.float64)
        linear.load_state_dict({"weight": weight.clone(), "bias": bias.clone()})
        optimizer = torch.optim.SGD(linear.parameters(), lr=head.lr, momentum=0.9, weight_decay=head.weight_decay)
        alone.append((linear, optimizer, head))
    for rows, targets, factor in steps(12):
        grid.step(rows, targets, factor)
        for linear, optimizer, head in alone:
            optimizer.param_groups[0]["lr"] = head.lr * factor
            optimizer.zero_grad()
            nn.functional.cross_entropy(linear(rows[:, COLUMNS[head.features]]), targets).backward()
            optimizer.step()
    assert len(alone) == 6
    for (weight, bias), (linear, _, _) in zip(weights(grid), alone, strict=True):
        torch.testing.assert_close(weight, linear.weight.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(bias, linear.bias.detach(), rtol=0, atol=1e-10)


def test_first_weights_are_those_of_the_protocols() -> None:
    published = Heads(
        400, 50, [(1.0, 0.0)], momentum=0.9, init_std=0.01, generator=torch.Generator().manual_seed(0), device=CPU
    )
    assert published.bias.abs().max() == 0 and published.weight.std().item() == pytest.approx(0.01, rel=0.02)
    own = Heads(
        400, 50, [(1.0, 0.0)], momentum=0.9, init_std=None, generator=torch.Generator().manual_seed(0), device=CPU
    )
    torchs = nn.Linear(400, 50)
    for ours, theirs in ((own.weight, torchs.weight), (own.bias, torchs.bias)):
        assert ours.abs().max().item() <= 1 / 20
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.3)


def test_a_head_that_diverges_is_known_and_leaves_the_others_alone() -> None:
    broken, whole = make_grid([RATES[0], (1e200, 1e200)]), make_grid([RATES[0], RATES[0]])
    for rows, targets, factor in steps(6):
        broken.step(rows, targets, factor)
        whole.step(rows, targets, factor)
    assert broken.finite() == [True, False, True, False] and all(whole.finite())
    assert torch.equal(weights(broken)[0][0], weights(whole)[0][0])
    rows, targets, _ = steps(1, rows=40)[0]
    counts = broken.count(rows, targets)
    assert counts.top1[1] == counts.top5[1] == 0 < counts.top1[0]


def test_a_step_without_rows_is_one_without_a_gradient() -> None:
    grid = make_grid([(0.5, 0.1)])
    (weight, _), *_ = weights(grid)
    before = weight.clone()
    grid.step(torch.empty(0, 8, dtype=torch.float64), torch.empty(0, dtype=torch.int64), 1.0)
    torch.testing.assert_close(weight, before * (1 - 0.5 * 0.1), rtol=1e-12, atol=0)


def test_ties_go_to_the_lowest_class(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.tensor([[3.0, 3, 1, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0, 0]])
    found = Heads(2, 7, [(1.0, 0.0)], momentum=0.9, init_std=0.01, generator=torch.Generator(), device=CPU)
    found.weight.copy_(scores.T[None])
    rows = torch.eye(2)[[0, 0, 0, 0, 0, 1, 1, 1]]
    targets = torch.tensor([0, 1, 6, 3, 4, 0, 4, 5])
    # Places of the targets: 0, 1, 2, 4, 5 among the scores of the first row; 0, 4, 5 among seven equal ones.
    assert found.count(rows, targets) == ([2], [6])
    monkeypatch.setattr(heads_module, "TILE_ENTRIES", 21)
    assert found.count(rows, targets) == ([2], [6])


def test_state_is_all_there_is_to_continue_from() -> None:
    whole, first = make_grid(), make_grid()
    for batch in steps(6):
        whole.step(*batch)
    for batch in steps(6)[:3]:
        first.step(*batch)
    second = make_grid(seed=4)
    second.restore([value.clone() for value in first.state()])
    for batch in steps(6)[3:]:
        second.step(*batch)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(second.state(), whole.state(), strict=True))
