"""`distill` from a recipe to a finished run folder, in this process and on a world of a few images."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from tests import tiny
from tests.tiny import World
from ukd import distributed, train
from ukd.backbones import open_backbone
from ukd.checkpoint import Checkpoints
from ukd.distill import build_run, distill
from ukd.errors import RunFolderError, TrainingError, UserError
from ukd.objectives import Batch
from ukd.objectives.coss import CoSS
from ukd.samplers import BatchOrder


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 72 steps, with labelled data for the monitor."""
    output = tmp_path_factory.mktemp("distill") / "run"
    data = {"train": str(world.images), "labelled_train": str(world.arrays), "labelled_test": str(world.arrays)}
    raw = world.distillation(output, data={**data, "num_workers": 0}, epochs=8.0)
    return distill(tiny.parse(raw))


def untrained_overlap(raw: dict[str, Any]) -> float:
    """The monitor's figure before the first step."""
    parts = build_run(tiny.parse(raw), torch.device("cpu"))
    return parts.monitor.measure(parts.learner.student)["knn_overlap"]


def test_the_run_folder_is_complete(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("recipe.yaml", "metrics.jsonl", "tensorboard", "checkpoints"),
        *("student.safetensors", "student.json", "projector.safetensors", "projector.json", "neighbours.png"),
    }
    assert tiny.checkpoints(run) == ["step-000000063.ckpt", "step-000000072.ckpt"]
    with Image.open(run / "neighbours.png") as picture:
        assert picture.width > 300 and picture.height > 300


def test_the_stored_recipe_is_the_resolved_one(run: Path) -> None:
    raw = (run / "recipe.yaml").read_text()
    assert "momentum: 0.9" in raw and "lam: 1.0" in raw and "hidden_dim: 64" in raw


def test_metrics_tell_the_course_of_the_run(run: Path) -> None:
    every_third = list(range(3, 73, 3))
    for name in ("loss", "feature", "space", "teacher_cosine", "lr", "images_per_s"):
        assert list(tiny.metrics(run, name)) == every_third, name
    loss, cosine = tiny.metrics(run, "loss"), tiny.metrics(run, "teacher_cosine")
    for step in every_third:
        terms = tiny.metrics(run, "feature")[step] + tiny.metrics(run, "space")[step]
        assert loss[step] == pytest.approx(terms, rel=1e-6)
        assert cosine[step] == pytest.approx(-tiny.metrics(run, "feature")[step], rel=1e-6)
    assert loss[72] < loss[3] - 0.3 and 0.9 < cosine[72] < 1
    assert tiny.metrics(run, "lr")[3] > tiny.metrics(run, "lr")[72] > 0
    assert list(tiny.metrics(run, "knn_overlap")) == list(tiny.metrics(run, "knn_top1")) == list(range(9, 73, 9))
    assert 0.25 < tiny.metrics(run, "knn_top1")[72] <= 1


def test_tensorboard_shows_the_same_figures(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    for name in ("loss", "knn_overlap", "lr"):
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert shown == pytest.approx(tiny.metrics(run, name), rel=1e-6)


def test_the_student_comes_to_see_as_the_teacher_does(world: World, run: Path, tmp_path: Path) -> None:
    before = untrained_overlap(world.distillation(tmp_path / "untrained"))
    assert tiny.metrics(run, "knn_overlap")[72] > before + 0.05


def test_plain_timm_loads_the_student(run: Path) -> None:
    about = json.loads((run / "student.json").read_text())
    student = timm.create_model(about["arch"], num_classes=0, **about["kwargs"])
    student.load_state_dict(load_file(run / "student.safetensors"), strict=True)
    views = torch.rand(2, 3, tiny.SIZE_PX, tiny.SIZE_PX)
    mean, std = (torch.tensor(about[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = open_backbone(str(run)).eval()(views).pooled
        torch.testing.assert_close(student.eval()((views - mean) / std), expected)
    assert expected.shape == (2, about["dim"])
    assert about["num_parameters"] == sum(each.numel() for each in student.parameters())


def test_the_export_says_where_it_comes_from(world: World, run: Path) -> None:
    provenance = json.loads((run / "student.json").read_text())["provenance"]
    teacher = open_backbone(str(world.teacher))
    assert provenance["step"] == 72 and provenance["seed"] == 0
    of_teacher = {"arch": "resnet10t", "weights_sha256": teacher.weights_hash(), "precision": "float32"}
    assert provenance["teachers"] == [of_teacher]
    assert provenance["data"]["num_images"] == tiny.NUM_TRAINING and len(provenance["data"]["fingerprint"]) == 64
    assert provenance["objective"][0]["name"] == "coss"
    assert {"ukd", "torch", "timm", "python"} == provenance["versions"].keys()


SIMREG = {"name": "cosine", "head": "mlp2", "hidden_dim": 64}


@pytest.mark.parametrize(
    ("objective", "terms"),
    [
        ("cosine", {"cosine"}),
        (SIMREG, {"cosine"}),
        ([{"name": "coss", "scale": 1.0, "weight": 0.5}, SIMREG], {"coss/feature", "coss/space", "cosine/cosine"}),
    ],
)
def test_every_objective_learns(world: World, tmp_path: Path, objective: Any, terms: set[str]) -> None:
    output = distill(tiny.parse(world.distillation(tmp_path / "run", objective=objective)))
    loss = tiny.metrics(output, "loss")
    assert loss[27] < loss[3]
    assert all(tiny.metrics(output, term) for term in terms)
    assert tiny.metrics(output, "teacher_cosine")[27] > 0.8


def test_neighbours_share_batches_and_come_back_from_the_checkpoint(world: World, tmp_path: Path) -> None:
    raw = world.distillation(tmp_path / "run", neighbours={"k": 3, "nearest": 7})
    output = distill(tiny.parse(raw))
    assert tiny.metrics(output, "loss")[27] < tiny.metrics(output, "loss")[3]
    state = Checkpoints(output, keep=2).load_latest()
    assert state is not None
    lists = state["fixed"]["neighbours"].numpy()
    assert lists.shape == (tiny.NUM_TRAINING, 7)
    batch = BatchOrder(tiny.NUM_TRAINING, 16, seed=0, neighbours=lists, k=3).batch(5)
    assert all(sample.image in {sample.anchor, *lists[sample.anchor]} for sample in batch)
    anew = build_run(tiny.parse(raw), torch.device("cpu"))
    assert torch.equal(anew.fixed["neighbours"], state["fixed"]["neighbours"])


def test_too_few_images_for_a_holdout_train_all_the_same(world: World, tmp_path: Path) -> None:
    raw = world.distillation(tmp_path / "run", monitor={"holdout_images": 2}, epochs=0.2)
    output = distill(tiny.parse(raw))
    assert not tiny.metrics(output, "knn_overlap") and tiny.metrics(output, "loss")
    assert (output / "student.safetensors").exists() and not (output / "neighbours.png").exists()


def broken_from(call: int, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[..., Any]:
    """CoSS's forward, its terms changed from that call on."""
    forward, calls = CoSS.forward, [0]

    def broken(self: CoSS, batch: Batch) -> dict[str, Tensor]:
        calls[0] += 1
        terms = forward(self, batch)
        return change(terms) if calls[0] >= call else terms

    return broken


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        CoSS, "forward", broken_from(14, lambda terms: {**terms, "space": terms["space"] * float("nan")})
    )
    recipe = tiny.parse(world.distillation(tmp_path / "run"))
    with pytest.raises(
        TrainingError, match=r"term space is not finite at step 13; .* kept in .*checkpoints; a smaller"
    ):
        distill(recipe)
    assert tiny.checkpoints(tmp_path / "run") == ["step-000000009.ckpt"]
    monkeypatch.undo()
    distill(recipe, resume=True)
    uninterrupted = distill(tiny.parse(world.distillation(tmp_path / "whole")))
    assert tiny.state_hash(tmp_path / "run") == tiny.state_hash(uninterrupted)


class _InfiniteGradient(torch.autograd.Function):
    """Identity whose gradient is no number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * float("inf")


def test_weights_that_are_not_finite_are_not_saved(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil = broken_from(18, lambda terms: {**terms, "space": _InfiniteGradient.apply(terms["space"])})
    monkeypatch.setattr(CoSS, "forward", spoil)
    with pytest.raises(TrainingError, match=r"model\.conv1.* is not finite after step 18; not saved"):
        distill(tiny.parse(world.distillation(tmp_path / "run")))
    assert tiny.checkpoints(tmp_path / "run") == ["step-000000009.ckpt"]
    assert all(value.isfinite().all() for value in tiny.student_weights(tmp_path / "run").values())


def test_a_learning_rate_out_of_this_world_ends_in_its_message(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finite"):
        distill(tiny.parse(world.distillation(tmp_path / "run", optimizer={"lr": 1e30})))


def test_a_full_disk_leaves_the_checkpoint_before(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, fsync = tmp_path / "run", os.fsync

    def full(descriptor: int) -> None:
        if list(output.glob("checkpoints/step-*9.ckpt")) and list(output.glob("checkpoints/.step-*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    recipe = tiny.parse(world.distillation(output))
    with pytest.raises(RunFolderError, match=r"cannot write .*018\.ckpt: No space left .* the checkpoint before it"):
        distill(recipe)
    assert tiny.checkpoints(output) == ["step-000000009.ckpt"]
    monkeypatch.undo()
    distill(recipe, resume=True)
    assert tiny.checkpoints(output) == ["step-000000018.ckpt", "step-000000027.ckpt"]


def test_batch_norm_over_processes_keeps_the_activations_that_timm_puts_into_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = world.distillation(tmp_path / "run", student={"arch": "test_byobnet"})
    run = build_run(tiny.parse(raw), torch.device("cpu"))
    views = torch.rand(2, 3, tiny.SIZE_PX, tiny.SIZE_PX)
    with torch.no_grad():
        expected = run.learner.student.eval()(views).pooled
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        monkeypatch.setattr(train, "DistributedDataParallel", lambda learner, **_: learner)
        train.distribute(dataclasses.replace(run, device=torch.device("cuda")))
        converted = run.learner.student
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
        torch.testing.assert_close(converted(views).pooled, expected)
