"""`ukd-eval TASK`: arguments in, one call, exit code out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ukd.errors import UserError

app = typer.Typer(help="Evaluate backbones by the field's own protocols.", no_args_is_help=True, add_completion=False)


@app.callback()
def _tasks() -> None:
    """Keep `knn` a word of its own while it is the only task."""


@app.command()
def knn(
    ckpt: Annotated[
        list[str], typer.Option(help="A run folder, a .safetensors with its .json, or timm:NAME; repeatable.")
    ],
    train: Annotated[
        str | None, typer.Option(help="Labelled images that vote.", show_default="the run's labelled_train")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Labelled images to classify.", show_default="the run's labelled_test")
    ] = None,
    root: Annotated[str, typer.Option(help="Folder of torchvision data sets.")] = "data",
    download: Annotated[bool, typer.Option("--download", help="Fetch a missing torchvision data set.")] = False,
    preset: Annotated[
        list[str] | None,
        typer.Option(help="dino (weighted vote) or ukd (majority); repeatable.", show_default="both"),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option(min=1, help="Neighbours; repeatable.", show_default="the presets'")
    ] = None,
    temp: Annotated[
        float | None, typer.Option(min=1e-6, help="Temperature of the weighted vote.", show_default="0.07")
    ] = None,
    size_px: Annotated[
        int | None, typer.Option(min=1, help="Side of the view.", show_default="the run's or model's")
    ] = None,
    crop_pct: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="Centre crop.", show_default="the run's or model's"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 256,
    num_workers: Annotated[
        int | None, typer.Option(min=0, help="Loader processes.", show_default="cores, at most 8")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of cached features.", show_default="~/.cache/ukd/features")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write cached features.")] = False,
    output: Annotated[Path | None, typer.Option(help="Result file.", show_default="RUN/results/knn.json")] = None,
    baselines: Annotated[bool, typer.Option(help="Show a run's raw pixels, untrained self and teacher.")] = True,
) -> None:
    """Classify images by their nearest neighbours: weighted vote (DINO) and majority (distillation papers)."""
    from rich.console import Console

    from ukd.distributed import local_device
    from ukd.eval import run_knn, tables
    from ukd.eval.features import default_cache
    from ukd.eval.labelled import Sources, sources_of

    if (train is None) != (test is None):
        raise UserError("knn: --train and --test go together")
    cache = None if no_cache else cache or default_cache()
    measured, files = run_knn.run_knn(
        ckpt,
        sources=Sources(train, test, root, download) if train and test else sources_of(ckpt, "knn"),
        presets=run_knn.choose_presets(preset or ["dino", "ukd"], k or [], temp),
        extraction=run_knn.Extraction(local_device(device), size_px, crop_pct, batch_size, num_workers, cache),
        baselines=baselines,
        output=output,
    )
    console = Console()
    tables.show_knn(console, measured)
    for path in files:
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run `ukd-eval`; a mistake that the user can mend ends in its message and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"ukd-eval: {error}", file=sys.stderr)
        sys.exit(2)
