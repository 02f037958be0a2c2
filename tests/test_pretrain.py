"""`pretrain` from a recipe to a teacher, and on to the student it teaches."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.tiny import World
from ukd import train
from ukd.backbones import open_backbone
from ukd.distill import distill
from ukd.errors import RunFolderError, UserError
from ukd.pretrain import pretrain
from ukd.recipe import ObjectiveSpec


@pytest.fixture(scope="module")
def teacher(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pretrain") / "teacher"
    return pretrain(tiny.parse_pretraining(world.pretraining(output)))


def test_it_learns_and_exports_a_teacher(teacher: Path) -> None:
    loss = tiny.metrics(teacher, "loss")
    assert list(loss) == list(range(3, 31, 3))
    assert sum(loss[step] for step in (24, 27, 30)) < sum(loss[step] for step in (3, 6, 9)) - 1
    assert tiny.checkpoints(teacher) == ["step-000000020.ckpt", "step-000000030.ckpt"]
    about = json.loads((teacher / "teacher.json").read_text())
    assert about["arch"] == "resnet10t" and about["dim"] == 32
    assert about["provenance"]["data"]["num_images"] == tiny.NUM_IMAGES
    assert "teachers" not in about["provenance"]


def test_figures_that_need_a_teacher_or_labels_are_left_out(teacher: Path) -> None:
    for line in (teacher / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line).keys() in ({"step", "loss", "nt_xent", "lr", "images_per_s"}, {"step", "rankme"})


def test_its_folder_is_a_teacher(world: World, teacher: Path, tmp_path: Path) -> None:
    raw = world.distillation(tmp_path / "run", teacher={"weights": str(teacher)}, epochs=0.3)
    run = distill(tiny.parse(raw))
    provenance = json.loads((run / "student.json").read_text())["provenance"]
    assert provenance["teachers"][0]["weights_sha256"] == open_backbone(str(teacher)).weights_hash()


def test_stopped_and_resumed_it_ends_in_the_same_bits(
    world: World, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = train.take_step

    def interrupted(*arguments: Any) -> Any:
        if arguments[-1] == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(*arguments)

    recipe = tiny.parse_pretraining(world.pretraining(tmp_path / "run"))
    monkeypatch.setattr(train, "take_step", interrupted)
    with pytest.raises(SystemExit):
        pretrain(recipe)
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match="already holds a run"):
        pretrain(recipe)
    pretrain(recipe, resume=True)
    assert (tmp_path / "run" / "teacher.safetensors").read_bytes() == (teacher / "teacher.safetensors").read_bytes()
    ours, theirs = (
        torch.load(run / "checkpoints" / "step-000000030.ckpt", weights_only=True)["learner"]
        for run in (tmp_path / "run", teacher)
    )
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_an_objective_that_learns_from_a_teacher_is_refused(world: World, tmp_path: Path) -> None:
    recipe = tiny.parse_pretraining(world.pretraining(tmp_path / "run"))
    recipe = recipe.model_copy(update={"objective": [ObjectiveSpec(name="coss")]})
    with pytest.raises(UserError, match="objective coss needs a teacher; without one, choose one of: simclr, moco"):
        pretrain(recipe)
    assert not (tmp_path / "run").exists()


def test_lars_under_a_rising_weight_decay(world: World, tmp_path: Path) -> None:
    optimizer = {"name": "lars", "lr": 4.0, "weight_decay": 1e-6, "final_weight_decay": 1e-3}
    run = pretrain(tiny.parse_pretraining(world.pretraining(tmp_path / "run", optimizer=optimizer)))
    loss = tiny.metrics(run, "loss")
    assert loss[30] < loss[3]
    state = torch.load(run / "checkpoints" / tiny.checkpoints(run)[-1], weights_only=True)
    decaying, spared = state["optimizer"]["param_groups"]
    assert decaying["weight_decay"] == pytest.approx(1e-3 - (1e-3 - 1e-6) * (1 + math.cos(math.pi * 29 / 30)) / 2)
    assert spared["weight_decay"] == 0
