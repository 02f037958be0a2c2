"""Two processes train what one trains: heads on unequal shares, and whole probes of cached rows and of random views."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests import processes
from ukd import distributed
from ukd.backbones import build_backbone
from ukd.data import ArrayImages
from ukd.eval.linear.heads import Heads
from ukd.eval.linear.presets import PRESETS
from ukd.eval.linear.probe import Batches, Sets, State, probe
from ukd.eval.linear.rows import CachedBatches, ViewBatches

CPU = torch.device("cpu")


def _heads() -> list[Tensor]:
    """Three steps of which this process has unequal shares, and of one nothing."""
    rng = torch.Generator().manual_seed(0)
    heads = Heads(
        5, 4, [(0.5, 0.0), (2.0, 1e-3)], momentum=0.9, init_std=0.01, generator=rng, device=CPU, dtype=torch.float64
    )
    for cut in (7, 3, 0):
        rows = torch.randn(10, 5, generator=rng, dtype=torch.float64)
        targets = torch.randint(4, (10,), generator=rng)
        shares = [slice(0, cut), slice(cut, None)]
        mine = slice(None) if distributed.world_size() == 1 else shares[distributed.rank()]
        heads.step(rows[mine], targets[mine], 1.0)
    return heads.state()


def _probe(cached: bool) -> tuple[list[Tensor], list[Any]]:
    """State and curve at the end of a probe in fp64."""
    rng = np.random.default_rng(0)
    targets = torch.arange(40) % 4
    pixels = rng.integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    kwargs = {"img_size": 16, "patch_size": 4, "depth": 4}
    backbone = build_backbone(arch="test_vit", kwargs=kwargs, size_px=16, frozen=True, seed=0)
    preset = replace(PRESETS["dinov2"], batch_size=12, steps=8, epochs=2, lrs=(0.01, 1.0))
    rows = torch.from_numpy(rng.normal(size=(40, 320)))
    views = ViewBatches(backbone, "last4+avg", ArrayImages("noise", pixels), 16, preset, 0, 1, 0, None)

    def wide(first_step: int, last_step: int) -> Iterable[tuple[Tensor, Tensor]]:
        return ((some.double(), index) for some, index in views(first_step, last_step))

    heldout = torch.arange(40) < 8
    columns = {"cls": slice(192, 256), "last4+avg": slice(0, 320)}
    sets = Sets(targets, heldout, rows[heldout], rows, targets, columns, num_classes=4, class_token=True)
    batches: Batches = CachedBatches(rows, 12, 0, CPU) if cached else wide
    states: list[State] = []
    result = probe(batches, sets, preset, save=lambda step, state: states.append(state))
    tensors = [*states[-1]["grid"], *states[-1]["twins"]]
    return tensors, [point.test.top1 + point.heldout.top5 for point in result.curve]


def _everything() -> tuple[list[Tensor], list[Any]]:
    parts = [_probe(cached) for cached in (True, False)]
    tensors = [tensor for part, _ in parts for tensor in part]
    return [*_heads(), *tensors], [curve for _, curve in parts]


def test_two_processes_are_one(tmp_path: Path) -> None:
    alone, curves = _everything()
    assert len(alone) == 4 + 2 * 16
    for tensors, theirs in processes.run(_everything, folder=tmp_path):
        assert theirs == curves
        for ours, other in zip(alone, tensors, strict=True):
            np.testing.assert_allclose(other, ours, rtol=0, atol=1e-8)
