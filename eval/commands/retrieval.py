"""`ukd-eval retrieval KIND`: arguments in, one call, its table. Heavy modules are imported where they are used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ukd.eval import options
from ukd.eval.jobs import as_job

if TYPE_CHECKING:
    from ukd.eval.retrieval.benchmarks import Benchmark

Against = Annotated[
    str | None,
    typer.Option(
        help="The model that describes the database, as --ckpt names models, which then describe the queries alone; "
        "a student whose run has a projector towards it does so through that.",
        show_default="each its own",
    ),
]
Whiten = Annotated[
    str | None, typer.Option(help="Images, other than those evaluated, to fit PCA whitening on.", show_default="none")
]
Queries = Annotated[
    str | None, typer.Option(help="Labelled images to find others for.", show_default="the run's labelled_test")
]
Folder = Annotated[Path, typer.Option(help="Folder of the benchmark, as it is published.")]
ImagePx = Annotated[int | None, typer.Option(min=16, help="Longer side of the images.", show_default="the preset's")]
K = Annotated[list[int] | None, typer.Option(min=1, help="Length of a list; repeatable.", show_default="the preset's")]


def retrieval_class(
    ckpt: options.Checkpoints,
    queries: Queries = None,
    database: Annotated[
        str | None, typer.Option(help="Labelled images to find.", show_default="the queries: each finds the others")
    ] = None,
    against: Against = None,
    whiten: Whiten = None,
    preset: Annotated[str, typer.Option(help="R@k of cub (1 2 4 8), sop (1 to 1000) or inshop (1 to 30).")] = "cub",
    k: K = None,
    root: options.Root = "data",
    download: options.Download = False,
    features: options.FeatureKind = "pooled",
    size_px: options.SizePx = None,
    crop_pct: options.CropPct = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 256,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
    no_cache: options.NoCache = False,
    output: options.Output = None,
    baselines: options.Baselines = True,
) -> None:
    """Find images of the same class: R@k, R-precision, MAP@R, leave-one-out or from a database."""
    from ukd.eval.retrieval import benchmarks, classes, sources

    sets = sources.among_classes(ckpt, queries, database, root, download)
    chosen = sources.choose_preset(classes.PRESETS, preset, ks=tuple(sorted(set(k or ()))))
    extraction = options.extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache, features)
    _run(benchmarks.by_class(*sets, chosen, extraction), ckpt, against, whiten, root, download, baselines, output)


def retrieval_hash(
    ckpt: options.Checkpoints,
    queries: Queries = None,
    database: Annotated[
        str | None, typer.Option(help="Labelled images to find.", show_default="the run's labelled_train")
    ] = None,
    against: Against = None,
    whiten: Whiten = None,
    preset: Annotated[str, typer.Option(help="hashing (k=1000) or hashing-5000.")] = "hashing",
    k: K = None,
    root: options.Root = "data",
    download: options.Download = False,
    features: options.FeatureKind = "pooled",
    size_px: options.SizePx = None,
    crop_pct: options.CropPct = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 256,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
    no_cache: options.NoCache = False,
    output: options.Output = None,
    baselines: options.Baselines = True,
) -> None:
    """Find images of the same class by Hamming distance of codes; three denominators.

    Codes are those of the hash head that the run trained (objective hash), or
    else the signs of features, a bit a dimension.
    """
    from ukd.eval.retrieval import benchmarks, hashing, sources

    sets = sources.between_sets("hash", ckpt, queries, database, root, download)
    chosen = sources.choose_preset(hashing.PRESETS, preset, ks=tuple(sorted(set(k or ()))))
    extraction = options.extraction(device, size_px, crop_pct, batch_size, num_workers, cache, no_cache, features)
    _run(benchmarks.by_hash(*sets, chosen, extraction), ckpt, against, whiten, root, download, baselines, output)


def _landmarks(kind: str, city: str) -> Callable[..., None]:
    def command(
        ckpt: options.Checkpoints,
        data: Folder,
        against: Against = None,
        whiten: Whiten = None,
        preset: Annotated[str, typer.Option(help="dino or cirtorch: sizes and scales of the images.")] = "dino",
        image_px: ImagePx = None,
        device: options.Device = "auto",
        num_workers: options.NumWorkers = None,
        cache: options.Cache = None,
        no_cache: options.NoCache = False,
        output: options.Output = None,
        baselines: options.Baselines = True,
    ) -> None:
        from ukd.eval.retrieval import benchmarks, landmarks, sources

        chosen = sources.choose_preset(landmarks.PRESETS[kind], preset, image_px=image_px)
        extraction = options.extraction(device, None, None, 1, num_workers, cache, no_cache)
        benchmark = benchmarks.by_landmark(kind, landmarks.open_landmarks(data, kind), chosen, extraction)
        _run(benchmark, ckpt, against, whiten, "data", False, baselines, output)

    command.__name__ = f"retrieval_{kind}"
    command.__doc__ = f"Find landmarks on Revisited {city}, in three difficulties, with queries cropped and whole."
    return command


def retrieval_copydays(
    ckpt: options.Checkpoints,
    data: Folder,
    distractors: Annotated[
        str | None, typer.Option(help="Images to hide the originals among.", show_default="none")
    ] = None,
    against: Against = None,
    whiten: Whiten = None,
    preset: Annotated[str, typer.Option(help="dino (pooled feature and GeM of tokens) or pooled.")] = "dino",
    image_px: ImagePx = None,
    root: options.Root = "data",
    download: options.Download = False,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 64,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
    no_cache: options.NoCache = False,
    output: options.Output = None,
    baselines: options.Baselines = True,
) -> None:
    """Find the originals of edited, compressed and cropped copies on Copydays."""
    from ukd.data import open_images
    from ukd.eval.retrieval import benchmarks, copydays, sources

    chosen = sources.choose_preset(copydays.PRESETS, preset, image_px=image_px)
    hidden = open_images(distractors, root=Path(root), download=download) if distractors else None
    extraction = options.extraction(device, None, None, batch_size, num_workers, cache, no_cache)
    benchmark = benchmarks.by_copy(copydays.open_copydays(data), hidden, chosen, extraction)
    _run(benchmark, ckpt, against, whiten, root, download, baselines, output)


def retrieval_forb(
    ckpt: options.Checkpoints,
    data: Folder,
    against: Against = None,
    whiten: Whiten = None,
    preset: Annotated[str, typer.Option(help="forb (the benchmark's scales) or one-scale.")] = "forb",
    features: options.FeatureKind = "pooled",
    size_px: options.SizePx = None,
    device: options.Device = "auto",
    batch_size: options.BatchSize = 256,
    num_workers: options.NumWorkers = None,
    cache: options.Cache = None,
    no_cache: options.NoCache = False,
    output: options.Output = None,
    baselines: options.Baselines = True,
) -> None:
    """Find flat objects, or say that they are not there, on FORB."""
    from ukd.eval.retrieval import benchmarks, forb, sources

    chosen = sources.choose_preset(forb.PRESETS, preset)
    extraction = options.extraction(device, size_px, None, batch_size, num_workers, cache, no_cache, features)
    benchmark = benchmarks.by_object(forb.open_forb(data), chosen, extraction)
    _run(benchmark, ckpt, against, whiten, "data", False, baselines, output)


kinds = typer.Typer(help="Find images: by class, by code, landmarks, copies, flat objects.", no_args_is_help=True)
KINDS: dict[str, Callable[..., None]] = {
    "class": retrieval_class,
    "hash": retrieval_hash,
    "roxford": _landmarks("roxford", "Oxford"),
    "rparis": _landmarks("rparis", "Paris"),
    "copydays": retrieval_copydays,
    "forb": retrieval_forb,
}
for name, kind in KINDS.items():
    kinds.command(name)(as_job(kind, many_processes=False, has_results=True))


def _run(
    benchmark: Benchmark,
    ckpt: list[str],
    against: str | None,
    whiten: str | None,
    root: str,
    download: bool,
    baselines: bool,
    output: Path | None,
) -> None:
    from rich.console import Console

    from ukd.data import open_images
    from ukd.eval import run_retrieval

    fitted = open_images(whiten, root=Path(root), download=download) if whiten else None
    measured, files = run_retrieval.run_retrieval(
        benchmark, ckpt, against=against, whiten=fitted, baselines=baselines, output=output
    )
    console = Console()
    run_retrieval.show_retrieval(console, benchmark, measured)
    options.show_files(console, files)
