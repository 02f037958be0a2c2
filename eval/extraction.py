"""How a task gets its features: the same view, kind, cache and checks for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ukd.blocks import Embeddings
from ukd.data import Images
from ukd.errors import DataError
from ukd.eval.features import cached_features
from ukd.eval.models import RAW_PIXELS, Subject
from ukd.extractor import Extractor
from ukd.kinds import POOLED
from ukd.log import progress

PROJECTED = "projected"
"""The pooled feature where the run compared student and teacher: a kind of features that a run has, not a backbone."""
NAMED = 5
"""Images with broken features that an error names."""
VIEWS: dict[str, tuple[int, float]] = {"dino": (224, 224 / 256), "kornblith": (224, 1.0)}
"""Evaluation views by the protocols' names, side and centre crop: shorter side to 256 or 224 pixels, bicubic, centre
224 (facebookresearch/dino:eval_knn.py; Kornblith et al. 2019, arXiv:1805.08974, section 3.1)."""


@dataclass(frozen=True)
class Extraction:
    """How features are extracted; a view of None is the subject's own."""

    device: torch.device
    size_px: int | None = None
    crop_pct: float | None = None
    batch_size: int = 256
    num_workers: int | None = None
    cache: Path | None = None
    kind: str = POOLED

    def view_of(self, subject: Subject) -> tuple[int, float]:
        """Side and centre crop of the view that the subject is shown."""
        return self.size_px or subject.size_px, self.crop_pct or subject.crop_pct

    def of(self, subject: Subject) -> Subject:
        """The subject whose features are asked for: with --features projected, through its run's projector.

        Baselines, which nothing was trained with, stay as they are.

        Raises:
            UserError: It has no projector.
        """
        as_it_is = self.kind != PROJECTED or subject.projected or subject.is_baseline
        return subject if as_it_is else subject.through_projector()

    def kind_of(self, subject: Subject) -> str:
        """Kind of the subject's features; raw pixels, a baseline, have but one."""
        if self.of(subject).projected:
            return PROJECTED
        return POOLED if subject.role == RAW_PIXELS or self.kind == PROJECTED else self.kind

    def extractor(self, subject: Subject, images: Images, advance: Callable[[int], None] | None = None) -> Extractor:
        """What computes a subject's features of images."""
        size_px, crop_pct = self.view_of(subject)
        subject = self.of(subject)
        return Extractor(
            subject.shown.to(self.device),
            images,
            size_px,
            crop_pct,
            self.device,
            POOLED if subject.projected else self.kind_of(subject),
            self.batch_size,
            self.num_workers,
            advance=advance,
        )

    def features(self, subject: Subject, sets: Sequence[Images]) -> list[Embeddings]:
        """Extract a subject's features, float32 [n, D] for each set, not normalised, behind one progress bar.

        Raises:
            DataError: An image cannot be read, or its features are NaN or infinite.
            UserError: The subject does not have this kind of features.
        """
        with progress(subject.role, sum(map(len, sets))) as advance:
            extracted = [cached_features(self.extractor(subject, images, advance), self.cache) for images in sets]
        for images, rows in zip(sets, extracted, strict=True):
            refuse_broken(subject, images, [rows])
        return extracted


def refuse_broken(subject: Subject, images: Images, blocks: Iterable[Embeddings]) -> None:
    """Refuse features that are no numbers.

    Args:
        subject: Whose features.
        images: Of which images.
        blocks: The features, [b, D] each, in the order of the images.

    Raises:
        DataError: Some are NaN or infinite.
    """
    # A row's sum is finite only if all of it is, and needs no mask as large as the features.
    sums = np.concatenate([rows.sum(axis=1, dtype=np.float64) for rows in blocks])
    broken = np.flatnonzero(~np.isfinite(sums))
    if len(broken):
        named = ", ".join(images.id(int(row)) for row in broken[:NAMED]) + (", ..." if len(broken) > NAMED else "")
        raise DataError(
            f"{subject.role} ({subject.source}): NaN or infinity in the features of {len(broken)} of {len(sums)} "
            f"images of {images.name} ({named}); its weights are broken, or overflow on these images"
        )
