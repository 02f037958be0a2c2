"""The page of a report, put together: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from ukd.eval.report import provenance, sections
from ukd.eval.report.collect import Run
from ukd.eval.report.figures import Column, Model
from ukd.eval.report.galleries import Gallery
from ukd.eval.report.markup import document, node
from ukd.eval.report.style import STYLE


def page(
    runs: Sequence[Run],
    rows: Sequence[Model],
    columns: Sequence[Column],
    galleries: Sequence[Gallery],
    missing: Sequence[str],
) -> str:
    """Write the page.

    Args:
        runs: What is reported on.
        rows: Every model of theirs that was measured.
        columns: Figures of the first table.
        galleries: Features of images that are shown.
        missing: Why some runs have no gallery.
    """
    drawn = [sections.drawn_of(gallery, runs) for gallery in galleries]
    body = (
        sections.models(rows, columns, runs),
        sections.curves(runs),
        sections.neighbours(drawn, runs, missing),
        sections.maps(drawn),
        sections.classes(drawn),
        sections.fidelity(drawn, rows, runs),
        provenance.protocols(runs),
        provenance.origins(runs),
    )
    title = f"ukd report: {', '.join(run.folder.name for run in runs)}"
    return document(title, STYLE, node("h1", title), *(section for section in body if section is not None))
