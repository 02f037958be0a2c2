"""The figures of a report as tables: for the page, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ukd.eval.report.figures import Cell, Column, Model, titles
from ukd.eval.report.markup import Node, node
from ukd.eval.results import Metric

CSV_HEAD = (
    *("model", "role", "parameters", "sha256", "task", "preset", "preset_hash", "images", "metric"),
    *("value", "low", "high", "n", "teacher", "gap", "kept"),
)


def model_table(models: Sequence[Model], columns: Sequence[Column]) -> Node:
    """Lay out one row a model for the page; on a narrow screen every row becomes a card."""
    names = titles(columns)
    heads = (node("th", *_broken(name), scope="col") for name in ("model", "parameters", *names))
    rows = []
    for model in models:
        first = node("th", node("b", model.role), node("small", model.name), scope="row")
        count = node("td", count_of(model.num_parameters), data_label="parameters")
        figures = (_table_cell(name, each, model.cells.get(each)) for name, each in zip(names, columns, strict=True))
        rows.append(node("tr", first, count, *figures, class_="student" if model.role == "student" else None))
    return node("table", node("thead", node("tr", *heads)), node("tbody", *rows), class_="models")


def markdown_table(models: Sequence[Model], columns: Sequence[Column]) -> str:
    """Lay the same table out as Markdown."""
    heads = ["model", "role", "parameters", *titles(columns)]
    lines = [heads, ["---", "---", *["---:"] * (1 + len(columns))]]
    for model in models:
        figures = [" ".join(_texts(column, model.cells.get(column))) or "-" for column in columns]
        lines.append([model.name, model.role, count_of(model.num_parameters), *figures])
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def csv_table(models: Sequence[Model]) -> str:
    """Write every figure, not only those of the table, one a line, as it was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for model in models:
        for column, cell in model.cells.items():
            protocol, metric = column.protocol, cell.metric
            model_facts = (model.name, model.role, model.num_parameters, model.sha256)
            told = (protocol.task, protocol.preset, protocol.preset_hash, protocol.shown_on, column.metric)
            teacher = cell.teacher.value if cell.teacher else None
            figure = (metric.value, *(metric.ci or (None, None)), metric.n, teacher, cell.gap, cell.kept)
            writer.writerow((*model_facts, *told, *figure))
    return text.getvalue()


def count_of(num_parameters: int) -> str:
    """A number of parameters to three digits."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if num_parameters >= size:
            return f"{num_parameters / size:.3g} {unit}"
    return str(num_parameters) if num_parameters else "-"


def shown(column: Column, metric: Metric) -> str:
    """A figure with half the width of its interval: shares as per cent, others to three digits."""
    scale, digits = (100.0, ".1f") if column.is_share else (1.0, ".3g")
    half = f" ±{scale * (metric.ci[1] - metric.ci[0]) / 2:{digits}}" if metric.ci else ""
    return f"{scale * metric.value:{digits}}{half}"


def _table_cell(title: str, column: Column, cell: Cell | None) -> Node:
    texts = _texts(column, cell)
    if not texts:
        return node("td", "-", class_="none", data_label=title)
    value, *against = texts
    number = node("span", value, *(node("small", text) for text in against))
    return node("td", number, data_label=title)


def _texts(column: Column, cell: Cell | None) -> list[str]:
    """The figure, and where there is a teacher's the gap to it and the share of it kept."""
    if cell is None:
        return []
    texts = [shown(column, cell.metric)]
    if cell.gap is not None and cell.kept is not None:
        gap = f"{100 * cell.gap:+.1f}" if column.is_share else f"{cell.gap:+.3g}"
        texts.append(f"({gap.replace('-', '−')}, {100 * cell.kept:.1f}\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}kept)")
    return texts


def _broken(title: str) -> list[Node]:
    """A column's title in lines that a narrow column can hold."""
    return [node("span", part) for part in title.split(" · ")]
