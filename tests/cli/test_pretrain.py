"""`ukd-pretrain`: that it runs, and what it says of mistakes."""

from __future__ import annotations

from pathlib import Path

from tests import tiny
from tests.commands import invoke
from tests.tiny import World
from ukd.cli.pretrain import app


def test_it_pretrains(world: World, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", world.pretraining(tmp_path / "run"))
    done = invoke(app, recipe, "epochs=0.2")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "teacher.safetensors").exists()


def test_a_distillation_is_no_pretraining(world: World, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", world.distillation(tmp_path / "run"))
    done = invoke(app, recipe)
    assert done.exit_code == 2
    for key in ("backbone: ", "teacher: ", "student: ", "objective.name: "):
        assert f"\n  {key}" in done.stderr
    assert not (tmp_path / "run").exists()
