"""What README.md shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tiny import World, parse
from ukd.cli.schema import options_for
from ukd.distill import distill
from ukd.recipe import DistillRecipe
from ukd.recipe_file import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found, language
    return found[1]


def test_its_recipe_is_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(_block("yaml"))
    recipe = load(path, [], DistillRecipe, options_for(DistillRecipe))
    assert recipe.teacher.pretrained and recipe.neighbours is not None


def test_its_python_loads_a_student(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    distill(parse(world.distillation(tmp_path / "runs" / "photos", epochs=0.2)))
    monkeypatch.chdir(tmp_path)
    exec(_block("python"), {})


def test_what_it_points_at_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link.partition("#")[0]).exists()]
