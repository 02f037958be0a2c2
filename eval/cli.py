"""`ukd-eval TASK`: arguments in, one call, exit code out. Heavy modules are imported where they are used."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ukd.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ukd.eval.extraction import Extraction
    from ukd.eval.labelled import Sources

app = typer.Typer(help="Evaluate backbones by the field's own protocols.", no_args_is_help=True, add_completion=False)

Checkpoints = Annotated[
    list[str], typer.Option(help="A run folder, a .safetensors with its .json, or timm:NAME; repeatable.")
]
Train = Annotated[
    str | None, typer.Option(help="Labelled images to learn from.", show_default="the run's labelled_train")
]
Test = Annotated[str | None, typer.Option(help="Labelled images to classify.", show_default="the run's labelled_test")]
Root = Annotated[str, typer.Option(help="Folder of torchvision data sets.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch a missing torchvision data set.")]
SizePx = Annotated[int | None, typer.Option(min=1, help="Side of the view.", show_default="the run's or model's")]
CropPct = Annotated[
    float | None, typer.Option(min=0.01, max=1, help="Centre crop.", show_default="the run's or model's")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in one forward pass.")]
NumWorkers = Annotated[int | None, typer.Option(min=0, help="Loader processes.", show_default="cores, at most 8")]
Cache = Annotated[Path | None, typer.Option(help="Folder of cached features.", show_default="~/.cache/ukd/features")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write cached features.")]
Output = Annotated[Path | None, typer.Option(help="Result file.", show_default="RUN/results/TASK.json")]
Baselines = Annotated[bool, typer.Option(help="Show a run's raw pixels, untrained self and teacher.")]


@app.command()
def knn(
    ckpt: Checkpoints,
    train: Train = None,
    test: Test = None,
    root: Root = "data",
    download: Download = False,
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
    size_px: SizePx = None,
    crop_pct: CropPct = None,
    device: Device = "auto",
    batch_size: BatchSize = 256,
    num_workers: NumWorkers = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    output: Output = None,
    baselines: Baselines = True,
) -> None:
    """Classify images by their nearest neighbours: weighted vote (DINO) and majority (distillation papers)."""
    from rich.console import Console

    from ukd.eval import run_knn

    measured, files = run_knn.run_knn(
        ckpt,
        sources=_sources("knn", ckpt, train, test, root, download),
        presets=run_knn.choose_presets(preset or ["dino", "ukd"], k or [], temp),
        extraction=_extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache),
        baselines=baselines,
        output=output,
    )
    console = Console()
    run_knn.show_knn(console, measured)
    _show_files(console, files)


@app.command()
def logreg(
    ckpt: Checkpoints,
    train: Train = None,
    test: Test = None,
    root: Root = "data",
    download: Download = False,
    preset: Annotated[
        list[str] | None, typer.Option(help="kornblith or dinov2: the grid of C; repeatable.", show_default="kornblith")
    ] = None,
    num_c: Annotated[
        int | None, typer.Option(min=1, help="Values of C in the grid.", show_default="the presets', 45")
    ] = None,
    size_px: SizePx = None,
    crop_pct: CropPct = None,
    device: Device = "auto",
    batch_size: BatchSize = 256,
    num_workers: NumWorkers = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    output: Output = None,
    baselines: Annotated[bool, typer.Option(help="Show a run's untrained self and teacher.")] = True,
) -> None:
    """Classify images by logistic regression on their features, its strength chosen on held-out training images."""
    from rich.console import Console

    from ukd.eval import run_logreg

    measured, files = run_logreg.run_logreg(
        ckpt,
        sources=_sources("logreg", ckpt, train, test, root, download),
        presets=run_logreg.choose_presets(preset or ["kornblith"], num_c),
        extraction=_extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache),
        baselines=baselines,
        output=output,
    )
    console = Console()
    run_logreg.show_logreg(console, measured)
    _show_files(console, files)


@app.command()
def fidelity(
    ckpt: Checkpoints,
    against: Annotated[
        str | None,
        typer.Option(help="The teacher, as --ckpt names models; shown its own view.", show_default="the run's teacher"),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="Images; labels are never used.", show_default="the run's labelled_test, else its train"),
    ] = None,
    root: Root = "data",
    download: Download = False,
    size_px: SizePx = None,
    crop_pct: CropPct = None,
    device: Device = "auto",
    batch_size: BatchSize = 256,
    num_workers: NumWorkers = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    output: Output = None,
    baselines: Annotated[bool, typer.Option(help="Compare a run's raw pixels and untrained self too.")] = True,
) -> None:
    """Compare a student's features with its teacher's, without labels: neighbours, CKA, ranks, lengths."""
    from rich.console import Console

    from ukd.eval import run_fidelity
    from ukd.eval.fidelity import PRESETS

    measured, files = run_fidelity.run_fidelity(
        ckpt,
        source=run_fidelity.Source(images, root, download) if images else run_fidelity.source_of(ckpt),
        against=against,
        preset=PRESETS["ukd"],
        extraction=_extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache),
        baselines=baselines,
        output=output,
    )
    console = Console()
    run_fidelity.show_fidelity(console, measured)
    _show_files(console, files)


def _sources(task: str, ckpt: list[str], train: str | None, test: str | None, root: str, download: bool) -> Sources:
    from ukd.eval.labelled import Sources, sources_of

    if (train is None) != (test is None):
        raise UserError(f"{task}: --train and --test go together")
    return Sources(train, test, root, download) if train and test else sources_of(ckpt, task)


def _extraction(
    device: str,
    size_px: int | None,
    crop_pct: float | None,
    batch_size: int,
    num_workers: int | None,
    cache: Path | None,
    no_cache: bool,
) -> Extraction:
    from ukd.distributed import local_device
    from ukd.eval.extraction import Extraction
    from ukd.eval.features import default_cache

    kept = None if no_cache else cache or default_cache()
    return Extraction(local_device(device), size_px, crop_pct, batch_size, num_workers, kept)


def _show_files(console: Console, files: Iterable[Path]) -> None:
    for path in files:
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Run `ukd-eval`; a mistake that the user can mend ends in its message and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"ukd-eval: {error}", file=sys.stderr)
        sys.exit(2)
