"""Sets of images as they are after a corruption, each image the same whenever it is read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ukd.data import Images, Labels, Pixels
from ukd.eval.corruptions import KINDS, corrupt
from ukd.rng import Purpose, stream
from ukd.views import evaluation_view

VERSION = 1
"""Raised whenever a corruption changes, so that no features of the old one are taken from a cache."""


class CorruptedImages:
    """The evaluation views of images, corrupted; to be shown as they are, without another crop.

    Args:
        whole: The images.
        kind: One of `corruptions.KINDS`.
        severity: 1 to 5.
        size_px: Side of the view.
        crop_pct: Its centre crop.
        seed: Seed of what is random.
    """

    def __init__(self, whole: Images, kind: str, severity: int, size_px: int, crop_pct: float, seed: int) -> None:
        self.name = f"{whole.name} ({kind}, severity {severity})"
        self.labels: Labels | None = None
        self.class_names: list[str] | None = None
        self._whole, self._kind, self._severity, self._seed = whole, kind, severity, seed
        self._view = size_px, crop_pct

    def __len__(self) -> int:
        return len(self._whole)

    def read(self, index: int) -> Pixels:
        """A corrupted view, uint8 [S, S, 3]; a function of image, kind, severity and seed."""
        view = evaluation_view(self._whole.read(index), *self._view)
        place = list(KINDS).index(self._kind)
        rng = stream(Purpose.CORRUPTION, self._seed, self._severity, index, place)
        return np.ascontiguousarray(corrupt(view, self._kind, self._severity, rng))

    def id(self, index: int) -> str:
        return self._whole.id(index)

    def file(self, index: int) -> Path | None:
        return self._whole.file(index)

    def fingerprint(self) -> str:
        """Hash of the images' own and of all that is done to them."""
        done = f"{VERSION} {self._kind} {self._severity} {self._view} {self._seed}"
        return hashlib.sha256(f"{self._whole.fingerprint()} {done}".encode()).hexdigest()
