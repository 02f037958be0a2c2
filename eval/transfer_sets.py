"""Transfer sets on disk: images, labels, and which of them are for training, for choosing and for testing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ukd.data import FolderImages, Images, Labels, Subset
from ukd.errors import DataError, NotOnDiskError
from ukd.eval.labelled import numbered_as, open_with_labels
from ukd.eval.splits import stratified_holdout
from ukd.eval.transfer import Marks, Use
from ukd.eval.transfer_suite import VOC2007, Listed, SetSpec, Source

NAMED = 5
"""Images that a message names."""
VOC_FOLDER = Path("VOCdevkit") / "VOC2007"
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


@dataclass(frozen=True)
class TransferSet:
    """A set that is on disk.

    Attributes:
        name: Its name in the suite.
        spec: What the suite says of it.
        images: Its images, one after the other.
        labels: [n] class numbers, or [n, C] of several classes an image: 1 shown, 0 not to be judged, -1 not
            shown.
        use: [n] `Use` of every image.
        class_names: Names of the classes, or None.
    """

    name: str
    spec: SetSpec
    images: tuple[Images, ...]
    labels: Marks
    use: npt.NDArray[np.int64]
    class_names: list[str] | None

    def facts(self) -> dict[str, Any]:
        """What a result says of it."""
        counts = {f"num_{use.name.lower()}": int((self.use == use).sum()) for use in Use}
        sources = [
            {"name": each.name, "n": len(each), "fingerprint": each.fingerprint()}
            for each in dict.fromkeys(self.images)
        ]
        return {**counts, "images": sources}


def open_set(name: str, spec: SetSpec, *, root: Path, download: bool, val_share: float, seed: int) -> TransferSet:
    """Open all splits of a set.

    Args:
        name: Its name in the suite.
        spec: What the suite says of it.
        root: Folder of all sets.
        download: Let torchvision fetch what is missing.
        val_share: Share of each class held out where no validation images are named.
        seed: Seed of what is drawn at random.

    Raises:
        NotOnDiskError: Some of it is not on disk.
        DataError: It is, but cannot be used.
    """
    sources = [(Use.TRAIN, spec.train), (Use.VAL, spec.val), (Use.TEST, spec.test)]
    opened = [(use, *_open(source, root, download)) for use, source in sources if source is not None]
    first = opened[0][1]
    labels = np.concatenate(
        [numbered_as(first, images, each) if each.ndim == 1 else each for _, images, each in opened]
    )
    use = np.repeat([use for use, _, _ in opened], [len(images) for _, images, _ in opened]).astype(np.int64)
    if spec.train_per_class is not None:
        rest = np.flatnonzero(use == Use.TRAIN)[_beyond(labels[use == Use.TRAIN], spec.train_per_class, seed)]
        use[rest] = Use.TEST
    if spec.val is None:
        train = np.flatnonzero(use == Use.TRAIN)
        use[train[stratified_holdout(f"transfer: {name}", labels[train], val_share, seed)]] = Use.VAL
    return TransferSet(name, spec, tuple(images for _, images, _ in opened), labels, use, first.class_names)


def _open(source: Source, root: Path, download: bool) -> tuple[Images, Marks]:
    """Images of a source, and their labels."""
    if isinstance(source, Listed):
        return _listed(root, source)
    if source.startswith(VOC2007):
        return _voc2007(source.removeprefix(VOC2007), root, download)
    if source.startswith("torchvision:"):
        images = _from_torchvision(source, root, download)
    elif (root / source).exists():
        images = open_with_labels(str(root / source), root)
    else:
        raise NotOnDiskError(str(root / source))
    assert images.labels is not None  # open_with_labels makes sure of it
    return images, images.labels


def _from_torchvision(source: str, root: Path, download: bool) -> Images:
    try:
        return open_with_labels(source, root)
    except NotOnDiskError:
        if not download:
            raise NotOnDiskError(f"{source} in {root}") from None
    try:
        return open_with_labels(source, root, download=True)
    except DataError as error:  # Some sets are no longer where torchvision looks for them.
        raise NotOnDiskError(str(error)) from None


def _listed(root: Path, source: Listed) -> tuple[Images, Labels]:
    """Images of a list; classes are numbered in the order of their names."""
    folder, file = root / source.folder, root / source.list
    names = [name.lstrip("/") for name in _lines(file)]
    if not folder.is_dir():
        raise NotOnDiskError(str(folder))
    images = _picked(FolderImages(folder), names, file)
    classes = [name.rpartition("/")[0] for name in names]
    images.class_names, labels = (found.tolist() for found in np.unique(classes, return_inverse=True))
    return images, np.array(labels, dtype=np.int64)


def _voc2007(split: str, root: Path, download: bool) -> tuple[Images, Marks]:
    """Images of VOC2007's classification task, with 1, 0 (shown, but difficult) or -1 for each of its classes."""
    lists, pictures = root / VOC_FOLDER / "ImageSets" / "Main", root / VOC_FOLDER / "JPEGImages"
    if download and not (lists / f"{split}.txt").exists():
        _download_voc2007(split, root)
    names = _lines(lists / f"{split}.txt")
    images = _picked(FolderImages(pictures), [f"{name}.jpg" for name in names], lists / f"{split}.txt")
    images.class_names = list(VOC_CLASSES)
    marks = np.zeros((len(names), len(VOC_CLASSES)), dtype=np.int64)
    for number, each in enumerate(VOC_CLASSES):
        marked = dict(line.split() for line in _lines(lists / f"{each}_{split}.txt"))
        if list(marked) != names or not set(marked.values()) <= {"-1", "0", "1"}:
            raise DataError(
                f"data: {lists / f'{each}_{split}.txt'} does not mark the images of {split}.txt with -1, 0, 1"
            )
        marks[:, number] = list(map(int, marked.values()))
    return images, marks


def _download_voc2007(split: str, root: Path) -> None:
    from torchvision.datasets import VOCDetection

    try:
        VOCDetection(str(root), year="2007", image_set=split, download=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise NotOnDiskError(f"{VOC2007}{split} cannot be fetched to {root}: {error}") from None


def _picked(images: FolderImages, names: list[str], file: Path) -> Subset:
    """The named images of a folder, in the order of the names."""
    number = {images.id(index): index for index in range(len(images))}
    absent = [name for name in names if name not in number]
    if absent:
        listed = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
        raise NotOnDiskError(f"{images.name} lacks {len(absent)} of the {len(names)} images of {file} ({listed})")
    return Subset(images, np.array([number[name] for name in names], dtype=np.int64))


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise NotOnDiskError(str(file))
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _beyond(labels: Labels, num: int, seed: int) -> npt.NDArray[np.int64]:
    """Places of all but `num` images of each class, drawn at random."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == each))[num:] for each in np.unique(labels)])
