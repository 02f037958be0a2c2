"""Results that were measured apart, by jobs or on other days, in one table: what was measured alike stands together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ukd.errors import UserError
from ukd.eval import tables
from ukd.eval.results import SCHEMA, Metric, Result
from ukd.eval.runner import Measured


def find_results(paths: Sequence[Path]) -> list[Path]:
    """Find the result files in run folders; a file stands for itself.

    Raises:
        UserError: A path does not exist, or a folder holds no results.
    """
    found: list[Path] = []
    for path in paths:
        files = sorted((path / "results").glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise UserError(
                f"gather: {path} holds no results; evaluate it first, for example ukd-eval knn --ckpt {path}"
            )
        if not files[0].exists():
            raise UserError(f"gather: {path} does not exist")
        found += files
    return found


def read_results(path: Path) -> list[Measured[Result]]:
    """Read a result file back, each result under the name of its run folder, or of its model outside of one.

    Raises:
        UserError: The file is no result file, or one of another version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise UserError(f"gather: {path} has schema {document['schema']}, and only {SCHEMA} is understood here")
        results = [_result(raw) for raw in document["results"]]
        run = str(path.parent.parent) if path.parent.name == "results" else None
        return [
            Measured(each.model["role"], run or each.model["source"], each.model["num_parameters"], each)
            for each in results
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"gather: {path} is no result file of ukd-eval ({type(error).__name__}: {error})") from None


def show_results(console: Console, measured: Sequence[Measured[Result]]) -> None:
    """Print one table for each protocol and the images that it was measured on, figures as they stand in the files."""
    groups: dict[tuple[str, ...], list[Measured[Result]]] = {}
    for each in measured:
        groups.setdefault(_measured_alike(each.figures), []).append(each)
    for group in groups.values():
        columns = list(dict.fromkeys(name for each in group for name in each.figures.metrics))
        cells = [[_cell(each.figures.metrics.get(name)) for name in columns] for each in group]
        console.print(tables.model_table(_title(group[0].figures), columns, group, cells))


def _result(raw: dict[str, Any]) -> Result:
    metrics = {
        name: Metric(metric["value"], metric["n"], tuple(metric["ci"]) if metric["ci"] else None)
        for name, metric in raw["metrics"].items()
    }
    return Result(**{**raw, "metrics": metrics})


def _measured_alike(result: Result) -> tuple[str, ...]:
    """What must be equal for figures to be compared: all of the protocol, every image, and what they refer to."""
    prints = (facts["fingerprint"] for facts in _image_sets(result).values())
    reference, kind = result.reference.get("sha256", ""), result.features.get("kind", "")
    return (result.task, result.preset, result.preset_hash, reference, kind, *prints)


def _image_sets(result: Result) -> dict[str, Any]:
    return {name: facts for name, facts in result.data.items() if isinstance(facts, dict) and "fingerprint" in facts}


def _title(result: Result) -> str:
    sets = ", ".join(f"{name} {facts['name']} (n={facts['n']})" for name, facts in _image_sets(result).items())
    kind = f"; {result.features['kind']} features" if "kind" in result.features else ""
    reference = f"; against {result.reference['source']}" if "source" in result.reference else ""
    return f"{result.task}, preset {result.preset}{kind}{reference}; {sets}"


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "-"
    half = f"\n[dim]±{(metric.ci[1] - metric.ci[0]) / 2:.2g}[/]" if metric.ci else ""
    return f"{metric.value:.4g}{half}"
