"""The tables of `ukd-eval robust`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ukd.eval import tables
from ukd.eval.robust_figures import Figures, Row, mce_name
from ukd.eval.robust_sets import CLEAN
from ukd.eval.runner import Measured


def show_robust(console: Console, measured: Sequence[Measured[Figures]]) -> None:
    """Print accuracies, calibration, corruption errors, every warning once, and how much a student keeps."""
    first = measured[0].figures
    columns = [f"{escape(name)}\n{row.top1.n}" for name, row in first.rows.items()]
    title = "Top-1 in % among the classes of each set, ± half the 95 % bootstrap interval"
    if any(row.clean_top1 for row in first.rows.values()):
        title += ";\nbelow it the change from the clean images of these classes"
    cells = [[_accuracy(row) for row in each.figures.rows.values()] for each in measured]
    console.print(tables.model_table(title, columns, measured, cells, sizes=True))
    calibrated = [name for name, row in first.rows.items() if row.raw]
    if calibrated:
        title = "Calibration: ECE in %, before and after the temperature fitted on held-out training images"
        cells = [
            [f"{each.figures.temp:.2f}", *(_ece(each.figures.rows[name]) for name in calibrated)] for each in measured
        ]
        console.print(tables.model_table(title, ["temp", *map(escape, calibrated)], measured, cells))
    if first.errors:
        console.print(_corruptions(measured))
    tables.show_notes(console, (note for each in measured for note in each.figures.warnings))
    tables.show_kept(console, measured, [each.figures.rows[CLEAN].top1 for each in measured], "top-1 on clean images")


def _corruptions(measured: Sequence[Measured[Figures]]) -> Table:
    first = measured[0].figures
    severities = " ".join(map(str, next(iter(first.errors.values()))))
    title = f"Top-1 error in % under corruptions, on the fly: not the official files; severities {severities}"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("corruption", overflow="fold")
    several = len({each.checkpoint for each in measured}) > 1
    for each in measured:
        name = each.checkpoint if each.role == "model" else each.role
        beside = f"{each.checkpoint}\n" if several and each.role != "model" else ""
        table.add_column(escape(beside + name), justify="right", overflow="fold")
    for kind in first.errors:
        table.add_row(kind.replace("_", " "), *(tables.percent(each.figures.mean_errors[kind]) for each in measured))
    table.add_section()
    means = [float(np.mean(list(each.figures.mean_errors.values()))) for each in measured]
    table.add_row("[bold]mean[/]", *map(tables.percent, means))
    if any(each.figures.mce is not None for each in measured):
        name = "mCE" if mce_name(first) == "mce" else "mCE (partial)"
        mces = [each.figures.mce for each in measured]
        table.add_row(f"[bold]{name}[/]", *("-" if mce is None else tables.percent(mce) for mce in mces))
    return table


def _accuracy(row: Row) -> str:
    shown = tables.with_interval(row.top1)
    if row.clean_top1 is None:
        return shown
    return f"{shown}\n{100 * (row.top1.value - row.clean_top1.value):+.1f}"


def _ece(row: Row) -> str:
    if row.raw is None or row.scaled is None:
        return "-"
    return f"{tables.percent(row.raw.ece)}\n{tables.percent(row.scaled.ece)}"
