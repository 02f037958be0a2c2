"""Labelled images to evaluate with: a bank that answers, queries that ask, their classes numbered alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ukd.data import FolderImages, Images, Labels, open_images
from ukd.errors import DataError
from ukd.eval.models import agreed_by_runs
from ukd.recipe import DataSpec


@dataclass(frozen=True)
class Sources:
    """Where the labelled images are, as `ukd.data.open_images` takes them."""

    train: str
    test: str
    root: str = "data"
    download: bool = False


@dataclass(frozen=True)
class LabelledSet:
    """Images and their labels [n]; equal numbers mean the same class in the bank and in the queries."""

    images: Images
    labels: Labels

    def facts(self) -> dict[str, str | int]:
        """What a result says of them."""
        return {"name": self.images.name, "n": len(self.images), "fingerprint": self.images.fingerprint()}


def sources_of(checkpoints: Iterable[str], task: str) -> Sources:
    """Find the labelled images that the checkpoints' own recipes name.

    Raises:
        UserError: They name none, or not the same.
    """
    return agreed_by_runs(
        checkpoints,
        _named_by,
        missing=f"{task}: no labelled images: give --train and --test, or name data.labelled_train and "
        "data.labelled_test in the recipe of the run",
        differing="name different labelled images; give --train and --test",
    )


def _named_by(data: DataSpec) -> Sources | None:
    if data.labelled_train is None or data.labelled_test is None:
        return None
    return Sources(data.labelled_train, data.labelled_test, data.root, data.download)


def open_labelled(sources: Sources) -> tuple[LabelledSet, LabelledSet]:
    """Open bank and queries; where classes have names, the queries' are numbered as the bank's of that name.

    Raises:
        DataError: No images or labels, an empty class folder, or a class of the queries that the bank does not name.
    """
    bank, queries = (
        open_with_labels(source, Path(sources.root), sources.download) for source in (sources.train, sources.test)
    )
    assert bank.labels is not None and queries.labels is not None  # labelled=True makes sure of it
    return LabelledSet(bank, bank.labels), LabelledSet(queries, numbered_as(bank, queries, queries.labels))


def numbered_as(bank: Images, queries: Images, labels: Labels) -> Labels:
    """Give labels [n] of the queries the numbers that the bank's classes of those names have, if both have names.

    Raises:
        DataError: A class of the queries that the bank does not name.
    """
    if not bank.class_names or not queries.class_names or bank.class_names == queries.class_names:
        return labels
    number = {name: place for place, name in enumerate(bank.class_names)}
    strange = [name for name in queries.class_names if name not in number]
    if strange:
        raise DataError(
            f"data: {queries.name} has {len(strange)} classes that {bank.name} lacks "
            f"({', '.join(strange[:10])}); both must name their classes alike"
        )
    return np.array([number[name] for name in queries.class_names], dtype=np.int64)[labels]


def open_with_labels(source: str, root: Path, download: bool = False) -> Images:
    """Open labelled images as `ukd.data.open_images` does, but none whose class folders are empty.

    Raises:
        DataError: No images or labels, or a class folder without images.
    """
    images = open_images(source, root=root, download=download, labelled=True)
    if isinstance(images, FolderImages):
        named = set(images.class_names or ())
        folders = (each.name for each in Path(source).iterdir() if each.is_dir() and not each.name.startswith("."))
        empty = sorted(set(folders) - named)
        if empty:
            raise DataError(
                f"data: {len(empty)} class folders of {source} hold no images ({', '.join(empty[:10])}); fill or "
                "remove them"
            )
    return images
