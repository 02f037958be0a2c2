"""How a model's features of images are made for retrieval: square views as in every task, or whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from ukd.blocks import Embeddings
from ukd.data import Images
from ukd.eval.extraction import PROJECTED, Extraction, refuse_broken
from ukd.eval.features import cached_features
from ukd.eval.models import Subject
from ukd.eval.retrieval.views import WholeImages, WholeView, any_size
from ukd.eval.spaces import unit
from ukd.log import progress


class Describer(Protocol):
    """Turns images into features."""

    @property
    def extraction(self) -> Extraction:
        """Device, batches and cache."""

    @property
    def asked(self) -> str:
        """The kind of features that is asked for, whatever a subject has."""

    def rows(self, subject: Subject, sets: Sequence[Images]) -> list[Embeddings]:
        """Extract features, float32 [n, D] for each set."""

    def view(self, subject: Subject) -> Mapping[str, Any]:
        """What a result says of the view that the subject is shown."""

    def kind(self, subject: Subject) -> str:
        """What a row of features consists of."""


@dataclass(frozen=True)
class SquareViews:
    """The centre of an image, at one or more scales.

    Attributes:
        extraction: How features are extracted; behind it is the cache of every task.
        scales: Shorter sides that images are resized to before the centre is cut out, in sides of the view, in place of
            the view's own crop; unit features are averaged over them. None takes the one view that other tasks take.
    """

    extraction: Extraction
    scales: tuple[float, ...] | None = None

    @property
    def asked(self) -> str:
        """The kind of features that is asked for, whatever a subject has."""
        return self.extraction.kind

    def rows(self, subject: Subject, sets: Sequence[Images]) -> list[Embeddings]:
        """Extract features, float32 [n, D] for each set."""
        if self.scales is None:
            return self.extraction.features(subject, sets)
        at = [replace(self.extraction, crop_pct=1 / scale).features(subject, sets) for scale in self.scales]
        return [np.mean([unit(rows) for rows in same], axis=0).astype(np.float32) for same in zip(*at, strict=True)]

    def view(self, subject: Subject) -> Mapping[str, Any]:
        """What a result says of the view that the subject is shown."""
        size_px, crop_pct = self.extraction.view_of(subject)
        return {"size_px": size_px, **({"scales": self.scales} if self.scales else {"crop_pct": crop_pct})}

    def kind(self, subject: Subject) -> str:
        """What a row of features consists of."""
        return self.extraction.kind_of(subject)


@dataclass(frozen=True)
class WholeViews:
    """Images as a whole, by a copy of the model that takes any size.

    Attributes:
        extraction: Device, batches and cache.
        whole: How images are shown.
    """

    extraction: Extraction
    whole: WholeView

    @property
    def asked(self) -> str:
        """The kind of features that is asked for, whatever a subject has."""
        return self.whole.kind

    def rows(self, subject: Subject, sets: Sequence[Images]) -> list[Embeddings]:
        """Extract features, float32 [n, D] for each set.

        Raises:
            DataError: An image cannot be read, or its features are NaN or infinite.
            WeightsError: The model takes one size only.
        """
        how, backbone = self.extraction, any_size(subject.shown).to(self.extraction.device)
        with progress(subject.role, sum(map(len, sets))) as advance:
            extracted = [
                cached_features(
                    WholeImages(
                        backbone,
                        images,
                        self.whole.image_px,
                        1.0,
                        how.device,
                        batch_size=how.batch_size,
                        num_workers=how.num_workers,
                        advance=advance,
                        whole=self.whole,
                    ),
                    how.cache,
                )
                for images in sets
            ]
        for images, rows in zip(sets, extracted, strict=True):
            refuse_broken(subject, images, [rows])
        return extracted

    def view(self, subject: Subject) -> Mapping[str, Any]:
        """What a result says of the view that the subject is shown."""
        return asdict(self.whole)

    def kind(self, subject: Subject) -> str:
        """What a row of features consists of."""
        return PROJECTED if subject.projected else self.asked
