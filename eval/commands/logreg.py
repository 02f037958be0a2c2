"""`ukd-eval logreg`: arguments in, one call, its table. Heavy modules are imported where they are used."""

from __future__ import annotations

from typing import Annotated

import typer

from ukd.eval import options


def logreg(
    ckpt: options.Checkpoints,
    train: options.Train = None,
    test: options.Test = None,
    root: options.Root = "data",
    download: options.Download = False,
    preset: Annotated[
        list[str] | None, typer.Option(help="kornblith or dinov2: the grid of C; repeatable.", show_default="kornblith")
    ] = None,
    num_c: Annotated[
        int | None, typer.Option(min=1, help="Values of C in the grid.", show_default="the presets', 45")
    ] = None,
    solver: options.Solver = None,
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
    """Classify images by logistic regression on their features, its strength chosen on held-out training images."""
    from rich.console import Console

    from ukd.eval import run_logreg

    measured, files = run_logreg.run_logreg(
        ckpt,
        sources=options.sources("logreg", ckpt, train, test, root, download),
        presets=run_logreg.choose_presets(preset or ["kornblith"], num_c),
        extraction=options.extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache, features),
        baselines=baselines,
        output=output,
        solver=solver,
    )
    console = Console()
    run_logreg.show_logreg(console, measured)
    options.show_files(console, files)
