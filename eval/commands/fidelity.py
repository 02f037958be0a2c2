"""`ukd-eval fidelity`: arguments in, one call, its table. Heavy modules are imported where they are used."""

from __future__ import annotations

from typing import Annotated

import typer

from ukd.eval import options


def fidelity(
    ckpt: options.Checkpoints,
    against: Annotated[
        str | None,
        typer.Option(help="The teacher, as --ckpt names models; shown its own view.", show_default="the run's teacher"),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="Images; labels are never used.", show_default="the run's labelled_test, else its train"),
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
        extraction=options.extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache, features),
        baselines=baselines,
        output=output,
    )
    console = Console()
    run_fidelity.show_fidelity(console, measured)
    options.show_files(console, files)
