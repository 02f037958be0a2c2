"""The rows that heads are trained on: of random views, made anew in every pass, or of the evaluation view, cached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ukd import distributed
from ukd.backbones import Backbone
from ukd.data import Images
from ukd.errors import DataError, UserError
from ukd.eval.linear.presets import Preset
from ukd.kinds import KINDS, POOLED, embed_views, width_of
from ukd.loading import TrainingViews, loader
from ukd.rng import Purpose, stream
from ukd.samplers import BatchOrder, RankBatches
from ukd.views import Augmentation

SMALL_VIT_DIM = 384
"""Widest model of which DINO's probe takes the class tokens of four blocks: ViT-S."""
VARIANCE_EPS = 1e-5
TILE_ROWS = 2**14


class Layout(NamedTuple):
    """What rows of features hold.

    Attributes:
        kind: The kind of features that is extracted, one of `ukd.kinds.KINDS`.
        columns: Where each kind that heads look at stands in it.
        class_token: Whether the model has a class token.
    """

    kind: str
    columns: dict[str, slice]
    class_token: bool


def layout_of(backbone: Backbone, preset: Preset, size_px: int) -> Layout:
    """Choose what a preset's heads look at, as far as the model has it: see `Preset.features`.

    Raises:
        UserError: A kind that the preset names is not there.
    """
    dim = _width(backbone, "cls", size_px)
    last4 = _width(backbone, "last4+avg", size_px) is not None
    if dim is not None and preset.features == "dinov2" and last4:
        first = {"cls": 3 * dim, "cls+avg": 3 * dim, "last4": 0, "last4+avg": 0}
        columns = {kind: slice(start, (5 if "avg" in kind else 4) * dim) for kind, start in first.items()}
        return Layout("last4+avg", columns, class_token=True)
    if dim is not None and preset.features == "dino":
        kind = "last4" if last4 and dim <= SMALL_VIT_DIM else "cls+avg"
        return Layout(kind, {kind: slice(0, (4 if kind == "last4" else 2) * dim)}, class_token=True)
    kind = preset.features if preset.features in KINDS else POOLED
    return Layout(kind, {kind: slice(0, width_of(backbone, kind, size_px))}, class_token=dim is not None)


def _width(backbone: Backbone, kind: str, size_px: int) -> int | None:
    """Width of a kind of features; None where the model does not have it."""
    try:
        return width_of(backbone, kind, size_px)
    except UserError:
        return None


class Standardiser:
    """SimReg's normalisation: rows to length 1, then to the mean and variance that training rows of length 1 have.

    Args:
        rows: [n, D] features of the training images in the evaluation view.
        device: Where rows will be normalised.
    """

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        # In tiles: a second copy of all rows would be as large as they are.
        total, squares = torch.zeros(2, rows.shape[1], dtype=torch.float64)
        for tile in torch.split(rows, TILE_ROWS):
            unit = torch.nn.functional.normalize(tile).double()
            total += unit.sum(0)
            squares += unit.square().sum(0)
        mean = total / len(rows)
        variance = (squares - len(rows) * mean.square()) / (len(rows) - 1)
        self._mean = mean.to(device, rows.dtype)
        self._scale = (variance.clamp_min(0) + VARIANCE_EPS).rsqrt().to(device, rows.dtype)

    def __call__(self, rows: Tensor) -> Tensor:
        """Normalise rows [b, D]."""
        found: Tensor = (torch.nn.functional.normalize(rows) - self._mean) * self._scale
        return found


@dataclass(frozen=True)
class CachedBatches:
    """Rows [n, W] of every training image, in the order of `BatchOrder`.

    Attributes:
        rows: themselves; on the host where they are too large for the device.
        batch_size: rows in a step, over all processes.
        seed: seed of the order.
        device: where it is computed.
        standardise: what is done to the rows, or None.
    """

    rows: Tensor
    batch_size: int
    seed: int
    device: torch.device
    standardise: Standardiser | None = None

    def __call__(self, first_step: int, last_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `probe.Batches`."""
        share = self.batch_size // distributed.world_size()
        own = np.arange(share) + distributed.rank() * share
        permutation = lru_cache(maxsize=2)(self._permutation)
        for step in range(first_step, last_step):
            # Sample by sample, as BatchOrder has it, the order would take longer than the step.
            epochs, places = np.divmod(own + step * self.batch_size, len(self.rows))
            parts = [permutation(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
            index = torch.from_numpy(np.concatenate(parts))
            rows = self.rows[index.to(self.rows.device)].to(self.device)
            yield self.standardise(rows) if self.standardise else rows, index.to(self.device)

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        return stream(Purpose.ORDER, self.seed, epoch).permutation(len(self.rows))


def near(rows: Tensor, device: torch.device) -> Tensor:
    """Rows on the device, unless they would fill more than half of what is free there."""
    if device.type == "cuda" and rows.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return rows
    return rows.to(device)


@dataclass(frozen=True)
class ViewBatches:
    """Rows of random views: order and pixels are functions of seed, pass and image, on any number of processes.

    Attributes:
        backbone: frozen, on the device where it is computed.
        kind: the kind of features.
        images: the training images.
        size_px: side of a view.
        preset: how views are made, and how many a step has.
        seed: seed of order and views.
        forward_size: views in one forward pass.
        num_workers: loader processes; None takes this process's share of the cores.
        standardise: what is done to the rows, or None.
    """

    backbone: Backbone
    kind: str
    images: Images
    size_px: int
    preset: Preset
    seed: int
    forward_size: int
    num_workers: int | None
    standardise: Standardiser | None

    def __call__(self, first_step: int, last_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `probe.Batches`.

        Raises:
            DataError: An image cannot be read; another in its place would have the wrong label.
        """
        device, dtype = self.backbone.mean.device, self.backbone.mean.dtype
        views = TrainingViews(self.images, self._augmentation(), 1, self.seed, apply_colour=False)
        order = BatchOrder(len(self.images), self.preset.batch_size, self.seed)
        shares = RankBatches(order, first_step, last_step, distributed.rank(), distributed.world_size())
        for batch in loader(views, shares, self.num_workers, device):
            if batch.unreadable:
                named = self.images.id(batch.unreadable[0])
                raise DataError(f"data: cannot read {named} in {self.images.name}; repair or remove it")
            (pixels,) = batch.to_views(device, dtype)
            rows = torch.cat(
                [embed_views(self.backbone, some, self.kind) for some in torch.split(pixels, self.forward_size)]
            )
            yield self.standardise(rows) if self.standardise else rows, batch.index.to(device)

    def _augmentation(self) -> Augmentation:
        return Augmentation(
            size_px=self.size_px,
            crop_scale=self.preset.crop_scale,
            flip_prob=0.5,
            jitter_prob=0.0,
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
            hue=0.0,
            gray_prob=0.0,
            blur_prob=0.0,
            blur_sigma=(0.1, 0.1),
        )
