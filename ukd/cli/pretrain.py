"""ukd-pretrain: a self-supervised teacher from images alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ukd.cli.command import clear_errors
from ukd.jobs.options import submittable

if TYPE_CHECKING:
    from ukd.recipe import PretrainRecipe

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


def read(recipe: Path, overrides: list[str] | None) -> PretrainRecipe:
    """Reads the recipe with what the command line sets anew."""
    from ukd.cli.schema import options_for
    from ukd.recipe import PretrainRecipe
    from ukd.recipe_file import load

    return load(recipe, overrides or [], PretrainRecipe, options_for(PretrainRecipe))


def check_submission(recipe: Path, overrides: list[str] | None, resume: bool) -> None:
    """Refuses what no job could begin with."""
    from ukd.run_folder import check_free

    check_free(read(recipe, overrides), resume)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
@clear_errors()
@submittable(check=check_submission)
def pretrain(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys set here: `optimizer.lr=0.1`."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint; start if there is none.")
    ] = False,
) -> None:
    """Pretrain a teacher without labels; its run folder is then a teacher: `teacher: {weights: runs/NAME}`."""
    from ukd.distributed import is_main
    from ukd.pretrain import pretrain as run

    folder = run(read(recipe, overrides), resume=resume)
    if is_main():
        print(f"teacher: {folder / 'teacher.safetensors'}")


def main() -> None:
    """The command's entry point."""
    app()


if __name__ == "__main__":
    main()
