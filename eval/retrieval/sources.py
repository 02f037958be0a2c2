"""What the options of `ukd-eval retrieval` stand for: labelled images and presets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ukd.data import open_images
from ukd.errors import UserError
from ukd.eval.labelled import LabelledSet, Sources, open_labelled
from ukd.eval.models import agreed_by_runs
from ukd.eval.presets import NamedPreset, customised, find
from ukd.recipe import DataSpec

P = TypeVar("P", bound=NamedPreset)


def choose_preset(presets: Mapping[str, P], name: str, **changes: Any) -> P:
    """Look a preset up; changes that are given make one of another name.

    Raises:
        UserError: No such preset.
    """
    (preset,) = find("retrieval", presets, [name])
    return customised(preset, **{field: value for field, value in changes.items() if value})


def among_classes(
    checkpoints: Sequence[str], queries: str | None, database: str | None, root: str, download: bool
) -> tuple[LabelledSet, LabelledSet | None]:
    """Open labelled queries, or those that the checkpoints' recipes name, and the database if there is one.

    Raises:
        UserError: No queries are named, or the images cannot be used.
    """
    if database is not None:
        return between_sets("class", checkpoints, queries, database, root, download)
    named = Sources("", queries, root, download) if queries else _from_recipes("class", checkpoints, _test, "--queries")
    images = open_images(named.test, root=Path(named.root), download=named.download, labelled=True)
    assert images.labels is not None  # labelled=True makes sure of it
    return LabelledSet(images, images.labels), None


def between_sets(
    kind: str, checkpoints: Sequence[str], queries: str | None, database: str | None, root: str, download: bool
) -> tuple[LabelledSet, LabelledSet]:
    """Open labelled queries and a database, or those that the checkpoints' recipes name.

    Raises:
        UserError: One is named without the other, none is, or the images cannot be used.
    """
    if (queries is None) != (database is None):
        raise UserError(f"retrieval {kind}: --database and --queries go together")
    if queries and database:
        named = Sources(database, queries, root, download)
    else:
        named = _from_recipes(kind, checkpoints, _train_and_test, "--queries and --database")
    bank, asked = open_labelled(named)
    return asked, bank


def _from_recipes(
    kind: str, checkpoints: Sequence[str], pick: Callable[[DataSpec], Sources | None], options: str
) -> Sources:
    return agreed_by_runs(
        checkpoints,
        pick,
        missing=f"retrieval {kind}: no labelled images: give {options}; only a run whose recipe has them names its own",
        differing=f"name different labelled images; give {options}",
    )


def _test(data: DataSpec) -> Sources | None:
    return Sources("", data.labelled_test, data.root, data.download) if data.labelled_test else None


def _train_and_test(data: DataSpec) -> Sources | None:
    if data.labelled_train is None or data.labelled_test is None:
        return None
    return Sources(data.labelled_train, data.labelled_test, data.root, data.download)
