"""The classification data sets of torchvision, by name."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ukd import distributed
from ukd.errors import DataError, NotOnDiskError


class _Dataset(Protocol):
    """What torchvision's data sets have in common."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]: ...


class TorchvisionImages:
    """A classification data set of torchvision, by name: `torchvision:CIFAR10:train`.

    Args:
        source: `torchvision:NAME:SPLIT`.
        root: Folder of torchvision data sets.
        download: Let torchvision fetch it where it is missing; of many processes one does, and the others wait.

    Raises:
        NotOnDiskError: The data is not on disk (nothing is downloaded unless asked), or not whole.
        DataError: Unknown name, or no such split.
    """

    def __init__(self, source: str, root: Path, download: bool) -> None:
        from torchvision import datasets

        self.name = source
        try:
            _, dataset_name, split = source.split(":")
        except ValueError:
            raise DataError(
                f"data: {source!r} must read torchvision:NAME:SPLIT, as in torchvision:CIFAR10:train"
            ) from None
        if dataset_name not in datasets.__all__:
            raise DataError(
                f"data: torchvision has no data set {dataset_name!r}; names are written as in its documentation"
            )
        # Several processes that unpack into one folder spoil it.
        with distributed.main_first() if download else nullcontext():
            self._dataset = _open(getattr(datasets, dataset_name), source, split, root, download)
        named = [getattr(self._dataset, name, None) for name in ("targets", "labels", "_labels")]
        labels = next((each for each in named if each is not None), _labels_of_samples(self._dataset))
        self.labels: npt.NDArray[np.int64] | None = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.class_names: list[str] | None = getattr(self._dataset, "classes", None)

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        return np.asarray(self._dataset[index][0].convert("RGB"))

    def id(self, index: int) -> str:
        return f"#{index}"

    def file(self, index: int) -> Path | None:
        return None

    def fingerprint(self) -> str:
        """Hash of the name, the size, the labels, and the pixels of a hundred images spread over the set."""
        digest = hashlib.sha256(f"{self.name} {len(self)}".encode())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        for index in np.linspace(0, len(self) - 1, min(100, len(self)), dtype=int):
            digest.update(self.read(int(index)).tobytes())
        return digest.hexdigest()


def _open(factory: Callable[..., _Dataset], source: str, split: str, root: Path, download: bool) -> _Dataset:
    """Builds the data set whichever way it spells its split; torchvision has two ways and no common type."""
    parameters = inspect.signature(factory).parameters
    arguments: dict[str, object] = {"download": download and distributed.is_main()} if "download" in parameters else {}
    if "train" in parameters:
        if split not in ("train", "test"):
            raise DataError(f"data: {source}: the split must be train or test, got {split!r}")
        arguments["train"] = split == "train"
    elif "split" in parameters:
        arguments["split"] = split
    else:
        raise DataError(f"data: {source}: this data set has no splits that torchvision can select")
    try:
        return factory(str(root), **arguments)
    except (RuntimeError, ValueError, OSError) as error:
        hint = "" if download else "; `data.root` names its folder, `data.download: true` fetches it"
        kind = DataError if isinstance(error, ValueError) else NotOnDiskError
        raise kind(f"data: {source} cannot be opened in {root}: {error}{hint}") from None


def _labels_of_samples(dataset: _Dataset) -> list[int] | None:
    """Labels of a data set that keeps them beside its paths alone, as StanfordCars does."""
    samples: Sequence[tuple[str, int]] | None = getattr(dataset, "_samples", None)
    return None if samples is None else [int(label) for _, label in samples]
