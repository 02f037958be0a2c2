"""Results as JSON: a figure together with everything it takes to believe it, or to make it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ukd.errors import UserError
from ukd.files import write_atomically

SCHEMA = 1
"""Raised whenever a reader of the old files would misread the new ones."""


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        value: The figure; accuracies are shares in [0, 1].
        n: On how many samples it was measured.
        ci: Ends of its 95 % interval, or None where none was estimated.
    """

    value: float
    n: int
    ci: tuple[float, float] | None = None


@dataclass(frozen=True)
class Result:
    """One model under one protocol.

    Attributes:
        task: What was measured, for example `knn`.
        model: What was measured on: role, sha256 of the weights, arch, and where it came from.
        data: What it was measured with: name, n and fingerprint of each set of images, and the view.
        features: dtype, dim and normalisation of the features.
        engine: What computed it: search backend, device, versions.
        seed: Seed of whatever was drawn at random.
        preset: The protocol's name.
        preset_hash: Hash of every setting of the protocol.
        protocol: Those settings.
        metrics: Figures by name, for example `top1_k20`.
        selection: How what the protocol leaves open was chosen: every candidate with its figure.
        reference: What the model was compared with, described like `model`.
        wall_s: Seconds it took.
        warnings: What a reader must know.
    """

    task: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    features: Mapping[str, Any]
    engine: Mapping[str, Any]
    seed: int
    preset: str = ""
    preset_hash: str = ""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
    reference: Mapping[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0
    warnings: Sequence[str] = ()


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write results to one JSON file, `{"schema": 1, "results": [...]}`, all of it or nothing.

    Raises:
        UserError: A number is NaN or infinite, or the file cannot be written.
    """
    document = {"schema": SCHEMA, "results": [asdict(result) for result in results]}
    broken = _non_finite(document, "")
    if broken:
        raise UserError(f"results: {', '.join(broken)} is not finite, so {path} was not written")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise UserError(f"results: cannot write {path}: {error.strerror}") from None


def result_file(checkpoint: str, task: str) -> Path | None:
    """Where a checkpoint's results go: in a run's folder, beside a file; timm's models have no place of their own."""
    path = Path(checkpoint)
    if checkpoint.startswith("timm:"):
        return None
    return path / "results" / f"{task}.json" if path.is_dir() else path.with_suffix(f".{task}.json")


def _non_finite(value: Any, where: str) -> list[str]:
    """Name every number below `value` that JSON has no word for."""
    if isinstance(value, Mapping):
        return [found for key, below in value.items() for found in _non_finite(below, f"{where}.{key}".lstrip("."))]
    if isinstance(value, (list, tuple)):
        return [found for i, below in enumerate(value) for found in _non_finite(below, f"{where}.{i}")]
    return [where] if isinstance(value, float) and not math.isfinite(value) else []
