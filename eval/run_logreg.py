"""`ukd-eval logreg`: logistic regressions, their result file and their table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from ukd.eval import tables
from ukd.eval.extraction import Extraction
from ukd.eval.labelled import Sources
from ukd.eval.logreg import PRESETS, LogregResult, Preset, evaluate
from ukd.eval.presets import customised, find
from ukd.eval.results import Metric
from ukd.eval.runner import SEED, Entry, LabelledTask, Measured, Rows, run_labelled
from ukd.eval.solvers import SOLVERS, choose_solver
from ukd.log import progress

Figures = list[LogregResult]
"""A model's figures under every preset."""


def run_logreg(
    checkpoints: Sequence[str],
    *,
    sources: Sources,
    presets: Sequence[Preset],
    extraction: Extraction,
    baselines: bool,
    output: Path | None,
    solver: str | None = None,
) -> tuple[list[Measured[Figures]], list[Path]]:
    """Classify by logistic regression under every preset.

    Args:
        checkpoints: As for `runner.run_labelled`, as are the others not named here.
        sources: Labelled images.
        presets: Grids of C.
        extraction: How features are extracted.
        baselines: Measure a run's baselines too.
        output: One file for all results.
        solver: One of SOLVERS; None takes `lbfgs` on a GPU and `sklearn` on a CPU.

    Raises:
        UserError: No such solver, or a checkpoint, the images or the output cannot be used.
    """
    solver = choose_solver("logreg", solver, extraction.device)

    def measure(train: Rows, test: Rows) -> Figures:
        with progress("logistic regressions", sum(preset.num_c + 1 for preset in presets)) as advance:
            return [
                evaluate(
                    train.features,
                    train.labels,
                    test.features,
                    test.labels,
                    preset,
                    class_names=train.class_names,
                    seed=SEED,
                    advance=advance,
                    device=extraction.device if solver == "lbfgs" else None,
                )
                for preset in presets
            ]

    engine = {"solver": SOLVERS[solver]}
    task = LabelledTask("logreg", "none", engine, measure, _entries, pixels=False)
    return run_labelled(task, checkpoints, sources=sources, extraction=extraction, baselines=baselines, output=output)


def choose_presets(names: Sequence[str], num_c: int | None) -> list[Preset]:
    """Look presets up; a grid of another size makes a preset of another name.

    Raises:
        UserError: No such preset.
    """
    return [customised(preset, num_c=num_c or preset.num_c) for preset in find("logreg", PRESETS, names)]


def show_logreg(console: Console, measured: Sequence[Measured[Figures]]) -> None:
    """Print the accuracies with intervals, how C was chosen, every warning once, and how much a student keeps."""
    for number, first in enumerate(measured[0].figures):
        results = [each.figures[number] for each in measured]
        title = f"Logistic regression ({first.preset.name}), in % of {first.top1.n} images, ± half the 95 % interval"
        columns = ["top-1", "mean per\nclass", "chosen\nC", "held-out\ntop-1", "gradient"]
        console.print(tables.model_table(title, columns, measured, [_cells(each) for each in results], sizes=True))
        tables.show_notes(console, (note for each in results for note in each.warnings))
        what = f"top-1, {first.preset.name}"
        tables.show_kept(console, measured, [each.top1 for each in results], what)


def _cells(result: LogregResult) -> list[str]:
    chosen = next(each for each in result.curve if each.c == result.c)
    return [
        tables.with_interval(result.top1),
        tables.with_interval(result.mean_per_class),
        f"{result.c:.2g}",
        f"{tables.percent(chosen.heldout_top1)}\n[dim]of {result.num_heldout}[/]",
        f"{result.grad_norm:.0e}",
    ]


def _entries(figures: Figures) -> Iterator[Entry]:
    for result in figures:
        metrics = {
            name: Metric(share.value, share.n, (share.low, share.high))
            for name, share in (("top1", result.top1), ("mean_per_class", result.mean_per_class))
        }
        selection = {
            "by": "top-1 of held-out training images, ties to the smallest C",
            "num_heldout": result.num_heldout,
            "c": result.c,
            "grad_norm": result.grad_norm,
            "curve": [asdict(candidate) for candidate in result.curve],
        }
        yield Entry(result.preset, metrics, result.warnings, selection)
