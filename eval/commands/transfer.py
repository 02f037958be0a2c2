"""`ukd-eval transfer`: arguments in, one call, its table. Heavy modules are imported where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ukd.eval import options


def transfer(
    ckpt: options.Checkpoints,
    suite: Annotated[str, typer.Option(help="kornblith, or a YAML file like it.")] = "kornblith",
    root: Annotated[Path, typer.Option(help="Folder of the sets, as torchvision extracts them.")] = Path("data"),
    download: Annotated[bool, typer.Option("--download", help="Fetch missing sets that torchvision can.")] = False,
    num_c: Annotated[
        int | None, typer.Option(min=1, help="Values of C in the grid.", show_default="the protocol's, 45")
    ] = None,
    solver: options.Solver = None,
    size_px: options.SizePx = None,
    crop_pct: Annotated[
        float, typer.Option(min=0.01, max=1, help="Centre crop; 1, all of the shorter side, is the protocol's.")
    ] = 1.0,
    features: options.FeatureKind = "pooled",
    device: options.Device = "auto",
    batch_size: options.BatchSize = 256,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
    no_cache: options.NoCache = False,
    output: options.Output = None,
    baselines: Annotated[bool, typer.Option(help="Show a run's untrained self and teacher.")] = True,
) -> None:
    """Classify one data set after another by logistic regression on frozen features, each by its own metric."""
    from rich.console import Console

    from ukd.eval import run_transfer
    from ukd.eval.transfer_suite import load_suite

    there = run_transfer.open_suite(load_suite(suite), root, download)
    measured, files = run_transfer.run_transfer(
        there,
        ckpt,
        num_c=num_c,
        extraction=options.extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache, features),
        baselines=baselines,
        output=output,
        solver=solver,
    )
    console = Console()
    run_transfer.show_transfer(console, there, measured)
    options.show_files(console, files)
