"""What is evaluated: a checkpoint and, if it is a run folder, the baselines to read its figures against."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from ukd.backbones import Backbone, BackboneInfo, build_backbone, open_backbone
from ukd.errors import RunFolderError, WeightsError
from ukd.recipe import BackboneSpec, DataSpec, ViewSpec
from ukd.recipe_yaml import YamlError, parse

MAX_RAW_PX = 32
"""Raw pixels of larger views are those of the view shrunk to this side: 3,072 numbers are a sane row."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """A backbone, and its role in the table.

    Attributes:
        role: `student`, `teacher`, `untrained student`, `untrained`, `raw pixels`, or `model` outside a run.
        source: Where it came from.
        backbone: Itself, frozen.
        size_px: Side of the view it is shown: the run's for teacher and student alike, outside a run its own.
        crop_pct: Centre crop of that view.
    """

    role: str
    source: str
    backbone: Backbone
    size_px: int
    crop_pct: float


@dataclass(frozen=True)
class RunParts:
    """The parts of a run folder's recipe that evaluation reads.

    Attributes:
        data: Its images; `labelled_train` and `labelled_test` are those of the evaluation.
        trained: The backbone that it trains.
        teacher: The teacher, None in a pretraining.
        views: Its views.
        seed: Its seed.
    """

    data: DataSpec
    trained: BackboneSpec
    teacher: BackboneSpec | None
    views: ViewSpec
    seed: int


def read_run(checkpoint: str) -> RunParts | None:
    """Read the recipe of a run folder; None where the checkpoint is no run folder.

    Raises:
        RunFolderError: The recipe cannot be read.
    """
    path = Path(checkpoint) / "recipe.yaml"
    if checkpoint.startswith("timm:") or not path.is_file():
        return None
    try:
        recipe, _ = parse(path.read_text(encoding="utf-8"))
        teacher = recipe.get("teacher")
        return RunParts(
            data=DataSpec.model_validate(recipe["data"]),
            trained=BackboneSpec.model_validate(recipe["student" if teacher else "backbone"]),
            teacher=BackboneSpec.model_validate(teacher) if teacher else None,
            views=ViewSpec.model_validate(recipe["views"]),
            seed=recipe["seed"],
        )
    except (OSError, ValueError, YamlError, ValidationError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{path} is not the recipe of a run: {error}") from None


def subjects(checkpoint: str, *, baselines: bool) -> Iterator[Subject]:
    """Open what is to be evaluated, one at a time.

    Args:
        checkpoint: A run folder, a file of weights with its .json beside, or `timm:NAME`.
        baselines: For a run folder also raw pixels and its untrained self, and after it its teacher.

    Raises:
        WeightsError: The checkpoint cannot be opened. A teacher that cannot be is reported and left out.
    """
    run, main = read_run(checkpoint), open_backbone(checkpoint)
    if run is None:
        yield Subject("model", checkpoint, main, main.info.size_px, main.info.crop_pct)
        return
    view = run.views.size_px, run.views.crop_pct
    role = "student" if run.teacher else "teacher"
    if baselines:
        yield Subject("raw pixels", "pixels", raw_pixels(run.views.size_px), *view)
        initial = build_backbone(**run.trained.model_dump(), frozen=True, seed=run.seed)
        yield Subject("untrained student" if run.teacher else "untrained", checkpoint, initial, *view)
    yield Subject(role, checkpoint, main, *view)
    if run.teacher and baselines:
        try:
            teacher = build_backbone(**run.teacher.model_dump(), frozen=True, seed=run.seed)
        except WeightsError as error:
            _log.warning("teacher left out: %s", error)
            return
        yield Subject("teacher", run.teacher.weights or f"timm:{run.teacher.arch}", teacher, *view)


def raw_pixels(size_px: int) -> Backbone:
    """Make the baseline that has nothing but the pixels of its view, shrunk to at most MAX_RAW_PX a side."""
    side = min(size_px, MAX_RAW_PX)
    info = BackboneInfo("pixels", input_px=side, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), size_px=size_px)
    return Backbone(_Pixels(side), info)


class _Pixels(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.num_features = 3 * side * side

    def forward(self, views: Tensor) -> Tensor:
        """Flatten views [B, 3, S, S] to [B, 3 S S]."""
        return views.flatten(1)
