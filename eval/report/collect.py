"""What a run folder says of its run: recipe, exported backbone, learning curves and result files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd.errors import RunFolderError
from ukd.eval.gathering import read_results
from ukd.eval.results import Result
from ukd.recipe_yaml import YamlError, parse

Curve = Sequence[tuple[int, float]]
"""A figure by step."""


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    Attributes:
        folder: Where it is, as the user named it.
        recipe: Its resolved recipe.
        objective: Names of its objectives, for example `coss + rkd`.
        exported: What `student.json` or `teacher.json` says; empty where nothing was exported yet.
        teacher_sha256: Hash of its teacher's weights; None without a teacher, or as long as nothing is exported.
        results: Its results.
        teacher_results: Those of its teacher, where that is a run folder of its own.
        curves: Every figure of `metrics.jsonl`.
        picture: `neighbours.png`, None where it has none.
    """

    folder: Path
    recipe: Mapping[str, Any]
    objective: str
    exported: Mapping[str, Any]
    teacher_sha256: str | None
    results: Sequence[Result]
    teacher_results: Sequence[Result]
    curves: Mapping[str, Curve]
    picture: bytes | None

    @property
    def name(self) -> str:
        """The folder as the user named it."""
        return str(self.folder)

    @property
    def is_distillation(self) -> bool:
        """Whether it has a teacher."""
        return bool(self.recipe.get("teacher"))

    @property
    def is_empty(self) -> bool:
        """Whether it has nothing to show."""
        return not (self.results or self.curves or self.picture)


def read_run_folder(folder: Path) -> Run:
    """Read everything that a report shows of a run; what the run has not written yet is left empty.

    Raises:
        RunFolderError: No run folder, or a file of it that is not what its name says.
        UserError: A result file of another version.
    """
    if not (folder / "recipe.yaml").is_file():
        raise RunFolderError(f"report: {folder} is no run folder: it holds no recipe.yaml")
    try:
        recipe, _ = parse((folder / "recipe.yaml").read_text(encoding="utf-8"))
        exported = _exported(folder)
        picture = folder / "neighbours.png"
        return Run(
            folder=folder,
            recipe=recipe,
            objective=" + ".join(part["name"] for part in recipe["objective"]),
            exported=exported,
            teacher_sha256=_teacher_sha256(exported),
            results=_results(folder),
            teacher_results=_teacher_results(recipe),
            curves=_curves(folder / "metrics.jsonl"),
            picture=picture.read_bytes() if picture.is_file() else None,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, YamlError) as error:
        raise RunFolderError(f"report: {folder} is not the folder of a run: {error}") from None


def _exported(folder: Path) -> Mapping[str, Any]:
    for name in ("student.json", "teacher.json"):
        if (folder / name).is_file():
            facts: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            return facts
    return {}


def _teacher_sha256(exported: Mapping[str, Any]) -> str | None:
    provenance = exported.get("provenance", {})
    # One teacher was written as `teacher` before there could be several.
    teachers = provenance.get("teachers") or [provenance.get("teacher") or {}]
    sha256: str | None = teachers[0].get("weights_sha256")
    return sha256


def _results(folder: Path) -> list[Result]:
    return [each.figures for file in sorted(folder.glob("results/*.json")) for each in read_results(file)]


def _teacher_results(recipe: Mapping[str, Any]) -> list[Result]:
    weights = (recipe.get("teacher") or {}).get("weights")
    if not weights or not (Path(weights) / "recipe.yaml").is_file():
        return []
    return [each for each in _results(Path(weights)) if each.model["role"] == "teacher"]


def _curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            figures = json.loads(line)
        except json.JSONDecodeError:  # The last line of a run that goes on may be half written.
            continue
        step = figures.pop("step")
        for name, value in figures.items():
            curves.setdefault(name, []).append((step, value))
    return curves
