"""`ukd-eval robust`: arguments in, one call, its tables. Heavy modules are imported where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ukd.eval import options


def robust(
    ckpt: options.Checkpoints,
    train: options.Train = None,
    test: options.Test = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=IMAGES: other images of all or some of the classes; repeatable.", metavar="NAME=IMAGES"
        ),
    ] = None,
    real: Annotated[
        Path | None, typer.Option(help="JSON: the list of right labels of each test image, by file name.")
    ] = None,
    corruption: Annotated[
        list[str] | None, typer.Option(help="A corruption of the test images, or all; repeatable.")
    ] = None,
    severity: Annotated[
        list[int] | None, typer.Option(min=1, max=5, help="Severity; repeatable.", show_default="1 to 5")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="What mCE is relative to: a checkpoint, or alexnet.", show_default="the run's teacher"),
    ] = None,
    head: Annotated[str, typer.Option(help="logreg, or knn: 20 neighbours' weighted vote.")] = "logreg",
    num_c: Annotated[
        int | None, typer.Option(min=1, help="Values of C in the grid of logreg.", show_default="45")
    ] = None,
    root: options.Root = "data",
    download: options.Download = False,
    size_px: options.SizePx = None,
    crop_pct: options.CropPct = None,
    features: options.FeatureKind = "pooled",
    device: options.Device = "auto",
    batch_size: options.BatchSize = 256,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
    no_cache: options.NoCache = False,
    output: options.Output = None,
    baselines: Annotated[bool, typer.Option(help="Show a run's untrained self and teacher.")] = True,
) -> None:
    """Ask one classifier, trained once, about shifted and corrupted images, and how far to believe it."""
    from rich.console import Console

    from ukd.eval import run_robust
    from ukd.eval.robust_sets import open_sets
    from ukd.eval.robust_tables import show_robust

    preset = run_robust.choose_preset(head, corruption or [], severity or [], num_c)
    measured, files = run_robust.run_robust(
        open_sets(options.sources("robust", ckpt, train, test, root, download), shift or [], real),
        ckpt,
        preset,
        reference=reference,
        extraction=options.extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache, features),
        baselines=baselines,
        output=output,
    )
    console = Console()
    show_robust(console, measured)
    options.show_files(console, files)
