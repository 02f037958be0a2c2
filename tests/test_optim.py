"""The optimizer's groups and steps by hand, the schedule against torch's own."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from ukd.optim import build_optimizer, learning_rate, set_learning_rate, set_weight_decay, weight_decay


def test_the_schedule_is_linear_then_half_a_cosine() -> None:
    rates = [learning_rate(step, lr=1.0, num_steps=12, warmup_steps=4) for step in range(12)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert rates[4] == 1.0 and rates[8] == pytest.approx(0.5) and rates[-1] > 0


def test_the_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    for step in range(8):
        assert learning_rate(step, lr=0.3, num_steps=7, warmup_steps=0) == pytest.approx(schedule.get_last_lr()[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule.step()


def test_a_run_shorter_than_its_warm_up_only_warms_up() -> None:
    rates = [learning_rate(step, lr=1.0, num_steps=3, warmup_steps=5) for step in range(3)]
    assert rates == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_sgd_decays_every_parameter() -> None:
    weight, bias = nn.Parameter(torch.tensor([[2.0]])), nn.Parameter(torch.tensor([1.0]))
    optimizer = build_optimizer([weight, bias], name="sgd", lr=9.0, weight_decay=0.5, momentum=0.9)
    set_learning_rate(optimizer, 0.1)
    for _ in range(2):
        weight.grad, bias.grad = torch.tensor([[1.0]]), torch.tensor([0.0])
        optimizer.step()
    # By hand: g = 1 + 0.5 * 2 = 2, w = 1.8; g = 1.9, v = 0.9 * 2 + 1.9 = 3.7, w = 1.43.
    assert weight.item() == pytest.approx(1.43)
    # g = 0.5, b = 0.95; g = 0.475, v = 0.45 + 0.475 = 0.925, b = 0.8575.
    assert bias.item() == pytest.approx(0.8575)


def test_adamw_spares_biases_and_norms() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = build_optimizer(model.parameters(), name="adamw", lr=0.1, weight_decay=0.5, momentum=0.8)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.999)}
    set_learning_rate(optimizer, 0.2)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = list(model.parameters())
    torch.testing.assert_close(after[0], nn.Parameter(before[0] * (1 - 0.2 * 0.5)))
    assert all(torch.equal(now, then) for now, then in zip(after[1:], before[1:], strict=True))


def test_lars_scales_by_layer_but_neither_biases_nor_norms() -> None:
    weight, bias = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([1.0]))
    optimizer = build_optimizer([weight, bias], name="lars", lr=9.0, weight_decay=0.1, momentum=0.9)
    set_learning_rate(optimizer, 2.0)
    weight.grad, bias.grad = torch.tensor([[0.0, 2.0]]), torch.tensor([0.5])
    optimizer.step()
    # You et al., equation 6: 0.001 |w| / (|g| + 0.1 |w|) = 0.001 * 5 / (2 + 0.5) = 0.002, times g + 0.1 w = (0.3, 2.4).
    torch.testing.assert_close(weight.data, torch.tensor([[3.0 - 2 * 0.002 * 0.3, 4.0 - 2 * 0.002 * 2.4]]))
    assert bias.item() == 0.0


def test_the_weight_decay_follows_half_a_cosine() -> None:
    decays = [weight_decay(step, start=0.04, end=0.4, num_steps=4) for step in range(5)]
    assert decays == pytest.approx([0.04, 0.4 - 0.36 * (0.5 + 0.5**1.5), 0.22, 0.4 - 0.36 * (0.5 - 0.5**1.5), 0.4])


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_only_what_decays_is_given_another_decay(name: str) -> None:
    model = nn.Linear(3, 3)
    optimizer = build_optimizer(model.parameters(), name=name, lr=0.1, weight_decay=0.0, momentum=0.9)
    set_weight_decay(optimizer, 0.3)
    decays = {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}
    assert decays == {id(model.weight): 0.3, id(model.bias): 0.3 if name == "sgd" else 0.0}


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_frozen_parameters_are_left_out(name: str) -> None:
    model = nn.Linear(3, 3)
    model.weight.requires_grad_(False)
    optimizer = build_optimizer(model.parameters(), name=name, lr=0.1, weight_decay=0.1, momentum=0.9)
    assert [parameter for group in optimizer.param_groups for parameter in group["params"]] == [model.bias]
