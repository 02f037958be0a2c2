"""ukd-teacher: what a file of weights is, before a run is built on it."""

from __future__ import annotations

from typing import Annotated

import typer

from ukd.cli.command import clear_errors

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.callback(context_settings={"help_option_names": ["-h", "--help"]})
def teacher() -> None:
    """Look at teachers from anywhere."""


@app.command()
def inspect(
    file: Annotated[
        str, typer.Argument(help="A file of weights, a run folder or a transformers directory.", show_default=False)
    ],
    format: Annotated[str | None, typer.Option(help="Read it as this format; found if left out.")] = None,
) -> None:
    """Say which format a file is, of which architecture by its shapes, and how a recipe names it.

    Nothing is built and no code in the file is run; a file that is not safe to load is refused with the reason.
    """
    with clear_errors():
        from ukd.formats.inspection import describe

        for name, said in describe(file, format).items():
            print(f"{name:<11}{said}")


def main() -> None:
    """The command's entry point."""
    app()


if __name__ == "__main__":
    main()
