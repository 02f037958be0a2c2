"""`ukd-eval knn`: models, images, cached features, the votes and the result file, tied together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ukd.bank import Embeddings
from ukd.errors import DataError, UserError
from ukd.eval.features import cached_features, compact, versions
from ukd.eval.knn import PRESETS, KnnResult, Preset, evaluate
from ukd.eval.labelled import LabelledSet, Sources, open_labelled
from ukd.eval.models import Subject, subjects
from ukd.eval.results import Metric, Result, write_results
from ukd.log import progress
from ukd.neighbours import backend

SEED = 0
"""Seed of the bootstrap intervals."""


@dataclass(frozen=True)
class Extraction:
    """How features are extracted; a view of None is the subject's own."""

    device: torch.device
    size_px: int | None = None
    crop_pct: float | None = None
    batch_size: int = 256
    num_workers: int | None = None
    cache: Path | None = None

    def view_of(self, subject: Subject) -> tuple[int, float]:
        """Side and centre crop of the view that the subject is shown."""
        return self.size_px or subject.size_px, self.crop_pct or subject.crop_pct


@dataclass(frozen=True)
class Measured:
    """One model's figures."""

    role: str
    checkpoint: str
    num_parameters: int
    result: KnnResult


def run_knn(
    checkpoints: Sequence[str],
    *,
    sources: Sources,
    presets: Sequence[Preset],
    extraction: Extraction,
    baselines: bool,
    output: Path | None,
) -> tuple[list[Measured], list[Path]]:
    """Evaluate every checkpoint; write a run's results into its `results/knn.json`, a file's beside the file.

    Args:
        checkpoints: Run folders, files of weights, or `timm:NAME`.
        sources: Labelled images.
        presets: Protocols.
        extraction: How features are extracted.
        baselines: Evaluate a run's baselines too.
        output: One file for all results, in place of those beside the checkpoints.

    Returns:
        The figures in the order of the table, and the files written.

    Raises:
        UserError: A checkpoint, the images, the presets or the output cannot be used.
    """
    bank, queries = open_labelled(sources)
    measured: list[Measured] = []
    files: dict[Path, list[Result]] = {}
    for checkpoint in checkpoints:
        path = output or _result_file(checkpoint)
        for subject in subjects(checkpoint, baselines=baselines):
            start = time.monotonic()
            rows = _extract(subject, [queries, bank], extraction)
            try:
                figures = evaluate(rows[0], queries.labels, rows[1], bank.labels, presets, seed=SEED)
            except DataError as error:
                raise DataError(f"{subject.role} ({subject.source}): {error}") from None
            measured.append(Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures))
            if path:
                record = _record(subject, bank, queries, extraction, rows[1])
                record = replace(record, wall_s=round(time.monotonic() - start, 3), warnings=figures.warnings)
                files.setdefault(path, []).extend(_of_preset(record, preset, figures) for preset in presets)
    for path, results in files.items():
        write_results(path, results)
    return measured, list(files)


def choose_presets(names: Sequence[str], ks: Sequence[int], temp: float | None) -> list[Preset]:
    """Look presets up; other ks or another temperature make a preset of another name.

    Raises:
        UserError: No such preset, or a temperature that no chosen preset has a use for.
    """
    unknown = [name for name in names if name not in PRESETS]
    if unknown:
        raise UserError(f"knn: no preset {unknown[0]!r}; choose from {', '.join(PRESETS)}")
    chosen = [PRESETS[name] for name in dict.fromkeys(names)]
    if temp is not None and all(preset.temp is None for preset in chosen):
        raise UserError("knn: --temp belongs to the weighted vote, which no chosen preset has; add --preset dino")
    return [_customised(preset, ks, temp) for preset in chosen]


def _customised(preset: Preset, ks: Sequence[int], temp: float | None) -> Preset:
    own_temp = temp if temp is not None and preset.temp is not None else preset.temp
    changed = replace(preset, ks=tuple(sorted(set(ks))) or preset.ks, temp=own_temp)
    return preset if changed == preset else replace(changed, name=f"{preset.name}-custom")


def _extract(subject: Subject, sets: Sequence[LabelledSet], extraction: Extraction) -> list[Embeddings]:
    size_px, crop_pct = extraction.view_of(subject)
    with progress(subject.role, sum(len(each.images) for each in sets)) as advance:
        return [
            cached_features(
                subject.backbone,
                each.images,
                size_px=size_px,
                crop_pct=crop_pct,
                device=extraction.device,
                batch_size=extraction.batch_size,
                num_workers=extraction.num_workers,
                cache=extraction.cache,
                advance=advance,
            )
            for each in sets
        ]


def _record(
    subject: Subject, bank: LabelledSet, queries: LabelledSet, extraction: Extraction, rows: Embeddings
) -> Result:
    """All that a result says beside its protocol and figures."""
    size_px, crop_pct = extraction.view_of(subject)
    backbone, info = subject.backbone, subject.backbone.info.as_json()
    return Result(
        task="knn",
        model={
            "role": subject.role,
            "source": subject.source,
            "sha256": backbone.weights_hash(),
            "num_parameters": backbone.num_parameters,
            **{name: info[name] for name in ("arch", "kwargs", "input_px", "mean", "std")},
        },
        data={"train": bank.facts(), "test": queries.facts(), "size_px": size_px, "crop_pct": crop_pct},
        features={"dtype": str(compact(rows).dtype), "dim": rows.shape[1], "kind": "pooled", "norm": "l2"},
        engine={"search": backend(), "device": extraction.device.type, "versions": versions()},
        seed=SEED,
    )


def _of_preset(record: Result, preset: Preset, figures: KnnResult) -> Result:
    metrics = {
        f"{name}_k{row.k}": Metric(share.value, share.n, (share.low, share.high))
        for row in figures.rows
        if row.preset == preset
        for name, share in (("top1", row.top1), ("top5", row.top5))
    }
    protocol = asdict(preset)
    return replace(record, preset=preset.name, preset_hash=preset.hash, protocol=protocol, metrics=metrics)


def _result_file(checkpoint: str) -> Path | None:
    """Where a checkpoint's results go; a model of timm's has no place of its own."""
    path = Path(checkpoint)
    if checkpoint.startswith("timm:"):
        return None
    return path / "results" / "knn.json" if path.is_dir() else path.with_suffix(".knn.json")
