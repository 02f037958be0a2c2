"""Labelled images to evaluate with: a bank that answers, queries that ask, their classes numbered alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ukd.data import Images, Labels, open_images
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
        DataError: No images or labels, or a class of the queries that the bank does not name.
    """
    bank, queries = (
        open_images(source, root=Path(sources.root), download=sources.download, labelled=True)
        for source in (sources.train, sources.test)
    )
    assert bank.labels is not None and queries.labels is not None  # labelled=True makes sure of it
    labels = queries.labels
    if bank.class_names and queries.class_names and bank.class_names != queries.class_names:
        number = {name: place for place, name in enumerate(bank.class_names)}
        strange = [name for name in queries.class_names if name not in number]
        if strange:
            raise DataError(
                f"data: {queries.name} has {len(strange)} classes that {bank.name} lacks "
                f"({', '.join(strange[:10])}); both must name their classes alike"
            )
        labels = np.array([number[name] for name in queries.class_names], dtype=np.int64)[labels]
    return LabelledSet(bank, bank.labels), LabelledSet(queries, labels)
