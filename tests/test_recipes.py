"""Every recipe of the repository can be read, and its models and objectives can be built; no weights or data needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ukd.backbones import Backbone, build_backbone
from ukd.cli.schema import options_for
from ukd.objectives import build
from ukd.recipe import BackboneSpec, DistillRecipe, PretrainRecipe, RunRecipe
from ukd.recipe_file import load

RECIPES = Path(__file__).parent.parent / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))
MODELS: dict[str, type[RunRecipe]] = {"distill.schema.json": DistillRecipe, "pretrain.schema.json": PretrainRecipe}
SCHEMA_LINE = re.compile(r"# yaml-language-server: \$schema=(\S+)")


def read(file: Path) -> RunRecipe:
    """The recipe, as the command reads it whose schema its first line names."""
    named = SCHEMA_LINE.fullmatch(file.read_text().splitlines()[0])
    assert named, "the first line names the recipe's schema, for editors"
    schema = (file.parent / named[1]).resolve()
    assert schema.parent == RECIPES
    model = MODELS[schema.name]
    return load(file, [], model, options_for(model))


def backbone(spec: BackboneSpec, recipe: RunRecipe) -> Backbone:
    """The model of the recipe with random weights; a ResNet stands in for what its weights alone know."""
    untrained = spec.model_copy(update={"weights": None, "pretrained": False, "arch": spec.arch or "resnet18"})
    return build_backbone(**untrained.arguments, size_px=recipe.views.size_px, crop_pct=recipe.views.crop_pct)


def test_there_are_recipes_of_both_kinds() -> None:
    kinds = {type(read(file)) for file in FILES}
    assert PretrainRecipe in kinds and kinds <= {PretrainRecipe, DistillRecipe}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RECIPES)))
def test_the_recipe_builds(file: Path) -> None:
    recipe = read(file)
    if isinstance(recipe, DistillRecipe):
        student = backbone(recipe.student, recipe)
        teachers = [backbone(spec, recipe).shape for spec in (recipe.teacher, *recipe.more_teachers)]
    else:
        assert isinstance(recipe, PretrainRecipe)
        student, teachers = backbone(recipe.backbone, recipe), []
    objective = build(recipe.objective, student.shape, teachers)
    assert objective.needs.teacher == isinstance(recipe, DistillRecipe)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(RECIPES)))
def test_the_recipe_says_what_it_is_and_how_to_run_it(file: Path) -> None:
    header = "".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    command = "ukd-distill" if isinstance(read(file), DistillRecipe) else "ukd-pretrain"
    assert f"{command} recipes/{file.relative_to(RECIPES)}" in header


def test_two_recipes_never_share_a_run_folder() -> None:
    outputs = [read(file).output for file in FILES]
    assert len(outputs) == len(set(outputs))
