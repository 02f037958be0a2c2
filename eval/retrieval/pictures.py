"""Images of a benchmark by their names in its folder, and parts of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ukd.data import FolderImages, Images, Labels, Pixels, Subset
from ukd.errors import DataError

NAMED = 5
"""Missing images that an error names."""


class Folder:
    """The images of a folder, to be picked by their paths in it.

    Raises:
        DataError: No such folder, or no images in it.
    """

    def __init__(self, path: Path) -> None:
        self._images = FolderImages(path)
        self._number = {self._images.id(index): index for index in range(len(self._images))}

    def paths(self) -> list[str]:
        """Paths of all images, sorted."""
        return list(self._number)

    def pick(self, paths: Sequence[str]) -> Subset:
        """Take images in this order.

        Raises:
            DataError: Some are missing.
        """
        missing = [path for path in paths if path not in self._number]
        if missing:
            named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
            raise DataError(f"data: {len(missing)} of {len(paths)} images are missing in {self._images.name}: {named}")
        return Subset(self._images, np.array([self._number[path] for path in paths], dtype=np.int64))


class Cropped:
    """Images cut to boxes.

    Args:
        images: Whole images.
        boxes: [n, 4] left, top, right and bottom in pixels, rounded to whole ones as Pillow does.
    """

    def __init__(self, images: Images, boxes: npt.NDArray[np.float64]) -> None:
        self.name = f"{images.name} (cropped)"
        self.labels: Labels | None = None
        self.class_names: list[str] | None = None
        self._images = images
        self._boxes = np.rint(boxes).astype(np.int64)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Pixels:
        left, top, right, bottom = np.maximum(self._boxes[index], 0)
        cropped = self._images.read(index)[top:bottom, left:right]
        if not cropped.size:
            raise OSError(f"{self.id(index)}: its box {self._boxes[index].tolist()} lies outside of it")
        return cropped

    def id(self, index: int) -> str:
        return self._images.id(index)

    def file(self, index: int) -> Path | None:
        return self._images.file(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(self._images.fingerprint().encode() + self._boxes.tobytes()).hexdigest()
