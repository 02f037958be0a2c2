"""Objectives that remember or gather, in the training loop: exact resume, and two processes that train as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch

from tests import tiny
from tests.commands import start
from tests.tiny import World
from ukd import train
from ukd.distill import distill


class Case(NamedTuple):
    changes: dict[str, Any]
    """To the recipe."""
    terms: tuple[str, ...]
    teacher: Literal["teacher", "vit"] = "teacher"
    """Which teacher of the world."""

    more_teachers: tuple[Literal["teacher", "vit"], ...] = ()

    def of(self, world: World) -> dict[str, Any]:
        """The changes, with these teachers."""
        first, *others = ({"weights": str(getattr(world, name))} for name in (self.teacher, *self.more_teachers))
        return {"teacher": first, "more_teachers": others, **self.changes}


CASES = {
    "of one view": Case(
        {
            "objective": [
                {"name": "seed", "queue_size": 40, "hidden_dim": 16},
                {"name": "smd", "cosine_steps": 15},
                {"name": "rkd", "weight": 0.1},
                {"name": "gram", "kernel": "pkt"},
            ]
        },
        ("seed/seed", "smd/metric", "smd/cosine", "rkd/distance", "rkd/angle", "gram/pkt"),
    ),
    "of many views": Case(
        {
            "objective": [
                {"name": "bingo", "queue_size": 40, "hidden_dim": 16, "delay": 0.5},
                {"name": "compress", "queue_size": 40, "ema_momentum": 0.9},
                {"name": "disco", "queue_size": 40, "hidden_dim": 16, "ema_momentum": 0.9, "mse_weight": 1.0},
                {"name": "seed", "queue_size": 40, "hidden_dim": 16, "small_crops": True},
            ],
            "neighbours": {"k": 1, "nearest": 5},
            "views": {"size_px": tiny.SIZE_PX, "crop_scale": [0.5, 1.0], "num_small": 2, "small_px": tiny.SIZE_PX},
        },
        (
            *("bingo/anchor", "bingo/neighbour", "bingo/cutmix", "compress/compress", "disco/mse", "disco/contrast"),
            *("seed/seed", "seed/small_seed"),
        ),
    ),
    "of turned views and of a ViT's inside": Case(
        {
            "student": tiny.NORMLESS,
            "objective": [
                {"name": "sskd", "teacher_head": "mlp2", "head_share": 0.4},
                "attention",
                # With every patch hidden there is nothing that processes could draw differently.
                {
                    "name": "tokens",
                    "terms": {"token": 1.0, "feature": 1.0, "patch": 1.0, "map": 1.0, "affinity": 1.0},
                    "mask_prob": 1.0,
                    "mask_share": 1.0,
                },
            ],
            "optimizer": {"lr": 0.02},
        },
        (
            *("sskd/similarity", "sskd/teacher_head", "attention/class_token", "attention/attention"),
            *("tokens/token", "tokens/feature", "tokens/patch", "tokens/map", "tokens/affinity"),
        ),
        teacher="vit",
    ),
    "of all images and of several teachers": Case(
        {
            "objective": [
                {"name": "hash", "bits": 12, "num_clusters": 4},
                {"name": "multi", "combine": "mean", "head": "ladder", "hidden_dim": 16},
                {"name": "regression", "metric": "radio", "target": "whitened", "head": "ln_linear"},
                {"name": "transpose", "of": "regression", "options": {"metric": "softmax"}, "hidden_dim": 16},
            ],
        },
        (
            *("hash/hash", "multi/teacher_1", "multi/teacher_2", "regression/cosine", "regression/smooth_l1"),
            "transpose/column_softmax",
        ),
        more_teachers=("vit",),
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
def test_stopped_and_resumed_it_ends_in_the_same_bits(
    case: Case, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distill(tiny.parse(world.distillation(tmp_path / "whole", **case.of(world))))
    for term in case.terms:
        assert tiny.metrics(whole, term), term

    take_step = train.take_step

    def killed(*arguments: Any) -> Any:
        if arguments[-1] == 13:
            raise KeyboardInterrupt
        return take_step(*arguments)

    recipe = tiny.parse(world.distillation(tmp_path / "killed", **case.of(world)))
    monkeypatch.setattr(train, "take_step", killed)
    with pytest.raises(KeyboardInterrupt):
        distill(recipe)
    monkeypatch.undo()
    assert tiny.checkpoints(tmp_path / "killed") == ["step-000000009.ckpt"]
    assert tiny.state_hash(distill(recipe, resume=True)) == tiny.state_hash(whole)


@every_case
def test_two_processes_train_the_student_that_one_trains(case: Case, world: World, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        **case.of(world),
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
