"""Tables for people: rows are models, columns are figures; shares are per cent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ukd.eval.intervals import Share
from ukd.eval.runner import Measured

F = TypeVar("F")


def model_table(
    title: str,
    columns: Sequence[str],
    measured: Sequence[Measured[F]],
    cells: Sequence[Sequence[str]],
    *,
    sizes: bool = False,
) -> Table:
    """Lay out one row a model, grouped by checkpoint.

    Args:
        title: What is shown.
        columns: Heads of the columns of figures.
        measured: The models.
        cells: Figures of each model.
        sizes: Say each model's number of parameters on a second line.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model\nparameters" if sizes else "model", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    rows = list(zip(measured, cells, strict=True))
    for checkpoint in dict.fromkeys(each.checkpoint for each in measured):
        group = [(each, figures) for each, figures in rows if each.checkpoint == checkpoint]
        named = len(group) < len(rows)
        if named and len(group) > 1:
            table.add_row(f"[bold]{escape(checkpoint)}[/]")
        for each, figures in group:
            name = escape(checkpoint) if each.role == "model" or (named and len(group) == 1) else each.role
            table.add_row(f"{name}\n[dim]{_count(each.num_parameters)}[/]" if sizes else name, *figures)
        table.add_section()
    return table


def show_notes(console: Console, notes: Iterable[str]) -> None:
    """Print every warning once."""
    for note in dict.fromkeys(notes):
        console.print(f"note: {note}", highlight=False, markup=False)


def show_kept(console: Console, measured: Sequence[Measured[F]], shares: Sequence[Share], what: str) -> None:
    """Say for every student beside its teacher what share of the teacher's figure it keeps.

    Args:
        console: Where to print.
        measured: The models.
        shares: The figure of each model.
        what: What the figure is.
    """
    of = {(each.checkpoint, each.role): share for each, share in zip(measured, shares, strict=True)}
    students = [checkpoint for checkpoint, role in of if role == "student" and (checkpoint, "teacher") in of]
    for checkpoint in students:
        ours, theirs = of[checkpoint, "student"].value, of[checkpoint, "teacher"].value
        if theirs == 0:
            continue
        name = "student" if len(students) == 1 else f"student of {checkpoint}"
        line = (
            f"{name} keeps {100 * ours / theirs:.1f} % of the teacher ({percent(ours)} of {percent(theirs)} % {what})"
        )
        console.print(line, highlight=False, markup=False, style="bold")


def with_interval(share: Share) -> str:
    """Per cent, and below it half the width of its interval."""
    return f"{percent(share.value)}\n[dim]±{50 * (share.high - share.low):.1f}[/]"


def percent(value: float) -> str:
    """A share in [0, 1] as per cent."""
    return f"{100 * value:.1f}"


def _count(num: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if num >= size:
            return f"{num / size:.3g} {unit}"
    return str(num) if num else "-"
