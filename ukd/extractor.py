"""How embeddings are computed: a block of images at a time, the same numbers whoever computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import PIL
import timm
import torch
from torch.utils.data import Dataset

import ukd
from ukd import distributed
from ukd.backbones import Backbone, Teacher
from ukd.blocks import Embeddings
from ukd.data import Images
from ukd.errors import DataError
from ukd.kinds import POOLED, embed_views, width_of
from ukd.loading import EvaluationViews, PixelBatch, TrainingViews, Unreadable, loader
from ukd.samplers import Sample
from ukd.views import Augmentation


class Extracted(NamedTuple):
    """A block of rows.

    Attributes:
        block: Which rows.
        features: fp32 [b, D], not normalised.
        unreadable: Numbers of the images that could not be read; the rows of readable ones stand in their place.
    """

    block: range
    features: Embeddings
    unreadable: list[int]


@dataclass(frozen=True)
class Extractor:
    """What is embedded, by what, and how: in evaluation mode, without autocast.

    Attributes:
        backbone: Where the embeddings come from; its training mode is put back afterwards.
        images: What to embed.
        size_px: Side of the evaluation view.
        crop_pct: Its centre crop.
        device: Where the backbone is.
        kind: Kind of features, one of `kinds.KINDS`.
        batch_size: Images in one forward pass.
        num_workers: Loader processes; None takes this process's share of the cores.
        on_unreadable: Called with a line about each unreadable image, for which the next readable one then stands;
            None makes it an error.
        advance: Called with the number of images done since the last call, for a progress bar.
    """

    backbone: Backbone
    images: Images
    size_px: int
    crop_pct: float
    device: torch.device
    kind: str = POOLED
    batch_size: int = 256
    num_workers: int | None = None
    on_unreadable: Callable[[str], None] | None = None
    advance: Callable[[int], None] | None = None

    def key(self) -> dict[str, Any]:
        """All that the rows depend on, as JSON values."""
        info = self.backbone.info.as_json()
        return {
            "weights": self.backbone.weights_hash(),
            "precision": self.backbone.precision,
            "fed": {name: info[name] for name in ("arch", "kwargs", "input_px", "mean", "std")},
            "images": self.images.fingerprint(),
            "view": self.view(),
            "kind": self.kind,
            "device": self.device.type,
            "versions": versions(),
        }

    def view(self) -> dict[str, Any]:
        """What the backbone is shown of each image, as JSON values."""
        return {"size_px": self.size_px, "crop_pct": self.crop_pct}

    def views(self) -> Dataset[PixelBatch]:
        """The views of images by number."""
        return EvaluationViews(self.images, self.size_px, self.crop_pct)

    def width(self) -> int:
        """Width of a row.

        Raises:
            UserError: The backbone does not have this kind of features.
        """
        with _evaluating(self.backbone):
            return width_of(self.backbone, self.kind, self.size_px)

    @torch.no_grad()
    def run(self, blocks: Sequence[range], unreadable: Unreadable) -> Iterator[Extracted]:
        """Embeds blocks of images, one after the other; a batch never reaches from one block into the next.

        Args:
            blocks: Image numbers.
            unreadable: Counts the images that cannot be read.

        Raises:
            DataError: An image cannot be read, or more than one in a hundred where they are skipped.
        """
        batches = [self._batches(block) for block in blocks]
        loaded = iter(loader(self.views(), list(chain.from_iterable(batches)), self.num_workers, self.device))
        with _evaluating(self.backbone):
            for block, its_batches in zip(blocks, batches, strict=True):
                rows, missing = [], set[int]()
                for _ in its_batches:
                    batch = next(loaded)
                    self.report(unreadable, batch.unreadable)
                    missing.update(batch.unreadable)
                    (shown,) = batch.to_views(self.device, self.backbone.mean.dtype)
                    rows.append(embed_views(self.backbone, shown, self.kind).cpu())
                    if self.advance:
                        self.advance(len(shown))
                yield Extracted(block, torch.cat(rows).numpy(), sorted(missing))

    @contextmanager
    def in_step(self, blocks: Sequence[range]) -> Iterator[None]:
        """Has a backbone that the processes share called equally often in all of them, whatever happens meanwhile.

        Args:
            blocks: What this process is going to embed.
        """
        teacher = self.backbone
        if not (isinstance(teacher, Teacher) and teacher.is_sharded):
            yield
            return
        own = sum(teacher.num_parts(len(batch)) for block in blocks for batch in self._batches(block))
        last = teacher.num_forwards + max(distributed.gather_numbers([own]))
        try:
            yield
        finally:
            while teacher.num_forwards < last:
                self._show_nothing()

    def _batches(self, block: range) -> list[list[int]]:
        starts = range(block.start, block.stop, self.batch_size)
        return [list(range(first, min(first + self.batch_size, block.stop))) for first in starts]

    def _show_nothing(self) -> None:
        black = torch.zeros(1, 3, self.size_px, self.size_px, device=self.device, dtype=self.backbone.mean.dtype)
        embed_views(self.backbone, black, self.kind)

    def report(self, unreadable: Unreadable, indices: Sequence[int]) -> None:
        """Says once which images could not be read.

        Raises:
            DataError: As `run`.
        """
        lines = unreadable.report(indices)
        if self.on_unreadable:
            for line in lines:
                self.on_unreadable(line)
        elif lines:
            raise DataError(
                f"data: cannot read {self.images.id(indices[0])} in {self.images.name}; repair or remove it"
            )


@dataclass(frozen=True)
class PassExtractor(Extractor):
    """As `Extractor`, of the random views that a training shows in one of its passes.

    Attributes:
        augmentation: How a view is made.
        seed: The recipe's seed.
        number: The pass.
    """

    augmentation: Augmentation = field(kw_only=True)
    seed: int = field(kw_only=True)
    number: int = field(kw_only=True)

    def view(self) -> dict[str, Any]:
        """What the backbone is shown of each image, as JSON values."""
        return {**asdict(self.augmentation), "seed": self.seed, "pass": self.number}

    def views(self) -> Dataset[PixelBatch]:
        """The views of images by number."""
        return PassViews(self.images, self.augmentation, self.seed, self.number, self.device.type == "cpu")


class PassViews(TrainingViews):
    """The first view of each image in one pass, as training makes it; the DataLoader asks for it by image number."""

    def __init__(self, images: Images, augmentation: Augmentation, seed: int, number: int, apply_colour: bool) -> None:
        super().__init__(images, augmentation, num_views=1, seed=seed, apply_colour=apply_colour)
        self._number = number

    def __getitems__(self, indices: Sequence[int]) -> PixelBatch:  # type: ignore[override]
        return super().__getitems__([Sample(index, index, self._number) for index in indices])


def versions() -> dict[str, str]:
    """Names the versions of what features and figures are computed with."""
    return {
        "ukd": ukd.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }


@contextmanager
def _evaluating(backbone: Backbone) -> Iterator[None]:
    was_training = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(was_training)
