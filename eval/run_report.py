"""`ukd-eval report`: runs in, one page and its tables out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ukd.errors import UserError
from ukd.eval.extraction import Extraction
from ukd.eval.report.collect import read_run_folder
from ukd.eval.report.figures import headlines, models_of
from ukd.eval.report.galleries import open_galleries
from ukd.eval.report.page import page
from ukd.eval.report.tables import csv_table, markdown_table
from ukd.files import write_atomically


def run_report(folders: Sequence[Path], *, extraction: Extraction, output: Path | None) -> list[Path]:
    """Report on runs side by side.

    Args:
        folders: Their folders.
        extraction: How the features of the pictures are extracted.
        output: The page; None is `report.html` in the folder of a single run, else in the current one. Tables are
            written beside it.

    Returns:
        The files written: page, Markdown, CSV.

    Raises:
        UserError: A folder is no run's, none has anything to show, or the files cannot be written.
    """
    runs = [read_run_folder(folder) for folder in dict.fromkeys(folders)]
    if all(run.is_empty for run in runs):
        raise UserError(
            f"report: {', '.join(run.name for run in runs)}: nothing to show, neither metrics.jsonl nor results; train "
            f"first, or evaluate what is there, for example ukd-eval knn --ckpt {runs[0].name}"
        )
    rows = models_of(runs)
    columns = headlines(rows)
    galleries, missing = open_galleries([run for run in runs if run.exported], extraction)
    target = output or (runs[0].folder if len(runs) == 1 else Path()) / "report.html"
    texts = {
        target: page(runs, rows, columns, galleries, missing),
        target.with_suffix(".md"): markdown_table(rows, columns),
        target.with_suffix(".csv"): csv_table(rows),
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"report: cannot write {error.filename or target}: {error.strerror}") from None
    return list(texts)
