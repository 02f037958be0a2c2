"""MoCo, BYOL, DINO and iBOT: values from loops over the papers' formulas, heads that follow, many processes as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests import processes
from ukd import distributed
from ukd.features import Features
from ukd.objectives import Batch, Objective
from ukd.objectives.byol import BYOL
from ukd.objectives.dino import DINO, prototype_logits
from ukd.objectives.moco import MoCo

BUILD: dict[str, Callable[[], Objective]] = {
    "moco": lambda: MoCo(5, 0, queue_size=11, hidden_dim=6, out_dim=4),
    "byol": lambda: BYOL(5, 0, hidden_dim=6, out_dim=4),
    "dino": lambda: DINO(5, 0, num_prototypes=7, hidden_dim=6, bottleneck_dim=4, warmup=0.5, freeze=0.0),
    "ibot": lambda: DINO(5, 0, num_prototypes=7, hidden_dim=6, bottleneck_dim=4, freeze=0.0, patch_weight=1.0),
}
every_method = pytest.mark.parametrize("name", BUILD)


def build(name: str) -> Objective:
    torch.manual_seed(0)
    return BUILD[name]().double()


def rows(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def batch(views: Tensor, ema: Tensor, small: Tensor | None = None, progress: float = 0.25) -> Batch:
    """Two views of n images and their hidden patches: views [2, n, 5], ema [2, n, 5], small [m, n, 5]."""
    n = views.shape[1]
    index = torch.arange(n)
    tokens = torch.stack([views[0] * (patch + 1) for patch in range(4)], 1)
    seen = torch.stack([ema[0] * (patch - 1.5) for patch in range(4)], 1)
    mask = torch.arange(4)[None] < torch.arange(n)[:, None] % 3
    return Batch(
        student={number: Features(view) for number, view in enumerate(views)},
        teacher={},
        index=index,
        ema={0: Features(ema[0], tokens=seen, grid=(2, 2)), 1: Features(ema[1])},
        small=None
        if small is None
        else Batch({number: Features(crop) for number, crop in enumerate(small)}, {}, index),
        masked=Features(views[0], tokens=tokens, grid=(2, 2), mask=mask),
        progress=progress,
    )


def cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    return -(torch.softmax(teacher, -1) * torch.log_softmax(student, -1)).sum()


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def test_moco_by_a_loop() -> None:
    objective = build("moco")
    before, views, ema = rows(0, 2, 6, 5), rows(1, 2, 6, 5), rows(2, 2, 6, 5)
    assert objective(batch(before, before))["contrast"] == 0
    with torch.no_grad():
        queue = [unit(row) for row in objective.ema_head(before[1])]
        query, key = objective.head(views[0]), objective.ema_head(ema[1])
        losses = []
        for i in range(6):
            own = torch.exp(unit(query[i]) @ unit(key[i]) / 0.2)
            others = sum(torch.exp(unit(query[i]) @ row / 0.2) for row in queue)
            losses.append(-torch.log(own / (own + others)))
        expected = torch.stack(losses).mean()
    torch.testing.assert_close(objective(batch(views, ema))["contrast"], expected, rtol=1e-10, atol=0)


def test_byol_by_a_loop() -> None:
    objective = build("byol")
    views, ema = rows(1, 2, 6, 5), rows(2, 2, 6, 5)
    found = objective(batch(views, ema))["byol"]
    with torch.no_grad():
        predicted = [objective.predictor(objective.head(view)) for view in views]
        targets = [objective.ema_head(view) for view in ema]
        expected = sum(
            (unit(predicted[a][i]) - unit(targets[b][i])).square().sum() for a, b in ((0, 1), (1, 0)) for i in range(6)
        )
    torch.testing.assert_close(found, expected / 6, rtol=1e-10, atol=0)


def test_dino_and_ibot_by_a_loop() -> None:
    objective = build("ibot")
    views, ema, small = rows(1, 2, 6, 5), rows(2, 2, 6, 5), rows(3, 3, 6, 5)
    given = batch(views, ema, small)
    centre = objective.loss.center.clone()
    found = objective(given)
    with torch.no_grad():
        crops = [prototype_logits(objective.head, view) / 0.1 for view in (*views, *small)]
        targets = [prototype_logits(objective.ema_head, view) for view in ema]
        pairs = [(v, w) for v in range(2) for w in range(5) if v != w]
        expected = sum(cross_entropy(targets[v][i] / 0.04, crops[w][i]) for v, w in pairs for i in range(6))
        torch.testing.assert_close(found["dino"], expected / (8 * 6), rtol=1e-10, atol=0)
        mean = torch.stack(targets).mean((0, 1))
        torch.testing.assert_close(objective.loss.center.flatten(), 0.9 * centre.flatten() + 0.1 * mean)
        expected = torch.zeros((), dtype=torch.float64)
        for i in range(6):
            hidden = given.masked.mask[i].nonzero().flatten()
            for patch in hidden:
                teacher = prototype_logits(objective.ema_head, given.ema[0].tokens[i, patch][None]) / 0.04
                student = prototype_logits(objective.head, given.masked.tokens[i, patch][None]) / 0.1
                expected += cross_entropy(teacher, student) / len(hidden) / 6
    torch.testing.assert_close(found["ibot"], expected, rtol=1e-10, atol=0)


def test_the_teacher_temperature_rises_in_the_warm_up() -> None:
    objective = DINO(5, 0, num_prototypes=7, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup=0.5)
    found = [objective._teacher_temp(progress) for progress in (0.0, 0.25, 0.5, 0.9)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_the_last_layer_is_frozen_at_first_and_stays_in_the_graph() -> None:
    objective = DINO(5, 0, num_prototypes=7, hidden_dim=6, bottleneck_dim=4, freeze=0.1).double()
    for progress, frozen in ((0.05, True), (0.1, False)):
        objective.zero_grad()
        objective(batch(rows(1, 2, 6, 5), rows(2, 2, 6, 5), progress=progress))["dino"].backward()
        grad = objective.head.last_layer.weight_v.grad
        assert grad is not None and bool(grad.any()) is not frozen


@every_method
def test_gradients_reach_the_student_and_nothing_that_follows(name: str) -> None:
    objective = build(name)
    objective(batch(rows(0, 2, 6, 5), rows(1, 2, 6, 5)))
    views, ema = rows(2, 2, 6, 5).requires_grad_(), rows(3, 2, 6, 5).requires_grad_()
    torch.stack(list(objective(batch(views, ema)).values())).sum().backward()
    assert views.grad is not None and views.grad[0].any()
    assert ema.grad is None
    assert all(parameter.grad is None for parameter in objective.ema_head.parameters())
    trained = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for name, parameter in objective.named_parameters() if name in trained) or (
        name == "ibot"  # The token stands in the student, which is not here.
    )


@every_method
def test_the_ema_head_follows_the_head(name: str) -> None:
    objective = build(name)
    with torch.no_grad():
        for parameter in objective.head.parameters():
            parameter.add_(1.0)
    before = [parameter.clone() for parameter in objective.ema_head.parameters()]
    objective.after_step(0.5)
    momentum = objective.needs.ema.at(0.5)  # type: ignore[union-attr]
    for old, new, head in zip(before, objective.ema_head.parameters(), objective.head.parameters(), strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * head)


@every_method
def test_fp32_and_finite_under_autocast(name: str) -> None:
    objective = build(name).float()
    for size in (1e-20, 1.0, 1e20):
        views = (rows(0, 2, 4, 5) * size).to(torch.bfloat16).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            terms = objective(batch(views, (rows(1, 2, 4, 5) * size).to(torch.bfloat16)))
        torch.stack(list(terms.values())).sum().backward()
        assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
        assert views.grad is not None and views.grad.isfinite().all()


@every_method
def test_state_dict_round_trip_continues_bit_for_bit(name: str) -> None:
    first, second = build(name), build(name)
    first(batch(rows(0, 2, 6, 5), rows(1, 2, 6, 5)))
    first.after_step(0.1)
    second.load_state_dict(first.state_dict())
    given = batch(rows(2, 2, 6, 5), rows(3, 2, 6, 5))
    assert first(given) == second(given)


def step(name: str) -> dict[str, Any]:
    """Terms and gradients of the second of two global batches, and the buffers, with any number of processes."""
    rank, world_size = distributed.rank(), distributed.world_size()
    objective = build(name)
    for module in objective.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()  # On CPU its statistics would be those of each process.
    model = DistributedDataParallel(objective, find_unused_parameters=True) if world_size > 1 else objective
    terms: dict[str, Tensor] = {}
    for seed in range(2):
        objective.zero_grad()
        # Six images each, so that the patches hidden are alike.
        views, ema = (rows(seed + shift, 2, 12, 5)[:, 6 * rank : 6 * rank + 12 // world_size] for shift in (0, 7))
        terms = model(batch(views, ema))
        torch.stack(list(terms.values())).sum().backward()
    found = {name: distributed.mean_over_processes(term) for name, term in terms.items()}
    found |= {name: x.grad for name, x in objective.named_parameters() if x.grad is not None}
    # iBOT's centre is the mean of as many patches as each process happens to hide: equal here.
    return found | dict(objective.named_buffers())


def all_steps() -> list[dict[str, Any]]:
    return [step(name) for name in BUILD]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    expected = all_steps()
    for found in processes.run(all_steps, folder=tmp_path):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
