"""`ukd-eval knn`: arguments in, one call, its table. Heavy modules are imported where they are used."""

from __future__ import annotations

from typing import Annotated

import typer

from ukd.eval import options


def knn(
    ckpt: options.Checkpoints,
    train: options.Train = None,
    test: options.Test = None,
    root: options.Root = "data",
    download: options.Download = False,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            help="dino or lightly (weighted vote), ukd (majority) or vissl (weighted, features not normalised); "
            "repeatable.",
            show_default="dino and ukd",
        ),
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option(min=1, help="Neighbours; repeatable.", show_default="the presets'")
    ] = None,
    temp: Annotated[
        float | None, typer.Option(min=1e-6, help="Temperature of a weighted vote.", show_default="the preset's")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Draw this many images of each class for the bank.", show_default="all")
    ] = None,
    tries: Annotated[
        int | None, typer.Option(min=1, help="Draws, with seeds 0, 1, ...; needs --shots.", show_default="5")
    ] = None,
    bank_ckpt: Annotated[
        str | None,
        typer.Option(
            help="Whose features the bank holds: `teacher`, the run's own, or as --ckpt; of the same width, or "
            "where the run's projector leads.",
            show_default="each model's own",
        ),
    ] = None,
    size_px: options.SizePx = None,
    crop_pct: options.CropPct = None,
    features: options.FeatureKind = "pooled",
    device: options.Device = "auto",
    batch_size: options.BatchSize = 256,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
    no_cache: options.NoCache = False,
    output: options.Output = None,
    baselines: options.Baselines = True,
) -> None:
    """Classify images by their nearest neighbours: weighted vote (DINO) and majority (distillation papers)."""
    from rich.console import Console

    from ukd.eval import run_knn

    measured, files = run_knn.run_knn(
        ckpt,
        sources=options.sources("knn", ckpt, train, test, root, download),
        presets=run_knn.choose_presets(preset or ["dino", "ukd"], k or [], temp),
        few=run_knn.few_shots(shots, tries),
        bank_checkpoint=bank_ckpt,
        extraction=options.extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache, features),
        baselines=baselines,
        output=output,
    )
    console = Console()
    run_knn.show_knn(console, measured)
    options.show_files(console, files)
