"""Optimizer and schedules; these are functions of the step, so there is nothing of them to resume."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


def build_optimizer(
    parameters: Iterable[nn.Parameter], *, name: str, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """Builds an optimizer; its first group is what decays.

    Args:
        parameters: What is trained; those that need no gradient are left out.
        name: `sgd`, which decays every parameter as the papers' code does, or `adamw` or `lars`, which spare biases and
            norms. LARS (You et al. 2017, arXiv:1708.03888) is lightly's, which does not scale these by layer either, as
            the code of SimCLR and BYOL.
        lr: Learning rate.
        weight_decay: Weight decay.
        momentum: Momentum of SGD and LARS, or the first beta of AdamW.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "lars":
        # lightly takes seconds to import, and few runs need it.
        from lightly.utils.lars import LARS

        lars: torch.optim.Optimizer = LARS(groups, lr=lr, momentum=momentum)
        return lars
    return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=True)


def learning_rate(step: int, *, lr: float, num_steps: int, warmup_steps: int) -> float:
    """Learning rate of a step that counts from 0: linear from zero over the warm-up, then a half cosine to zero."""
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return lr * 0.5 * (1 + math.cos(math.pi * progress))


def weight_decay(step: int, *, start: float, end: float, num_steps: int) -> float:
    """Weight decay of a step that counts from 0: half a cosine from start to end."""
    return end - (end - start) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def set_weight_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Sets the weight decay of what decays."""
    optimizer.param_groups[0]["weight_decay"] = weight_decay
