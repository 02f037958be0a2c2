"""`ukd-eval linear`: arguments in, one call, its table. Heavy modules are imported where they are used."""

from __future__ import annotations

from typing import Annotated

import typer

from ukd.eval import options


def linear(
    ckpt: options.Checkpoints,
    train: options.Train = None,
    test: options.Test = None,
    root: options.Root = "data",
    download: options.Download = False,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            help="cached-sgd, moco, mocov3, dino, dinov2 or simreg; repeatable.", show_default="cached-sgd, fast"
        ),
    ] = None,
    cached: Annotated[
        bool,
        typer.Option("--cached", help="Train on features of the evaluation view: one pass in place of one an epoch."),
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images.", show_default="the preset's")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in all, in place of whole passes.", show_default="the preset's")
    ] = None,
    global_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images in a step of training, over all processes.", show_default="the preset's"),
    ] = None,
    lr: Annotated[
        list[float] | None,
        typer.Option(min=0, help="Learning rate, before scaling; repeatable.", show_default="the preset's"),
    ] = None,
    features: options.OtherKind = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what was interrupted, from its last epoch; else begin anew.")
    ] = False,
    size_px: options.SizePx = None,
    crop_pct: options.CropPct = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 256,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
    no_cache: options.NoCache = False,
    output: options.Output = None,
    baselines: Annotated[bool, typer.Option(help="Probe a run's untrained self and teacher too.")] = True,
) -> None:
    """Train linear heads on frozen features, as the published probes do; under torchrun, on many processes."""
    from rich.console import Console

    from ukd.distributed import is_main, session
    from ukd.eval import run_linear
    from ukd.eval.linear.presets import choose_presets

    if features:
        options.check_kind(features)
    presets = choose_presets(
        preset or ["cached-sgd"],
        cached=cached,
        epochs=epochs,
        steps=steps,
        batch_size=global_batch,
        lrs=lr or [],
        features=features,
    )
    with session(device):
        measured, files = run_linear.run_linear(
            ckpt,
            sources=options.sources("linear", ckpt, train, test, root, download),
            presets=presets,
            extraction=options.extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache),
            baselines=baselines,
            output=output,
            resume=resume,
        )
        if is_main():
            console = Console()
            run_linear.show_linear(console, measured)
            options.show_files(console, files)
