"""The options that the commands of `ukd-eval` share, and what they become. Heavy modules are imported where used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ukd.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ukd.eval.extraction import Extraction
    from ukd.eval.labelled import Sources

Checkpoints = Annotated[
    list[str], typer.Option(help="A run folder, a .safetensors with its .json, or timm:NAME; repeatable.")
]
Train = Annotated[
    str | None, typer.Option(help="Labelled images to learn from.", show_default="the run's labelled_train")
]
Test = Annotated[str | None, typer.Option(help="Labelled images to classify.", show_default="the run's labelled_test")]
Root = Annotated[str, typer.Option(help="Folder of torchvision data sets.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch a missing torchvision data set.")]
Solver = Annotated[
    str | None,
    typer.Option(
        help="sklearn, one C after the other, or lbfgs, all at once.", show_default="lbfgs on a GPU, else sklearn"
    ),
]
SizePx = Annotated[int | None, typer.Option(min=1, help="Side of the view.", show_default="the run's or model's")]
CropPct = Annotated[
    float | None, typer.Option(min=0.01, max=1, help="Centre crop.", show_default="the run's or model's")
]
_KINDS = "pooled, cls, avg, cls+avg, last4, last4+avg or projected."
FeatureKind = Annotated[str, typer.Option("--features", help=_KINDS, metavar="KIND")]
OtherKind = Annotated[
    str | None, typer.Option("--features", help=_KINDS, metavar="KIND", show_default="the preset's own choice")
]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in one forward pass.")]
NumWorkers = Annotated[int | None, typer.Option(min=0, help="Loader processes.", show_default="cores, at most 8")]
Cache = Annotated[Path | None, typer.Option(help="Folder of cached features.", show_default="~/.cache/ukd/features")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor write cached features.")]
Output = Annotated[Path | None, typer.Option(help="Result file.", show_default="RUN/results/TASK.json")]
Baselines = Annotated[bool, typer.Option(help="Show a run's raw pixels, untrained self and teacher.")]


def sources(task: str, ckpt: list[str], train: str | None, test: str | None, root: str, download: bool) -> Sources:
    """The labelled images that the options name, else those that the first run's recipe names.

    Raises:
        UserError: Only one of --train and --test is given, or neither is and no run says.
    """
    from ukd.eval.labelled import Sources, sources_of

    if (train is None) != (test is None):
        raise UserError(f"{task}: --train and --test go together")
    return Sources(train, test, root, download) if train and test else sources_of(ckpt, task)


def extraction(
    device: str,
    size_px: int | None,
    crop_pct: float | None,
    batch_size: int,
    num_workers: int | None,
    cache: Path | None,
    no_cache: bool,
    kind: str = "pooled",
) -> Extraction:
    """How features are extracted, as the options say; neighbours are searched on the same device.

    Raises:
        UserError: No such kind of features, or no such device.
    """
    from ukd.distributed import local_device
    from ukd.eval.extraction import Extraction
    from ukd.eval.features import default_cache
    from ukd.neighbours import search_on

    check_kind(kind)
    kept = None if no_cache else cache or default_cache()
    computing = local_device(device)
    search_on(computing)
    return Extraction(computing, size_px, crop_pct, batch_size, num_workers, kept, kind)


def check_kind(kind: str) -> None:
    """Refuse a kind of features that there is not.

    Raises:
        UserError: Says which there are.
    """
    from ukd.eval.extraction import PROJECTED
    from ukd.kinds import KINDS

    if kind not in (*KINDS, PROJECTED):
        raise UserError(f"--features: no kind {kind!r}; choose from {', '.join((*KINDS, PROJECTED))}")


def show_files(console: Console, files: Iterable[Path]) -> None:
    """Name the result files that were written."""
    for path in files:
        console.print(f"written: {path}", highlight=False, markup=False, soft_wrap=True)
