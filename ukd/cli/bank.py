"""ukd-bank: the teacher's features of all training images, extracted before the runs that use them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ukd.cli.command import clear_errors

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.callback(context_settings={"help_option_names": ["-h", "--help"]})
def bank() -> None:
    """Keep what a teacher makes of the training images."""


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="A distillation's recipe, with `bank: FOLDER`.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys set here: `bank=banks/photos`."),
    ] = None,
) -> None:
    """Extract what a recipe's `bank` holds, on all processes; a run of that recipe then finds it.

    What is there already is checked and kept, so that the same command continues after a kill. A bank of another
    teacher, other images or other views is refused with what differs.
    """
    with clear_errors():
        from ukd.cli.schema import options_for
        from ukd.distill import build_bank
        from ukd.distributed import is_main
        from ukd.recipe import DistillRecipe
        from ukd.recipe_file import load

        lines = build_bank(load(recipe, overrides or [], DistillRecipe, options_for(DistillRecipe)))
        if is_main():
            print("\n".join(lines))


def main() -> None:
    """The command's entry point."""
    app()


if __name__ == "__main__":
    main()
