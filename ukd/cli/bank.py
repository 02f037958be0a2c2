"""ukd-bank: the teacher's features of all training images, extracted before the runs that use them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ukd.cli.command import clear_errors

if TYPE_CHECKING:
    from ukd.recipe import DistillRecipe

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


Recipe = Annotated[Path, typer.Argument(help="A distillation's recipe, with `bank: FOLDER`.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys set here: `bank=banks/photos`."),
]


@app.callback(context_settings={"help_option_names": ["-h", "--help"]})
def bank() -> None:
    """Keep what a teacher makes of the training images."""


@app.command()
def build(recipe: Recipe, overrides: Overrides = None) -> None:
    """Extract what a recipe's `bank` holds, on all processes; a run of that recipe then finds it.

    What is there already is checked and kept, so that the same command continues after a kill. A bank of another
    teacher, other images or other views is refused with what differs.
    """
    with clear_errors():
        from ukd.bank_commands import build_bank

        _print(build_bank(_read(recipe, overrides)))


@app.command()
def clusters(
    recipe: Recipe,
    overrides: Overrides = None,
    num: Annotated[int, typer.Option(min=1, help="How many clusters.")] = 100,
) -> None:
    """Sort the training images into clusters of what the teacher holds to be alike, and show the largest.

    Spherical k-means on the bank, which is built if it is not there; the same images, bank and seed give the same
    clusters. Which image is in which is written beside the bank, most typical images first.
    """
    with clear_errors():
        from ukd.bank_commands import cluster_bank

        _print(cluster_bank(_read(recipe, overrides), num))


@app.command()
def duplicates(
    recipe: Recipe,
    overrides: Overrides = None,
    cosine: Annotated[float, typer.Option(min=0, max=1, help="Pairs of a higher cosine similarity count.")] = 0.98,
) -> None:
    """List pairs of training images that are the same, or nearly so, to the teacher.

    Exact copies are listed with the first of them. What is listed at some cosine is what `neighbours.max_cosine` of
    the same value leaves out.
    """
    with clear_errors():
        from ukd.bank_commands import list_duplicates

        _print(list_duplicates(_read(recipe, overrides), cosine))


def _read(path: Path, overrides: list[str] | None) -> DistillRecipe:
    from ukd.cli.schema import options_for
    from ukd.recipe import DistillRecipe
    from ukd.recipe_file import load

    return load(path, overrides or [], DistillRecipe, options_for(DistillRecipe))


def _print(lines: list[str]) -> None:
    from ukd.distributed import is_main

    if is_main():
        print("\n".join(lines))


def main() -> None:
    """The command's entry point."""
    app()


if __name__ == "__main__":
    main()
