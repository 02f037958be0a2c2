"""`ukd-eval knn`: the votes, their result file and their table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from ukd.errors import UserError
from ukd.eval import tables
from ukd.eval.extraction import Extraction
from ukd.eval.fewshot import FewShotPreset, FewShots, evaluate_few_shots, few_shot_preset
from ukd.eval.in_bank import OWN_TEACHER, run_in_bank
from ukd.eval.knn import PRESETS, KnnResult, Preset, Row, evaluate
from ukd.eval.labelled import Sources
from ukd.eval.presets import customised, find
from ukd.eval.results import Metric
from ukd.eval.runner import SEED, Entry, LabelledTask, Measured, Rows, run_labelled
from ukd.neighbours import backend

NUM_TRIES = 5
"""Draws of a few-shot bank."""
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
    few: FewShots | None = None,
    bank_checkpoint: str | None = None,
) -> tuple[list[Measured[KnnResult]], list[Path]]:
    """Classify by nearest neighbours under every preset.

    Args:
        checkpoints: As for `runner.run_labelled`, as are the others not named here.
        sources: Labelled images.
        presets: Votes.
        extraction: How features are extracted.
        baselines: Measure a run's baselines too.
        output: One file for all results.
        few: Draws of few-shot banks; None takes the whole bank.
        bank_checkpoint: Whose features the bank holds, as for `run_in_bank`; None takes each model's own.

    Raises:
        UserError: A checkpoint, the images or the output cannot be used.
    """
    if bank_checkpoint:
        owner = "teacher" if bank_checkpoint == OWN_TEACHER else "given"
        presets = [replace(preset, name=f"{preset.name}-in-{owner}-bank") for preset in presets]
    reported = [few_shot_preset(preset, few) for preset in presets] if few else presets

    def measure(train: Rows, test: Rows) -> KnnResult:
        arrays = test.features, test.labels, train.features, train.labels
        if few:
            return evaluate_few_shots(*arrays, presets, few, seed=SEED)
        return evaluate(*arrays, presets, seed=SEED)

    engine = {"search": backend()}
    if any(preset.norm == "none" for preset in presets):
        engine["search_not_normalised"] = f"numpy {np.__version__} fp64"
    task = LabelledTask("knn", "l2", engine, measure, partial(_entries, reported))
    if bank_checkpoint:
        return run_in_bank(
            task,
            checkpoints,
            bank_checkpoint,
            sources=sources,
            extraction=extraction,
            baselines=baselines,
            output=output,
        )
    return run_labelled(task, checkpoints, sources=sources, extraction=extraction, baselines=baselines, output=output)


def few_shots(shots: int | None, tries: int | None) -> FewShots | None:
    """The draws that the options name, with seeds 0, 1, ...; None for the whole bank.

    Raises:
        UserError: Draws are asked for, but not of how many images.
    """
    if shots is None:
        if tries is not None:
            raise UserError("knn: --tries counts draws of few-shot banks; give --shots too")
        return None
    return FewShots(shots, tuple(range(SEED, SEED + (tries or NUM_TRIES))))


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
    first = rows[0].preset
    if isinstance(first, FewShotPreset):
        title = f"kNN top-1 in % of {rows[0].top1.n} images, mean of {len(first.seeds)} banks of {first.shots} a class,"
        title += "\n± half the 95 % bootstrap interval, and sd, the deviation over banks"
    top1 = [[_top1(row) for row in each.figures.rows] for each in measured]
    console.print(tables.model_table(title, columns, measured, top1, sizes=True))
    title = "kNN top-5 in %, classes among the neighbours only"
    top5 = [[tables.percent(row.top5.value) for row in each.figures.rows] for each in measured]
    console.print(tables.model_table(title, columns, measured, top5))
    tables.show_notes(console, (note for each in measured for note in each.figures.warnings))
    row = _reference(rows)
    what = f"top-1, {row.preset.vote} vote, k={row.k}"
    tables.show_kept(console, measured, [_reference(each.figures.rows).top1 for each in measured], what)


def _top1(row: Row) -> str:
    shown = tables.with_interval(row.top1)
    return shown if row.top1_std is None else f"{shown}\n[dim]sd {tables.percent(row.top1_std)}[/]"


def _entries(presets: Sequence[Preset], figures: KnnResult) -> Iterator[Entry]:
    for preset in presets:
        metrics = {
            f"{name}_k{row.k}": Metric(share.value, share.n, (share.low, share.high))
            for row in figures.rows
            if row.preset == preset
            for name, share in (("top1", row.top1), ("top5", row.top5))
        }
        deviations = {
            f"{name}_k{row.k}_std": Metric(deviation, len(preset.seeds))
            for row in figures.rows
            if row.preset == preset and isinstance(preset, FewShotPreset)
            for name, deviation in (("top1", row.top1_std), ("top5", row.top5_std))
            if deviation is not None
        }
        yield Entry(preset, metrics | deviations, figures.warnings, norm=preset.norm)


def _reference(rows: Sequence[Row]) -> Row:
    return next((row for row in rows if (row.preset.vote, row.k) == REFERENCE), rows[0])
