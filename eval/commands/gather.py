"""`ukd-eval gather`: arguments in, one call, its tables. Heavy modules are imported where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ukd.eval import options


def gather(
    paths: Annotated[list[Path], typer.Argument(help="Run folders, or result files.", show_default=False)],
    output: Annotated[Path | None, typer.Option(help="One file for all of the results.", show_default="none")] = None,
) -> None:
    """Show results that were measured apart, for example by jobs, in one table for each protocol."""
    from rich.console import Console

    from ukd.eval.gathering import find_results, read_results, show_results
    from ukd.eval.results import write_results

    measured = [each for file in find_results(paths) for each in read_results(file)]
    console = Console()
    show_results(console, measured)
    if output:
        write_results(output, [each.figures for each in measured])
        options.show_files(console, [output])
