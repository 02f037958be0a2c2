"""What a classifier's robustness is measured on: clean images, shifted ones, and other labels of the clean ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ukd.data import Images, Labels
from ukd.errors import DataError, UserError
from ukd.eval.labelled import LabelledSet, Sources, numbered_as, open_labelled, open_with_labels
from ukd.eval.splits import check_classes

CLEAN, REAL = "clean", "real"
"""Names of the sets that --test and --real make; shifted ones may not have them."""


@dataclass(frozen=True)
class RobustSets:
    """What is measured on.

    Attributes:
        train: Images that the classifier learns from.
        clean: Images like them.
        shifts: Other images of all or some of these classes, by name.
        real: The right labels of each clean image, none where it shows nothing; None without --real.
        warnings: What a reader must know.
    """

    train: LabelledSet
    clean: LabelledSet
    shifts: Mapping[str, LabelledSet]
    real: Sequence[Sequence[int]] | None
    warnings: tuple[str, ...]


def open_sets(sources: Sources, shifts: Sequence[str], real: Path | None) -> RobustSets:
    """Open everything.

    Args:
        sources: Training and clean test images.
        shifts: `NAME=IMAGES` each.
        real: JSON file of lists of labels.

    Raises:
        UserError: Something cannot be read, or its classes are not those of the training images.
    """
    train, clean = open_labelled(sources)
    names = train.images.class_names
    check_classes("robust", train.labels, clean.labels, names)
    opened, warnings = {}, []
    for shift in shifts:
        name, equals, source = shift.partition("=")
        if not (name and equals and source) or name in (CLEAN, REAL) or name in opened:
            raise UserError(
                f"robust: --shift {shift!r} must read NAME=IMAGES, each name once and other than {CLEAN} and {REAL}"
            )
        images = open_with_labels(source, Path(sources.root), sources.download)
        labels = _places(train.images, images)
        if labels is not None:
            warnings.append(f"{name}: its folders are numbers, taken for places among the sorted classes of training")
        else:
            assert images.labels is not None  # open_with_labels makes sure of it
            labels = numbered_as(train.images, images, images.labels)
        check_classes(f"robust: {name}", train.labels, labels, names)
        opened[name] = LabelledSet(images, labels)
    listed = None if real is None else _read_real(real, clean.images, int(train.labels.max()) + 1)
    return RobustSets(train, clean, opened, listed, tuple(warnings))


def _places(train: Images, images: Images) -> Labels | None:
    """Labels of a set whose folders are the numbers of sorted classes, as ImageNet-V2's are; None where not."""
    known, names = train.class_names, images.class_names
    if not known or not names or images.labels is None or set(names) <= set(known):
        return None
    if not all(name.isdecimal() and int(name) < len(known) for name in names):
        return None
    return np.array([int(name) for name in names], dtype=np.int64)[images.labels]


def _read_real(path: Path, images: Images, num_classes: int) -> list[list[int]]:
    """Lists of labels in the order of the images.

    The file's lists are in the order of the names of the image files, as `ILSVRC2012_val_00000001.JPEG` and so on have
    it, whichever class folders these lie in.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"robust: --real {path} cannot be read as JSON: {error}") from None
    sound = isinstance(lists, list) and all(
        isinstance(each, list) and all(type(label) is int and 0 <= label < num_classes for label in each)
        for each in lists
    )
    if not sound or len(lists) != len(images):
        num = f"{len(lists)} entries" if isinstance(lists, list) else "no list"
        raise DataError(
            f"robust: --real {path} holds {num}; a list of labels, whole numbers below {num_classes}, is wanted for "
            f"each of the {len(images)} images of {images.name}"
        )
    ids = [images.id(index) for index in range(len(images))]
    if ids[0].startswith("#"):  # Arrays have an order of their own.
        return list(lists)
    files = [each.rpartition("/")[2] for each in ids]
    if len(set(files)) < len(files):
        raise DataError(f"robust: --real: several images of {images.name} have one file name, so lists have no order")
    place = {file: number for number, file in enumerate(sorted(files))}
    return [lists[place[file]] for file in files]
