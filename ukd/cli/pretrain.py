"""ukd-pretrain: a self-supervised teacher from images alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ukd.cli.command import clear_errors

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
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
    with clear_errors():
        from ukd.cli.schema import options_for
        from ukd.distributed import is_main
        from ukd.pretrain import pretrain as run
        from ukd.recipe import PretrainRecipe
        from ukd.recipe_file import load

        folder = run(load(recipe, overrides or [], PretrainRecipe, options_for(PretrainRecipe)), resume=resume)
        if is_main():
            print(f"teacher: {folder / 'teacher.safetensors'}")


def main() -> None:
    """The command's entry point."""
    app()


if __name__ == "__main__":
    main()
