"""`ukd-eval knn`: the votes, their result file and their table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from ukd.errors import UserError
from ukd.eval import tables
from ukd.eval.extraction import Extraction
from ukd.eval.knn import PRESETS, KnnResult, Preset, Row, evaluate
from ukd.eval.labelled import Sources
from ukd.eval.presets import customised, find
from ukd.eval.results import Metric
from ukd.eval.runner import SEED, Entry, LabelledTask, Measured, Rows, run_labelled
from ukd.neighbours import backend

REFERENCE = ("weighted", 20)
"""Vote and k of the closing line if they were run; DINO's paper reports this k."""


def run_knn(
    checkpoints: Sequence[str],
    *,
    sources: Sources,
    presets: Sequence[Preset],
    extraction: Extraction,
    baselines: bool,
    output: Path | None,
) -> tuple[list[Measured[KnnResult]], list[Path]]:
    """Classify by nearest neighbours under every preset; arguments as `runner.run_labelled`."""

    def measure(train: Rows, test: Rows) -> KnnResult:
        return evaluate(test.features, test.labels, train.features, train.labels, presets, seed=SEED)

    task = LabelledTask("knn", "l2", {"search": backend()}, measure, partial(_entries, presets))
    return run_labelled(task, checkpoints, sources=sources, extraction=extraction, baselines=baselines, output=output)


def choose_presets(names: Sequence[str], ks: Sequence[int], temp: float | None) -> list[Preset]:
    """Look presets up; other ks or another temperature make a preset of another name.

    Raises:
        UserError: No such preset, or a temperature that no chosen preset has a use for.
    """
    chosen = find("knn", PRESETS, names)
    if temp is not None and all(preset.temp is None for preset in chosen):
        raise UserError("knn: --temp belongs to the weighted vote, which no chosen preset has; add --preset dino")
    return [
        customised(
            preset,
            ks=tuple(sorted(set(ks))) or preset.ks,
            temp=preset.temp if temp is None or preset.temp is None else temp,
        )
        for preset in chosen
    ]


def show_knn(console: Console, measured: Sequence[Measured[KnnResult]]) -> None:
    """Print top-1 with intervals, top-5, every warning once, and how much of its teacher a student keeps."""
    rows = measured[0].figures.rows
    votes = ["", *(row.preset.vote for row in rows)]
    columns = [f"{row.preset.vote if row.preset.vote != votes[i] else ''}\nk={row.k}" for i, row in enumerate(rows)]
    title = f"kNN top-1 in % of {rows[0].top1.n} images, ± half the 95 % bootstrap interval"
    top1 = [[tables.with_interval(row.top1) for row in each.figures.rows] for each in measured]
    console.print(tables.model_table(title, columns, measured, top1, sizes=True))
    title = "kNN top-5 in %, classes among the neighbours only"
    top5 = [[tables.percent(row.top5.value) for row in each.figures.rows] for each in measured]
    console.print(tables.model_table(title, columns, measured, top5))
    tables.show_notes(console, (note for each in measured for note in each.figures.warnings))
    row = _reference(rows)
    what = f"top-1, {row.preset.vote} vote, k={row.k}"
    tables.show_kept(console, measured, [_reference(each.figures.rows).top1 for each in measured], what)


def _entries(presets: Sequence[Preset], figures: KnnResult) -> Iterator[Entry]:
    for preset in presets:
        metrics = {
            f"{name}_k{row.k}": Metric(share.value, share.n, (share.low, share.high))
            for row in figures.rows
            if row.preset == preset
            for name, share in (("top1", row.top1), ("top5", row.top5))
        }
        yield Entry(preset, metrics, figures.warnings)


def _reference(rows: Sequence[Row]) -> Row:
    return next((row for row in rows if (row.preset.vote, row.k) == REFERENCE), rows[0])
