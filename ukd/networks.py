"""Networks: timm models that take plain RGB views, each with a normalisation and an input size of its own."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from ukd.features import NOTHING_MORE, Features, Masking, Shape, Wanted
from ukd.internals import run, shape_of

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class BackboneInfo:
    """What it takes to rebuild a backbone and to feed it; stored as JSON beside every export.

    Attributes:
        arch: timm name.
        kwargs: Further arguments of `timm.create_model`.
        input_px: Views are resized to this side, or None for any size.
        mean: Normalisation mean of RGB in [0, 1].
        std: Normalisation standard deviation of RGB in [0, 1].
        size_px: Side of the evaluation image.
        crop_pct: Share of the resized image's side that the evaluation's centre crop keeps.
    """

    arch: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    input_px: int | None = None
    mean: RGB = IMAGENET_DEFAULT_MEAN
    std: RGB = IMAGENET_DEFAULT_STD
    size_px: int = 224
    crop_pct: float = 0.875

    def as_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


class Backbone(nn.Module):
    """A timm model that normalises and resizes plain RGB views itself.

    Args:
        model: A timm model without a classifier.
        info: How it was made and how it is fed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, info: BackboneInfo) -> None:
        super().__init__()
        self.model = model
        self.info = info
        self.register_buffer("mean", torch.tensor(info.mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(info.std, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    @property
    def num_parameters(self) -> int:
        """Parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its weights."""
        return next((parameter.dtype for parameter in self.model.parameters()), self.mean.dtype)

    @property
    def precision(self) -> str:
        """The name of that dtype, such as `float32`."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def shape(self) -> Shape:
        """The widths of its features."""
        return shape_of(self.model, self.info.arch)

    @property
    def dim(self) -> int:
        """Width of its pooled feature."""
        return self.shape.pooled

    def forward(self, views: Tensor, wanted: Wanted = NOTHING_MORE, masking: Masking | None = None) -> Features:
        """Turns views into features.

        Args:
            views: [B, 3, H, W], RGB in [0, 1] and not normalised.
            wanted: What to give beside `pooled` [B, dim].
            masking: Hide patches from the model.

        Raises:
            UserError: The model has no such thing to give.
        """
        if self.info.input_px and views.shape[-1] != self.info.input_px:
            size = (self.info.input_px, self.info.input_px)
            views = nn.functional.interpolate(views, size, mode="bicubic", antialias=True).clamp(0, 1)
        normalised = ((views - self.mean) / self.std).to(self.dtype)
        return run(self.model, self.info.arch, normalised, wanted, masking)

    def weights_hash(self) -> str:
        """sha256 hex over every weight and statistic of the model, in the order of their names."""
        digest = hashlib.sha256()
        for name, value in sorted(self._weights().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _weights(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())
