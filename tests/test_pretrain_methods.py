"""Every method of self-supervised pretraining in the one loop: it learns, and resumes to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.tiny import World
from ukd import train
from ukd.errors import UserError
from ukd.pretrain import pretrain

METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "moco": ({"name": "moco", "queue_size": 64, "hidden_dim": 32, "out_dim": 16}, {}),
    "byol": ({"name": "byol", "hidden_dim": 32, "out_dim": 16, "ema_momentum": 0.9}, {}),
    "dino": (
        {"name": "dino", "num_prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16, "ema_momentum": 0.9},
        {"num_small": 2, "small_px": 16},
    ),
    "ibot": (
        {"name": "dino", "num_prototypes": 64, "hidden_dim": 32, "bottleneck_dim": 16, "patch_weight": 1.0},
        {},
    ),
}


def recipe(world: World, output: Path, method: str) -> Any:
    objective, views = METHODS[method]
    raw = world.pretraining(output, objective=objective, epochs=1.0)
    raw["views"] = {**raw["views"], **views}
    if method == "ibot":
        raw["backbone"] = tiny.NORMLESS
    return tiny.parse_pretraining(raw)


@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_resumed_it_ends_in_the_same_bits(
    method: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(recipe(world, tmp_path / "whole", method))
    take_step = train.take_step

    def killed(*arguments: Any) -> Any:
        if arguments[-1] == 5:
            raise KeyboardInterrupt
        return take_step(*arguments)

    stopped = recipe(world, tmp_path / "stopped", method)
    stopped = stopped.model_copy(update={"checkpoint": stopped.checkpoint.model_copy(update={"every_epochs": 0.25})})
    monkeypatch.setattr(train, "take_step", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(stopped)
    monkeypatch.undo()
    pretrain(stopped, resume=True)
    ours, theirs = ((run / "teacher.safetensors").read_bytes() for run in (tmp_path / "stopped", whole))
    assert ours == theirs


def test_ibot_of_a_cnn_is_refused(world: World, tmp_path: Path) -> None:
    raw = world.pretraining(tmp_path / "run", objective=METHODS["ibot"][0])
    with pytest.raises(UserError, match="patches can be hidden from a ViT only"):
        pretrain(tiny.parse_pretraining(raw))
