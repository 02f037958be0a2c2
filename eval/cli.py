"""`ukd-eval TASK`: arguments in, one call, exit code out."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from ukd.errors import UserError
from ukd.eval.commands.fidelity import fidelity
from ukd.eval.commands.knn import knn
from ukd.eval.commands.logreg import logreg

COMMANDS: tuple[Callable[..., None], ...] = (knn, logreg, fidelity)
app = typer.Typer(help="Evaluate backbones by the field's own protocols.", no_args_is_help=True, add_completion=False)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run `ukd-eval`; a mistake that the user can mend ends in its message and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"ukd-eval: {error}", file=sys.stderr)
        sys.exit(2)
