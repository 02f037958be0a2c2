"""Whole images: views that keep what a square crop cuts off, for models that take any size, or can be made to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from ukd.backbones import Backbone, Teacher, build_backbone
from ukd.data import Images, Pixels
from ukd.errors import WeightsError
from ukd.extractor import Extracted, Extractor
from ukd.features import Wanted
from ukd.loading import PixelBatch, Unreadable, loader, read_or_next

MIN_TOKEN = 1e-6
"""Generalised means take roots, so tokens below this count as this."""


@dataclass(frozen=True)
class WholeView:
    """How an image is shown without cutting anything off.

    Attributes:
        image_px: Longer side, to which larger images are shrunk in proportion, or both sides if squashed.
        squash: Stretch every image to a square.
        scales: Shares of that size at which it is shown; its features are the mean over them.
        gem: Exponent of a generalised mean over tokens (Radenovic et al. 2018, arXiv:1711.02512) that is joined to the
            pooled feature; None leaves it alone.
    """

    image_px: int
    squash: bool = False
    scales: tuple[float, ...] = (1.0,)
    gem: float | None = None

    @property
    def kind(self) -> str:
        """What a row of features consists of."""
        return "pooled" if self.gem is None else f"pooled+gem{self.gem:g}"

    def of(self, pixels: Pixels) -> Pixels:
        """Show uint8 RGB [H, W, 3] at full scale."""
        image = Image.fromarray(pixels)
        if self.squash:
            return np.asarray(image.resize((self.image_px, self.image_px), Image.Resampling.BICUBIC))
        image.thumbnail((self.image_px, self.image_px), Image.Resampling.LANCZOS)
        return np.asarray(image)


@dataclass(frozen=True)
class WholeImages(Extractor):
    """An extractor of whole images, one at a time unless they are squashed to one size.

    Attributes:
        whole: How images are shown; `size_px` and `crop_pct` are not used.
    """

    whole: WholeView = WholeView(224)

    def key(self) -> dict[str, Any]:
        """All that the rows depend on, as JSON values."""
        return {**super().key(), "view": asdict(self.whole), "features": self.whole.kind}

    def width(self) -> int:
        """Width of a row."""
        shape = self.backbone.shape
        return shape.pooled + (0 if self.whole.gem is None else shape.tokens)

    @torch.no_grad()
    def run(self, blocks: Sequence[range], unreadable: Unreadable) -> Iterator[Extracted]:
        """Embed blocks of images, as `Extractor.run`."""
        size = self.batch_size if self.whole.squash else 1
        batches = [
            [list(range(first, min(first + size, block.stop))) for first in range(block.start, block.stop, size)]
            for block in blocks
        ]
        dataset = _WholeViews(self.images, self.whole)
        loaded = iter(loader(dataset, [batch for each in batches for batch in each], self.num_workers, self.device))
        for block, own in zip(blocks, batches, strict=True):
            rows, missing = [], set[int]()
            for _ in own:
                batch = next(loaded)
                self.report(unreadable, batch.unreadable)
                missing.update(batch.unreadable)
                (shown,) = batch.to_views(self.device, self.backbone.mean.dtype)
                rows.append(describe(self.backbone, shown, self.whole).cpu())
                if self.advance:
                    self.advance(len(shown))
            yield Extracted(block, torch.cat(rows).numpy(), sorted(missing))


def describe(backbone: Backbone, views: Tensor, whole: WholeView) -> Tensor:
    """Average the features of views over the scales.

    Args:
        backbone: One that takes any size, as `any_size` makes it.
        views: [B, 3, H, W], RGB in [0, 1] and not normalised.
        whole: The scales, and what the features are.

    Returns:
        fp32 [B, D], not normalised.
    """
    patch_px = _patch_px(backbone.model)
    rows = []
    for scale in whole.scales:
        height, width = (max(patch_px, math.floor(side * scale)) for side in views.shape[-2:])
        shown = views
        if (height, width) != tuple(views.shape[-2:]):
            shown = nn.functional.interpolate(views, (height, width), mode="bilinear")
        # A ViT sees whole patches only; convolutions leave out what is left over in just this way.
        shown = shown[..., : height // patch_px * patch_px, : width // patch_px * patch_px]
        features = backbone(shown, Wanted(tokens=whole.gem is not None))
        row = features.pooled.float()
        if whole.gem is not None:
            tokens = cast(Tensor, features.tokens).float().clamp(min=MIN_TOKEN)
            row = torch.cat([row, tokens.pow(whole.gem).mean(1).pow(1 / whole.gem)], dim=1)
        rows.append(row)
    return torch.stack(rows).mean(0)


@lru_cache(maxsize=1)  # Database and queries are described one after the other by the same model.
def any_size(backbone: Backbone) -> Backbone:
    """Make a frozen backbone of the same weights that takes views of any size, and resizes none itself.

    A ViT built for one size is built anew with position embeddings that timm interpolates.

    Raises:
        WeightsError: The architecture takes one size only.
    """
    info, head = replace(backbone.info, input_px=None), backbone.head if isinstance(backbone, Teacher) else None
    free = Teacher(backbone.model, info, head)
    if _takes_any_size(free):
        return free
    kwargs = {**info.kwargs, "dynamic_img_size": True}
    try:
        model = build_backbone(arch=info.arch, kwargs=kwargs, frozen=True).model
        model.load_state_dict(backbone.model.state_dict())
    except (WeightsError, RuntimeError):
        model = backbone.model
    free = Teacher(model, replace(info, kwargs=kwargs), head).to(backbone.mean.device)
    if not _takes_any_size(free):
        raise WeightsError(
            f"retrieval: {info.arch} takes images of one size only, and this benchmark shows them whole, in their own "
            "proportions or larger; choose a CNN or a plain ViT"
        )
    return free


@torch.no_grad()
def _takes_any_size(backbone: Backbone) -> bool:
    """Show it a black view of an odd shape."""
    patch_px = _patch_px(backbone.model)
    side_px = math.ceil(32 / patch_px) * patch_px
    view = torch.zeros(1, 3, 3 * side_px, 5 * side_px, dtype=backbone.mean.dtype, device=backbone.mean.device)
    try:
        backbone(view)
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def _patch_px(model: nn.Module) -> int:
    """Side of a ViT's patches; 1 for a model without any."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    return int(size[0] if isinstance(size, tuple) else size)


class _WholeViews(Dataset[PixelBatch]):
    """Whole images by number; the DataLoader asks it for batches of one size."""

    def __init__(self, images: Images, whole: WholeView) -> None:
        self._images = images
        self._whole = whole

    def __getitems__(self, indices: Sequence[int]) -> PixelBatch:
        shown, unreadable = [], list[int]()
        for index in indices:
            pixels, missing = read_or_next(self._images, index)
            unreadable += missing
            shown.append(self._whole.of(pixels))
        return PixelBatch(torch.from_numpy(np.stack(shown))[None], None, torch.tensor(list(indices)), unreadable)
