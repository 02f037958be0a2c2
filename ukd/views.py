"""Views: random crops cut in the loader, colour applied to whole batches on whatever device holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ukd.data import Pixels

NUM_COLOUR = 7
"""Columns of a colour row: brightness, contrast, saturation, hue, order, gray, blur sigma."""
_ORDERS = list(permutations(range(4)))
_CROP_TRIES = 10
_CROP_RATIO = (3 / 4, 4 / 3)
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """How a random view is made; the arguments are those of `ukd.recipe.ViewSpec`, which documents them."""

    size_px: int
    crop_scale: tuple[float, float]
    flip_prob: float
    jitter_prob: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    gray_prob: float
    blur_prob: float
    blur_sigma: tuple[float, float]

    def crop(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Cuts a random resized crop, perhaps flipped: uint8 [H, W, 3] to uint8 [S, S, 3]."""
        box = _crop_box(pixels.shape[0], pixels.shape[1], self.crop_scale, rng)
        image = Image.fromarray(pixels).resize((self.size_px, self.size_px), Image.Resampling.BILINEAR, box=box)
        if rng.random() < self.flip_prob:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    def draw_colour(self, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Draws one colour row [NUM_COLOUR]; neutral values where a change is left out."""
        row = np.array([1, 1, 1, 0, 0, 0, 0], dtype=np.float32)
        jitter, gray, blur, brightness, contrast, saturation, hue, order, sigma = rng.random(9)
        if jitter < self.jitter_prob:
            row[0] = _between(brightness, max(0.0, 1 - self.brightness), 1 + self.brightness)
            row[1] = _between(contrast, max(0.0, 1 - self.contrast), 1 + self.contrast)
            row[2] = _between(saturation, max(0.0, 1 - self.saturation), 1 + self.saturation)
            row[3] = _between(hue, -self.hue, self.hue)
            row[4] = int(order * len(_ORDERS))
        row[5] = gray < self.gray_prob
        if blur < self.blur_prob:
            row[6] = _between(sigma, *self.blur_sigma) * self.size_px / 224
        return row


def evaluation_view(pixels: Pixels, size_px: int, crop_pct: float) -> Pixels:
    """Resizes the shorter side to size_px / crop_pct (bicubic) and cuts the centre: uint8 [H, W, 3] to [S, S, 3].

    Rounds as timm's evaluation and torchvision's Resize and CenterCrop do, so that published figures can be met.
    """
    height, width = pixels.shape[:2]
    short_px = math.floor(size_px / crop_pct)
    resized = (short_px * width // min(height, width), short_px * height // min(height, width))
    image = Image.fromarray(pixels)
    if image.size != resized:
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = round((resized[0] - size_px) / 2), round((resized[1] - size_px) / 2)
    return np.asarray(image.crop((left, top, left + size_px, top + size_px)))


def to_unit_range(pixels: Tensor) -> Tensor:
    """Turns uint8 [..., H, W, 3] into float32 [..., 3, H, W] in [0, 1], in channels-last memory."""
    return pixels.movedim(-1, -3).float().div_(255)


def apply_colour(views: Tensor, colour: Tensor) -> Tensor:
    """Applies each view's own colour row. Each result depends on its own view and row alone, not on the batch.

    Args:
        views: [B, 3, H, W] float RGB in [0, 1]; changed in place.
        colour: [B, NUM_COLOUR] as drawn by `Augmentation.draw_colour`.

    Returns:
        [B, 3, H, W] float RGB in [0, 1].
    """
    order = torch.tensor(_ORDERS, device=colour.device)[colour[:, 4].long()]
    jittered = (colour[:, :4] != colour.new_tensor([1.0, 1.0, 1.0, 0.0])).any(1)
    for place in range(4):
        for change, apply in enumerate((_brightness, _contrast, _saturation, _hue)):
            chosen = torch.nonzero(jittered & (order[:, place] == change)).flatten()
            if len(chosen):
                views[chosen] = apply(views[chosen], colour[chosen, change].view(-1, 1, 1, 1)).clamp_(0, 1)
    gray = torch.nonzero(colour[:, 5]).flatten()
    if len(gray):
        views[gray] = _luma(views[gray]).expand(-1, 3, -1, -1)
    blurred = torch.nonzero(colour[:, 6]).flatten()
    if len(blurred):
        views[blurred] = _blur(views[blurred], colour[blurred, 6])
    return views


def _crop_box(
    height: int, width: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random box (left, top, right, bottom) of Inception's crop: area share in `scale`, aspect in [3/4, 4/3]."""
    area = rng.uniform(*scale, size=_CROP_TRIES) * height * width
    ratio = np.exp(rng.uniform(math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1]), size=_CROP_TRIES))
    widths, heights = np.round(np.sqrt(area * ratio)), np.round(np.sqrt(area / ratio))
    place_x, place_y = rng.random(2)
    fits = np.flatnonzero((widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height))
    if len(fits):
        box_w, box_h = int(widths[fits[0]]), int(heights[fits[0]])
        left, top = int(place_x * (width - box_w + 1)), int(place_y * (height - box_h + 1))
    else:
        box_w = min(width, round(height * _CROP_RATIO[1]))
        box_h = min(height, round(width / _CROP_RATIO[0]))
        left, top = (width - box_w) // 2, (height - box_h) // 2
    return left, top, left + box_w, top + box_h


def _between(unit: float, low: float, high: float) -> float:
    return low + unit * (high - low)


def _luma(views: Tensor) -> Tensor:
    red, green, blue = views.unbind(1)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]).unsqueeze(1)


def _brightness(views: Tensor, factor: Tensor) -> Tensor:
    return views * factor


def _contrast(views: Tensor, factor: Tensor) -> Tensor:
    # In two steps: torch splits a single large sum among threads, so that one view alone would sum up differently.
    mean = _luma(views).mean(3, keepdim=True).mean(2, keepdim=True)
    return mean + (views - mean) * factor


def _saturation(views: Tensor, factor: Tensor) -> Tensor:
    gray = _luma(views)
    return gray + (views - gray) * factor


def _hue(views: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue by `shift` of a full circle, through HSV (Smith, SIGGRAPH 1978)."""
    value, top = views.max(1)
    chroma = value - views.amin(1)
    red, green, blue = views.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.stack(((green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4), 1)
    hue = sector.gather(1, top.unsqueeze(1)) + 6 * shift
    offset = torch.tensor([5.0, 3.0, 1.0], device=views.device).view(1, 3, 1, 1)
    k = (offset + hue) % 6
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp_(0, 1)


def _blur(views: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, radius a twentieth of the side (SimCLR), tap by tap so that other views do not matter."""
    radius = max(1, round(views.shape[-1] * 0.05))
    offsets = torch.arange(-radius, radius + 1, device=views.device)
    taps = torch.exp(-0.5 * (offsets / sigma.unsqueeze(1)) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    for dim in (2, 3):
        padding = (radius, radius, 0, 0) if dim == 3 else (0, 0, radius, radius)
        padded = torch.nn.functional.pad(views, padding, mode="reflect")
        length = views.shape[dim]
        views = torch.zeros_like(views)
        for tap in range(2 * radius + 1):
            views += padded.narrow(dim, tap, length) * taps[:, tap].view(-1, 1, 1, 1)
    return views
