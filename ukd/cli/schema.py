"""`python -m ukd.cli.schema [FOLDER]` writes the JSON Schemas by which editors check and complete recipes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from ukd.objectives import OBJECTIVES, options_models
from ukd.recipe import DistillRecipe, PretrainRecipe, RunRecipe
from ukd.recipe_schema import json_schema

_MODELS: dict[str, type[RunRecipe]] = {"distill": DistillRecipe, "pretrain": PretrainRecipe}


def options_for(model: type[RunRecipe]) -> dict[str, type[BaseModel]]:
    """Options of the objectives that a kind of recipe may name: without a teacher, those that need none."""
    has_teacher = "teacher" in model.model_fields
    return {
        name: options for name, options in options_models().items() if has_teacher or not OBJECTIVES[name].needs.teacher
    }


def schemas() -> dict[str, str]:
    """Text of every schema by file name."""
    return {
        f"{name}.schema.json": json.dumps(json_schema(model, options_for(model)), indent=2) + "\n"
        for name, model in _MODELS.items()
    }


def main(folder: str = "recipes") -> None:
    """Write all schemas into a folder."""
    for name, text in schemas().items():
        Path(folder, name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
