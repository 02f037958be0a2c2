"""`ukd-eval extract`: features of every checkpoint into a store of its own, and their table."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ukd import distributed
from ukd.bank import on_disk
from ukd.data import Images, open_images
from ukd.errors import DataError, UserError
from ukd.eval import tables
from ukd.eval.extraction import VIEWS, Extraction, refuse_broken
from ukd.eval.features import cache_entry, default_cache
from ukd.eval.models import candidates
from ukd.eval.runner import Measured
from ukd.files import write_atomically
from ukd.log import progress
from ukd.store import Store

IMAGES_FILE = "images.json"


@dataclass(frozen=True)
class Stored:
    """A store, the kind of its features, and the seconds that it took."""

    store: Store
    kind: str
    wall_s: float


def run_extract(
    checkpoints: Sequence[str], *, images: Images, extraction: Extraction, output: Path | None
) -> list[Measured[Stored]]:
    """Extract the features of every checkpoint, on all processes of the run; what is there already is kept.

    Args:
        checkpoints: Run folders, files of weights, or `timm:NAME`.
        images: Their labels, if they have any, are stored too.
        extraction: How features are extracted.
        output: Each checkpoint gets a folder of its name in this one; None fills the cache that every task reads.

    Raises:
        UserError: A checkpoint, the images or the output cannot be used.
    """
    folders = {} if output is None else folders_of(checkpoints, output)
    measured = []
    for checkpoint in checkpoints:
        start = time.monotonic()
        (subject,) = candidates(checkpoint, baselines=False)
        with progress(subject.role, len(images)) as advance:
            extractor = extraction.extractor(subject, images, advance)
            folder = folders.get(checkpoint) or cache_entry(extractor, extraction.cache or default_cache())
            store = on_disk(extractor, folder)
        refuse_broken(subject, images, store.blocks())
        if distributed.is_main():
            write_images(folder / IMAGES_FILE, images)
        figures = Stored(store, extraction.kind_of(subject), time.monotonic() - start)
        measured.append(Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures))
    return measured


def open_source(source: str, root: str, download: bool) -> Images:
    """Open images with their labels if they have any, which of a folder only its class folders say.

    Raises:
        DataError: Nothing usable there.
    """
    try:
        return open_images(source, root=Path(root), download=download, labelled=True)
    except DataError:
        return open_images(source, root=Path(root), download=download)


def view_of(name: str | None, size_px: int | None, crop_pct: float | None) -> tuple[int | None, float | None]:
    """Side and centre crop of a view by name, or as given.

    Raises:
        UserError: No such view, or both are given.
    """
    if name is None:
        return size_px, crop_pct
    if name not in VIEWS:
        raise UserError(f"extract: no view {name!r}; choose from {', '.join(VIEWS)}")
    if size_px or crop_pct:
        raise UserError(f"extract: --view {name} says what --size-px and --crop-pct say; leave them out")
    return VIEWS[name]


def folders_of(checkpoints: Sequence[str], output: Path) -> dict[str, Path]:
    """Name the folder of each checkpoint: that of its run folder, file or timm model.

    Raises:
        UserError: Two would share one.
    """
    folders: dict[str, Path] = {}
    for checkpoint in checkpoints:
        path = Path(checkpoint).resolve()
        name = path.name if path.is_dir() else path.stem
        if checkpoint.startswith("timm:"):
            name = checkpoint.removeprefix("timm:").replace("/", "_").replace(":", "_")
        other = next((each for each, folder in folders.items() if folder.name == name), None)
        if other is not None:
            raise UserError(
                f"extract: {other} and {checkpoint} would both be stored in {output / name}; "
                "extract them by two commands, each with an --output of its own"
            )
        folders[checkpoint] = output / name
    return folders


def write_images(path: Path, images: Images) -> None:
    """Write what the rows are of: `ids`, and `labels` with `class_names` where there are any, else null.

    Raises:
        UserError: The file cannot be written.
    """
    facts = {
        "name": images.name,
        "ids": [images.id(index) for index in range(len(images))],
        "labels": None if images.labels is None else images.labels.tolist(),
        "class_names": images.class_names,
    }
    try:
        # Only ASCII: a file name need not be valid Unicode, but its escapes always are.
        write_atomically(path, (json.dumps(facts) + "\n").encode("ascii"))
    except OSError as error:
        raise UserError(f"extract: cannot write {path}: {error.strerror}") from None


def show_extract(console: Console, measured: Sequence[Measured[Stored]]) -> None:
    """Print what was stored, and where."""
    columns = ["features", "rows", "dim", "dtype", "MB", "seconds"]
    cells = [
        [
            each.figures.kind,
            f"{each.figures.store.shape[0]:,}",
            f"{each.figures.store.shape[1]:,}",
            each.figures.store.dtype.name,
            f"{sum(block.nbytes for block in each.figures.store.maps) / 1e6:,.1f}",
            f"{each.figures.wall_s:.1f}",
        ]
        for each in measured
    ]
    console.print(tables.model_table("Features", columns, measured, cells))
