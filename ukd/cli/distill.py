"""ukd-distill: a small student from a frozen teacher and unlabelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ukd.cli.command import clear_errors
from ukd.jobs.options import submittable

if TYPE_CHECKING:
    from ukd.recipe import DistillRecipe

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


def read(recipe: Path, overrides: list[str] | None) -> DistillRecipe:
    """Reads the recipe with what the command line sets anew."""
    from ukd.cli.schema import options_for
    from ukd.recipe import DistillRecipe
    from ukd.recipe_file import load

    return load(recipe, overrides or [], DistillRecipe, options_for(DistillRecipe))


def check_submission(recipe: Path, overrides: list[str] | None, check: bool, resume: bool) -> None:
    """Refuses what no job could begin with."""
    from ukd.run_folder import check_free

    check_free(read(recipe, overrides), resume)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
@clear_errors()
@submittable(check=check_submission)
def distill(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Recipe keys set here: `optimizer.lr=0.1`."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Do everything but the loop, on CPU; write nothing.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint; start if there is none.")
    ] = False,
) -> None:
    """Distil the recipe's teacher into its student, without labels.

    The run folder gets `student.safetensors` for plain timm, checkpoints, metrics.jsonl, TensorBoard events and a
    picture. Under `torchrun` or `srun` the processes share the batch. SIGTERM and SIGINT write a checkpoint and exit
    with 128 plus the signal's number; `--resume` continues to the same weights, on CPU bit for bit.
    """
    from ukd import distill as distillation
    from ukd.distributed import is_main

    parsed = read(recipe, overrides)
    if check:
        print("\n".join(distillation.check(parsed, resume=resume)))
        return
    folder = distillation.distill(parsed, resume=resume)
    if is_main():
        print(f"student: {folder / 'student.safetensors'}")


def main() -> None:
    """The command's entry point."""
    app()


if __name__ == "__main__":
    main()
