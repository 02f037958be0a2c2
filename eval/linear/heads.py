"""Linear classifiers by the dozen: all that look at the same features are trained by one matrix product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ukd.distributed import mean_over_processes

TILE_ENTRIES = 2**24
"""Class scores held at once while heads are measured."""


class Counts(NamedTuple):
    """Of how many rows each of H heads has the class first, and among its first five: [H] each."""

    top1: list[int]
    top5: list[int]


class Heads:
    """H linear classifiers of the same features, trained by SGD on the cross-entropy, none knowing of the others.

    Each is what `torch.nn.Linear` under `torch.optim.SGD` would be, the weight decay on the bias too.

    Args:
        dim: Columns of the features.
        num_classes: Classes.
        rates: Learning rate and weight decay of each head.
        momentum: Momentum.
        init_std: Standard deviation of the first weights, the bias being zero; None for torch's own first values.
        generator: Draws the first values, the same on every process.
        device: Where to compute.
        dtype: Precision of the features and of everything here.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        rates: Sequence[tuple[float, float]],
        *,
        momentum: float,
        init_std: float | None,
        generator: torch.Generator,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        weight = torch.empty(len(rates), num_classes, dim, dtype=dtype)
        bias = torch.zeros(len(rates), num_classes, dtype=dtype)
        if init_std is None:
            weight.uniform_(-(dim**-0.5), dim**-0.5, generator=generator)
            bias.uniform_(-(dim**-0.5), dim**-0.5, generator=generator)
        else:
            weight.normal_(0, init_std, generator=generator)
        self.weight, self.bias = weight.to(device), bias.to(device)
        self._velocities = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self._lr, self._weight_decay = torch.tensor(rates, dtype=dtype, device=device).unbind(1)
        self._momentum = momentum

    def logits(self, rows: Tensor) -> Tensor:
        """Scores [n, H, C] of rows [n, D]."""
        flat = torch.addmm(self.bias.flatten(), rows, self.weight.flatten(0, 1).T)
        return flat.view(-1, *self.bias.shape)

    def step(self, rows: Tensor, targets: Tensor, factor: float) -> None:
        """Take one step on the rows of all processes.

        Args:
            rows: [n, D] features of this process; there may be none.
            targets: [n] class numbers.
            factor: Share of the learning rates that is taken.
        """
        residual = self.logits(rows).softmax(2)
        residual[torch.arange(len(rows), device=rows.device), :, targets] -= 1
        residual = residual.flatten(1)
        gradients = (residual.T @ rows).view_as(self.weight), residual.sum(0).view_as(self.bias)
        # Sums are averaged, and numbers of rows too: processes may hold unequal shares of a batch.
        num_rows = mean_over_processes(rows.new_tensor(float(len(rows)))).clamp_min(torch.finfo(rows.dtype).tiny)
        for value, velocity, gradient in zip((self.weight, self.bias), self._velocities, gradients, strict=True):
            lr, weight_decay = (each.view(-1, *[1] * (value.ndim - 1)) for each in (self._lr, self._weight_decay))
            velocity.mul_(self._momentum).add_(mean_over_processes(gradient).div_(num_rows))
            velocity.addcmul_(value, weight_decay)
            value.addcmul_(velocity, lr, value=-factor)

    def finite(self) -> list[bool]:
        """Say of each head whether all its weights are numbers."""
        found: list[bool] = (self.weight.isfinite().all(2) & self.bias.isfinite()).all(1).tolist()
        return found

    def count(self, rows: Tensor, targets: Tensor) -> Counts:
        """Count the rows [n, D] that each head classifies as their targets [n] say; ties go to the lowest class.

        A head that is not finite classifies none.
        """
        num_heads, num_classes = self.bias.shape
        hits = torch.zeros(2, num_heads, dtype=torch.int64, device=rows.device)
        places = torch.arange(num_classes, device=rows.device)
        tile = max(1, TILE_ENTRIES // (num_heads * num_classes))
        for some, wanted in zip(torch.split(rows, tile), torch.split(targets.view(-1, 1, 1), tile), strict=True):
            logits = self.logits(some)
            own = logits.gather(2, wanted.expand(-1, num_heads, 1))
            rank = ((logits > own) | ((logits == own) & (places < wanted))).sum(2)
            hits += torch.stack([(rank < 1).sum(0), (rank < 5).sum(0)])
        hits *= torch.tensor(self.finite(), device=rows.device)
        return Counts(*hits.tolist())

    def state(self) -> list[Tensor]:
        """All that changes from step to step."""
        return [self.weight, self.bias, *self._velocities]


class Head(NamedTuple):
    """What tells a head from the others of its grid; the learning rate is that of the first step."""

    features: str
    lr: float
    weight_decay: float


class Grid:
    """Heads on several kinds of features, each kind some columns of the same rows: the kinds share one forward pass.

    Args:
        columns: Where each kind of features stands in a row.
        num_classes: Classes.
        rates: Learning rate and weight decay of each head, for every kind of features.
        momentum: As for `Heads`, and the same below.
        init_std: First values.
        seed: Seed of the first values.
        device: Where to compute.
        dtype: Precision.
    """

    def __init__(
        self,
        columns: Mapping[str, slice],
        num_classes: int,
        rates: Sequence[tuple[float, float]],
        *,
        momentum: float,
        init_std: float | None,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.heads = [Head(kind, *rate) for kind in columns for rate in rates]
        self._parts = [
            (
                part,
                Heads(
                    part.stop - part.start,
                    num_classes,
                    rates,
                    momentum=momentum,
                    init_std=init_std,
                    generator=generator,
                    device=device,
                    dtype=dtype,
                ),
            )
            for part in columns.values()
        ]

    def step(self, rows: Tensor, targets: Tensor, factor: float) -> None:
        """Take one step with every head; as `Heads.step`."""
        for part, heads in self._parts:
            heads.step(rows[:, part], targets, factor)

    def count(self, rows: Tensor, targets: Tensor) -> Counts:
        """Count what every head classifies rightly; as `Heads.count`."""
        counts = [heads.count(rows[:, part], targets) for part, heads in self._parts]
        return Counts([n for each in counts for n in each.top1], [n for each in counts for n in each.top5])

    def finite(self) -> list[bool]:
        """Say of each head whether all its weights are numbers."""
        return [finite for _, heads in self._parts for finite in heads.finite()]

    def state(self) -> list[Tensor]:
        """All that changes from step to step."""
        return [value for _, heads in self._parts for value in heads.state()]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Continue from what `state` gave."""
        for value, stored in zip(self.state(), state, strict=True):
            value.copy_(stored)
