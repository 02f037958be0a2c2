"""Objectives that remember or gather, in the training loop: exact resume, and two processes that train as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.commands import start
from tests.tiny import World
from ukd import train
from ukd.distill import distill

OBJECTIVE = [
    {"name": "seed", "queue_size": 40, "hidden_dim": 16},
    {"name": "smd", "cosine_steps": 15},
    {"name": "rkd", "weight": 0.1},
    {"name": "gram", "kernel": "pkt"},
]


def test_stopped_and_resumed_it_ends_in_the_same_bits(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distill(tiny.parse(world.distillation(tmp_path / "whole", objective=OBJECTIVE)))
    for term in ("seed/seed", "smd/metric", "smd/cosine", "rkd/distance", "rkd/angle", "gram/pkt"):
        assert tiny.metrics(whole, term), term

    take_step = train.take_step

    def killed(*arguments: Any) -> Any:
        if arguments[-1] == 13:
            raise KeyboardInterrupt
        return take_step(*arguments)

    recipe = tiny.parse(world.distillation(tmp_path / "killed", objective=OBJECTIVE))
    monkeypatch.setattr(train, "take_step", killed)
    with pytest.raises(KeyboardInterrupt):
        distill(recipe)
    monkeypatch.undo()
    assert tiny.checkpoints(tmp_path / "killed") == ["step-000000009.ckpt"]
    assert tiny.state_hash(distill(recipe, resume=True)) == tiny.state_hash(whole)


def test_two_processes_train_the_student_that_one_trains(world: World, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "objective": OBJECTIVE,
        "student": tiny.NORMLESS,
        "precision": "fp64",
        "optimizer": {"lr": 0.02},
        "epochs": 20 * 16 / tiny.NUM_TRAINING,
    }
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", world.distillation(tmp_path / "two", **changes))
    process = start("torchrun", "--standalone", "--nproc-per-node", 2, "-m", "ukd.cli.distill", recipe)
    complaint = process.communicate(timeout=300)[1]
    assert process.returncode == 0, complaint
    one = distill(tiny.parse(world.distillation(tmp_path / "one", **changes)))

    expected, got = tiny.student_weights(one), tiny.student_weights(tmp_path / "two")
    for name, value in expected.items():
        assert torch.linalg.norm(got[name] - value) <= 1e-10 * torch.linalg.norm(value), name
