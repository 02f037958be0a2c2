"""`ukd-eval extract`: arguments in, one call, its table. Heavy modules are imported where they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ukd.eval import options


def extract(
    ckpt: options.Checkpoints,
    images: Annotated[str, typer.Option(help="Images; a folder's class folders are its labels.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="Each checkpoint gets a folder of its name in it.", show_default="the cache that every task reads"
        ),
    ] = None,
    root: options.Root = "data",
    download: options.Download = False,
    features: options.FeatureKind = "pooled",
    view: Annotated[
        str | None,
        typer.Option(help="dino (256 to 224 px) or kornblith (224 px).", show_default="the run's or model's"),
    ] = None,
    size_px: options.SizePx = None,
    crop_pct: options.CropPct = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 256,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
) -> None:
    """Store the features of images, to be read by every task or by plain safetensors and numpy.

    Under torchrun or srun all processes share the work; the rows are those of
    one process. The same command continues what was interrupted. Without us:

    \b
    files = sorted(Path(FOLDER).glob("rows-*.safetensors"))
    rows = np.concatenate([load_file(file)["features"] for file in files])
    images = json.loads(Path(FOLDER, "images.json").read_text())

    load_file is that of safetensors.numpy. Rows are in the order of "ids" in
    images.json, and of "labels" where the images have any.
    """  # noqa: D301 \b keeps the lines of code apart.
    from rich.console import Console

    from ukd.distributed import is_main, session
    from ukd.eval import run_extract

    view_px, view_crop = run_extract.view_of(view, size_px, crop_pct)
    with session(device):
        measured = run_extract.run_extract(
            ckpt,
            images=run_extract.open_source(images, root, download),
            extraction=options.extraction(device, view_px, view_crop, batch_size, num_workers, cache, False, features),
            output=output,
        )
        if is_main():
            console = Console()
            run_extract.show_extract(console, measured)
            options.show_files(console, (each.figures.store.folder for each in measured))
