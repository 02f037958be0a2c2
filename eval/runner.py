"""What every task does around its own arithmetic: open, extract, measure, and write down how it was measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from ukd.blocks import Embeddings, stored_dtype
from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.extraction import Extraction
from ukd.eval.labelled import Sources, open_labelled
from ukd.eval.models import RAW_PIXELS, Subject, subjects
from ukd.eval.presets import NamedPreset
from ukd.eval.results import Metric, Result, result_file, write_results
from ukd.extractor import versions

SEED = 0
"""Seed of whatever a task draws at random."""
F = TypeVar("F")
"""The figures of a task, as its pure function gives them."""


@dataclass(frozen=True)
class Measured(Generic[F]):
    """One model's figures."""

    role: str
    checkpoint: str
    num_parameters: int
    figures: F


@dataclass(frozen=True)
class Rows:
    """Features [n, D] with their labels [n], and the names of the class numbers where they have any."""

    features: Embeddings
    labels: Labels
    class_names: Sequence[str] | None


@dataclass(frozen=True)
class Entry:
    """The part of a model's figures that one preset accounts for, as the result file wants it."""

    preset: NamedPreset
    metrics: Mapping[str, Metric]
    warnings: Sequence[str] = ()
    selection: Mapping[str, Any] = field(default_factory=dict)
    norm: str | None = None
    """What this preset does to the lengths of features, where its task has presets that differ in it."""


@dataclass(frozen=True)
class LabelledTask(Generic[F]):
    """A task that learns from labelled training images and is judged on test images.

    Attributes:
        name: Its name on the command line and in results.
        norm: What it does to the lengths of features: `l2` or `none`.
        engine: What computes it, for the result file.
        measure: Training rows and test rows to figures.
        entries: Figures to what the result file says, preset by preset.
        pixels: Whether raw pixels, thousands of columns, are a baseline that it can afford.
    """

    name: str
    norm: str
    engine: Mapping[str, str]
    measure: Callable[[Rows, Rows], F]
    entries: Callable[[F], Iterable[Entry]]
    pixels: bool = True


class ResultFiles:
    """The result files of one command.

    Args:
        task: The task's name.
        output: One file for all results; None puts a run's into its folder and a file's beside the file.
    """

    def __init__(self, task: str, output: Path | None) -> None:
        self._task = task
        self._output = output
        self._results: dict[Path, list[Result]] = {}

    def add(self, checkpoint: str, record: Result, entries: Iterable[Entry]) -> None:
        """Keep a model's figures: what the record says of them, and an entry for every preset."""
        path = self._output or result_file(checkpoint, self._task)
        if path is None:
            return
        self._results.setdefault(path, []).extend(
            replace(
                record,
                preset=entry.preset.name,
                preset_hash=entry.preset.hash,
                protocol=asdict(entry.preset),
                metrics=entry.metrics,
                selection=entry.selection,
                features={**record.features, "norm": entry.norm or record.features["norm"]},
                warnings=entry.warnings,
            )
            for entry in entries
        )

    def write(self) -> list[Path]:
        """Write every file; returns which.

        Raises:
            UserError: A figure is not finite, or a file cannot be written.
        """
        for path, results in self._results.items():
            write_results(path, results)
        return list(self._results)


def run_labelled(
    task: LabelledTask[F],
    checkpoints: Sequence[str],
    *,
    sources: Sources,
    extraction: Extraction,
    baselines: bool,
    output: Path | None,
) -> tuple[list[Measured[F]], list[Path]]:
    """Measure every checkpoint on labelled images.

    Args:
        task: What is measured.
        checkpoints: Run folders, files of weights, or `timm:NAME`.
        sources: Labelled images.
        extraction: How features are extracted.
        baselines: Measure a run's baselines too.
        output: One file for all results, in place of those beside the checkpoints.

    Returns:
        The figures in the order of the table, and the files written.

    Raises:
        UserError: A checkpoint, the images or the output cannot be used.
    """
    train, test = open_labelled(sources)
    measured: list[Measured[F]] = []
    files = ResultFiles(task.name, output)
    for checkpoint in checkpoints:
        for subject in subjects(checkpoint, baselines=baselines):
            if subject.role == RAW_PIXELS and not task.pixels:
                continue
            start = time.monotonic()
            features = extraction.features(subject, [test.images, train.images])
            names = train.images.class_names
            try:
                figures = task.measure(Rows(features[1], train.labels, names), Rows(features[0], test.labels, names))
            except DataError as error:
                raise DataError(f"{subject.role} ({subject.source}): {error}") from None
            measured.append(Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures))
            data = {"train": train.facts(), "test": test.facts()}
            record = record_of(task.name, subject, extraction, features[1], data, task.norm, task.engine)
            record = replace(record, wall_s=round(time.monotonic() - start, 3))
            files.add(checkpoint, record, task.entries(figures))
    return measured, files.write()


def record_of(
    task: str,
    subject: Subject,
    extraction: Extraction,
    features: Embeddings,
    data: Mapping[str, Any],
    norm: str,
    engine: Mapping[str, str],
) -> Result:
    """Write down all that a result says beside its protocol and figures."""
    size_px, crop_pct = extraction.view_of(subject)
    return Result(
        task=task,
        model=extraction.of(subject).facts(),
        data={**data, "size_px": size_px, "crop_pct": crop_pct},
        features={
            "dtype": str(stored_dtype(features)),
            "dim": features.shape[1],
            "kind": extraction.kind_of(subject),
            "norm": norm,
        },
        engine={**engine, "device": extraction.device.type, "versions": versions()},
        seed=SEED,
    )
