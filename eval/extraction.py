"""How a task gets its features: the same view, cache and checks for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ukd.bank import Embeddings
from ukd.data import Images
from ukd.errors import DataError
from ukd.eval.features import cached_features
from ukd.eval.models import Subject
from ukd.log import progress

NAMED = 5
"""Images with broken features that an error names."""


@dataclass(frozen=True)
class Extraction:
    """How features are extracted; a view of None is the subject's own."""

    device: torch.device
    size_px: int | None = None
    crop_pct: float | None = None
    batch_size: int = 256
    num_workers: int | None = None
    cache: Path | None = None

    def view_of(self, subject: Subject) -> tuple[int, float]:
        """Side and centre crop of the view that the subject is shown."""
        return self.size_px or subject.size_px, self.crop_pct or subject.crop_pct

    def features(self, subject: Subject, sets: Sequence[Images]) -> list[Embeddings]:
        """Extract a subject's features, float32 [n, D] for each set, not normalised, behind one progress bar.

        Raises:
            DataError: An image cannot be read, or its features are NaN or infinite.
        """
        size_px, crop_pct = self.view_of(subject)
        with progress(subject.role, sum(map(len, sets))) as advance:
            extracted = [
                cached_features(
                    subject.backbone,
                    images,
                    size_px=size_px,
                    crop_pct=crop_pct,
                    device=self.device,
                    batch_size=self.batch_size,
                    num_workers=self.num_workers,
                    cache=self.cache,
                    advance=advance,
                )
                for images in sets
            ]
        for images, rows in zip(sets, extracted, strict=True):
            _refuse_broken(subject, images, rows)
        return extracted


def _refuse_broken(subject: Subject, images: Images, rows: Embeddings) -> None:
    # A row's sum is finite only if all of it is, and needs no mask as large as the features.
    broken = np.flatnonzero(~np.isfinite(rows.sum(axis=1, dtype=np.float64)))
    if len(broken):
        named = ", ".join(images.id(int(row)) for row in broken[:NAMED]) + (", ..." if len(broken) > NAMED else "")
        raise DataError(
            f"{subject.role} ({subject.source}): NaN or infinity in the features of {len(broken)} of {len(rows)} "
            f"images of {images.name} ({named}); its weights are broken, or overflow on these images"
        )
