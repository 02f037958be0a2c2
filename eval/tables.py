"""Tables for people: rows are models, columns are votes, figures are per cent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ukd.eval.knn import Row, Share
from ukd.eval.run_knn import Measured

REFERENCE = ("weighted", 20)
"""Vote and k of the closing line if they were run; DINO's paper reports this k."""


def show_knn(console: Console, measured: Sequence[Measured]) -> None:
    """Print top-1 with intervals, top-5, every warning once, and how much of its teacher a student keeps."""
    num_queries = measured[0].result.rows[0].top1.n
    title = f"kNN top-1 in % of {num_queries} images, ± half the 95 % bootstrap interval"
    console.print(_table(title, measured, "top1", detailed=True))
    console.print(_table("kNN top-5 in %, classes among the neighbours only", measured, "top5", detailed=False))
    for warning in dict.fromkeys(line for each in measured for line in each.result.warnings):
        console.print(f"note: {warning}", highlight=False, markup=False)
    for line in kept(measured):
        console.print(line, highlight=False, markup=False, style="bold")


def kept(measured: Sequence[Measured]) -> Iterator[str]:
    """Say for every student beside its teacher what share of the teacher's top-1 it keeps."""
    teachers = {each.checkpoint: each for each in measured if each.role == "teacher"}
    for each in measured:
        teacher = teachers.get(each.checkpoint)
        if each.role != "student" or teacher is None:
            continue
        ours, theirs = _reference(each.result.rows), _reference(teacher.result.rows)
        if theirs.top1.value == 0:
            continue
        name = "student" if len(teachers) == 1 else f"student of {each.checkpoint}"
        yield (
            f"{name} keeps {100 * ours.top1.value / theirs.top1.value:.1f} % of the teacher "
            f"({_percent(ours.top1)} of {_percent(theirs.top1)} % top-1, {ours.preset.vote} vote, k={ours.k})"
        )


def _table(title: str, measured: Sequence[Measured], figure: str, *, detailed: bool) -> Table:
    """Lay out one figure; detailed adds its interval and the model's size on a second line."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model\nparameters" if detailed else "model", overflow="fold")
    vote = ""
    for row in measured[0].result.rows:
        table.add_column(f"{row.preset.vote if row.preset.vote != vote else ''}\nk={row.k}", justify="right")
        vote = row.preset.vote
    for checkpoint in dict.fromkeys(each.checkpoint for each in measured):
        group = [each for each in measured if each.checkpoint == checkpoint]
        named = len(group) < len(measured)
        if named and len(group) > 1:
            table.add_row(f"[bold]{escape(checkpoint)}[/]")
        for each in group:
            name = escape(checkpoint) if each.role == "model" or (named and len(group) == 1) else each.role
            shares: list[Share] = [getattr(row, figure) for row in each.result.rows]
            cells = [_percent(share) for share in shares]
            if detailed:
                name += f"\n[dim]{_count(each.num_parameters)}[/]"
                cells = [f"{_percent(share)}\n[dim]±{50 * (share.high - share.low):.1f}[/]" for share in shares]
            table.add_row(name, *cells)
        table.add_section()
    return table


def _reference(rows: Sequence[Row]) -> Row:
    return next((row for row in rows if (row.preset.vote, row.k) == REFERENCE), rows[0])


def _percent(share: Share) -> str:
    return f"{100 * share.value:.1f}"


def _count(num: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if num >= size:
            return f"{num / size:.3g} {unit}"
    return str(num) if num else "-"
