"""Suites of transfer sets: one YAML file names the sets, their metrics and where their splits are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from ukd.recipe import Part, PositiveInt, Problem, RecipeError
from ukd.recipe_schema import explain
from ukd.recipe_yaml import YamlError, parse

SUITES = Path(__file__).parent / "suites"
"""The suites that are installed with the package."""
MetricName = Literal["top1", "mean_per_class", "map_11point"]
VOC2007 = "voc2007:"
"""What sources of images with several labels begin with."""


class Listed(Part):
    """Images named in a text file, one a line; the folder that an image lies in is its class."""

    folder: str
    """Folder below the root that the lines are relative to."""
    list: str
    """The text file, below the root."""

    def __str__(self) -> str:
        return self.list


Source = str | Listed
"""`torchvision:NAME:SPLIT`, `voc2007:SPLIT`, a labelled folder or .npz below the root, or a list."""


class SetSpec(Part):
    """One set of a suite."""

    metric: MetricName
    """top1; mean_per_class, the mean of the classes' accuracies; map_11point, VOC2007's mean average precision."""
    train: Source
    """Images to learn from: torchvision:NAME:SPLIT, voc2007:SPLIT, a folder or a {folder, list} below the root."""
    val: Source | None = None
    """Images to choose C on; left out: a share of the training images."""
    test: Source | None = None
    """Images to classify; left out: what `train_per_class` leaves of `train`."""
    train_per_class: PositiveInt | None = None
    """Images of each class to learn from, drawn at random from `train`; the others are the test images."""

    @model_validator(mode="after")
    def _is_whole(self) -> SetSpec:
        if (self.test is None) == (self.train_per_class is None):
            raise ValueError("must give either test, or train_per_class, which makes the rest of train the test images")
        several = [isinstance(each, str) and each.startswith(VOC2007) for each in (self.train, self.val, self.test)]
        if self.metric == "map_11point" and not all(several):
            raise ValueError("map_11point wants voc2007:train, voc2007:val and voc2007:test, whose metric it is")
        if self.metric != "map_11point" and any(several):
            raise ValueError(f"voc2007 has several classes an image, which {self.metric} cannot count; say map_11point")
        return self


class Suite(Part):
    """A suite of transfer sets."""

    name: str
    """What results call it."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each class held out of training to choose C where a set names no `val`."""
    sets: dict[str, SetSpec] = Field(min_length=1)
    """Its sets by name."""


def load_suite(name: str) -> Suite:
    """Read a suite that is installed, by name, or any other by its file.

    Raises:
        RecipeError: No such file, or every mistake in it with its dotted key and what would be right.
    """
    installed = SUITES / f"{name}.yaml"
    path = installed if installed.is_file() else Path(name)
    try:
        raw, problems = parse(path.read_text(encoding="utf-8"))
    except YamlError as error:
        raise RecipeError(name, error.problems) from None
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(file.stem for file in SUITES.glob("*.yaml")))
        reason = error.strerror if isinstance(error, OSError) else "is not text in UTF-8"
        raise RecipeError(name, [Problem("", f"{reason}; give a YAML file, or one of {known}")]) from None
    problems += _problems(raw)
    if problems:
        raise RecipeError(name, problems)
    return Suite.model_validate(raw)


def _problems(raw: Any) -> Iterator[Problem]:
    """What is wrong with a suite; sets are checked one by one, for messages that name them."""
    sets = raw.get("sets") if isinstance(raw, dict) else None
    named = sets if isinstance(sets, dict) else {}
    stand_in = {"metric": get_args(MetricName)[0], "train": "", "test": ""}
    whole = raw | {"sets": dict.fromkeys(named, stand_in)} if named else raw
    if not isinstance(whole, dict):
        yield Problem("", "a suite is a mapping: name, and sets by name")
        return
    try:
        Suite.model_validate(whole)
    except ValidationError as error:
        yield from explain(error, Suite)
    for name, spec in named.items():
        try:
            SetSpec.model_validate(spec)
        except ValidationError as error:
            for problem in explain(error, SetSpec):
                yield Problem(f"sets.{name}.{problem.key}".rstrip("."), problem.message)
