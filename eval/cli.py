"""`ukd-eval TASK`: arguments in, one call, exit code out."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from ukd.errors import UserError
from ukd.eval.commands.extract import extract
from ukd.eval.commands.fidelity import fidelity
from ukd.eval.commands.gather import gather
from ukd.eval.commands.knn import knn
from ukd.eval.commands.linear import linear
from ukd.eval.commands.logreg import logreg
from ukd.eval.commands.report import report
from ukd.eval.commands.retrieval import kinds
from ukd.eval.commands.robust import robust
from ukd.eval.commands.transfer import transfer
from ukd.eval.jobs import as_job
from ukd.messages import set_up_logging

COMMANDS: tuple[Callable[..., None], ...] = (extract, knn, linear, logreg, transfer, robust, fidelity)
SHARING = {extract, linear}
"""Those whose work several processes share."""
TOOLS: tuple[Callable[..., None], ...] = (gather, report)
"""Those that measure nothing, and are no jobs."""
app = typer.Typer(help="Evaluate backbones by the field's own protocols.", no_args_is_help=True, add_completion=False)
for command in COMMANDS:
    app.command()(as_job(command, many_processes=command in SHARING, has_results=command is not extract))
for command in TOOLS:
    app.command()(command)
app.add_typer(kinds, name="retrieval")


def main() -> None:
    """Run `ukd-eval`; a mistake that the user can mend ends in its message and exit code 2."""
    set_up_logging()
    try:
        app()
    except UserError as error:
        print(f"ukd-eval: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
