"""Two processes of `torchrun` train the student that one trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.commands import start
from tests.tiny import World
from ukd.distill import distill


def torchrun(*arguments: object) -> tuple[int, str]:
    """Exit status and complaints of the command in two processes on this machine."""
    process = start("torchrun", "--standalone", "--nproc-per-node", 2, "-m", "ukd.cli.distill", *arguments)
    try:
        complaint = process.communicate(timeout=900)[1]
    finally:
        process.terminate()
    return process.returncode, complaint


def test_two_processes_train_the_student_that_one_trains(world: World, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "student": tiny.NORMLESS,
        "precision": "fp64",
        "neighbours": {"k": 3, "nearest": 7},
        "epochs": 20 * 16 / tiny.NUM_TRAINING,
        "data": {"train": str(world.arrays), "num_workers": 0},
    }
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", world.distillation(tmp_path / "two", **changes))
    status, complaint = torchrun(recipe)
    assert status == 0, complaint
    one = distill(tiny.parse(world.distillation(tmp_path / "one", **changes)))

    expected, got = tiny.student_weights(one), tiny.student_weights(tmp_path / "two")
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert value.dtype == torch.float64
        assert torch.linalg.norm(got[name] - value) <= 1e-10 * torch.linalg.norm(value), name
    for figure in ("loss", "feature", "space", "teacher_cosine", "lr", "knn_overlap"):
        course = tiny.metrics(one, figure)
        assert course and tiny.metrics(tmp_path / "two", figure) == pytest.approx(course, rel=1e-8), figure
    assert max(tiny.metrics(one, "loss")) == 20


@pytest.mark.slow
def test_two_processes_that_share_a_teacher_train_the_student_that_one_trains(world: World, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "student": tiny.NORMLESS,
        "objective": {"name": "cosine", "head": "linear"},
        "precision": "fp64",
        "neighbours": {"k": 3, "nearest": 7},
        "epochs": 1.0,
    }
    shared, whole = ({"weights": str(world.vit), "chunk": 3, "shard": each} for each in (True, False))
    recipe = world.distillation(tmp_path / "two", teacher=shared, **changes)
    status, complaint = torchrun(tiny.write_recipe(tmp_path / "recipe.yaml", recipe))
    assert status == 0, complaint
    one = distill(tiny.parse(world.distillation(tmp_path / "one", teacher=whole, **changes)))
    expected, got = tiny.student_weights(one), tiny.student_weights(tmp_path / "two")
    for name, value in expected.items():
        assert torch.linalg.norm(got[name] - value) <= 1e-10 * torch.linalg.norm(value), name
    assert tiny.metrics(tmp_path / "two", "knn_overlap") == tiny.metrics(one, "knn_overlap")


@pytest.mark.slow
def test_a_batch_that_the_processes_cannot_share_is_refused_by_all(world: World, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", world.distillation(tmp_path / "run", batch_size=15))
    status, complaint = torchrun(recipe)
    assert status != 0
    assert "batch_size: 15 images cannot be shared equally by 2 processes; choose a multiple of 2" in complaint
    assert "exitcode  : 2" in complaint
    assert not (tmp_path / "run").exists()
