"""`ukd-eval report`: arguments in, one call, the files it wrote. Heavy modules are imported where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ukd.eval import options


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, shown side by side.", show_default=False)],
    device: options.Device = "auto",
    batch_size: options.BatchSize = 256,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
    no_cache: options.NoCache = False,
    output: Annotated[
        Path | None, typer.Option(help="The page.", show_default="RUN/report.html; of several runs, report.html")
    ] = None,
) -> None:
    """Write one page on runs: table, learning curves, neighbours, maps, classes, fidelity; Markdown and CSV beside."""
    from rich.console import Console

    from ukd.eval.run_report import run_report

    extraction = options.extraction(device, None, None, batch_size, num_workers, cache, no_cache)
    options.show_files(Console(), run_report(runs, extraction=extraction, output=output))
