"""The fifteen common corruptions of ImageNet-C, made on the fly: not its official files.

Hendrycks & Dietterich 2019 (arXiv:1903.12261, section 3 and appendix B); the constants of the five severities are
those of hendrycks/robustness:ImageNet-C/create_c/make_imagenet_c.py, for views of 224 pixels. Lengths shrink with
smaller views, as the authors' own do for CIFAR. What differs from the official files: no JPEG compression of all images
in the end; frosted glass displaces pixels where they swap them; fog sums octaves of noise where they subdivide a
square; and frost is a fractal texture, as theirs are photographs that are not ours to pass on.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from ukd.data import Pixels
from ukd.eval.image_filters import Colour, blurred, filtered, plasma, streak, zoomed

SIDE_PX = 224
"""Side of the views that the lengths below are of."""
NUM_SEVERITIES = 5
_ELASTIC_PX = 244  # Not 224: so it stands in the authors' code.
_FROST_TINT = np.array([0.85, 0.95, 1.0])
_LUMA = np.array([0.299, 0.587, 0.114])


def corrupt(pixels: Pixels, kind: str, severity: int, rng: np.random.Generator) -> Pixels:
    """Corrupt a view.

    Args:
        pixels: uint8 [S, S, 3], a view as the model is shown it.
        kind: One of `KINDS`.
        severity: 1 to 5.
        rng: What is random is drawn from it.

    Returns:
        uint8 [S, S, 3].
    """
    corrupted = KINDS[kind](pixels / 255.0, severity - 1, rng)
    return np.round(np.clip(corrupted, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(view: Colour, level: int, rng: np.random.Generator) -> Colour:
    return view + rng.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[level], size=view.shape)


def _shot_noise(view: Colour, level: int, rng: np.random.Generator) -> Colour:
    photons = (60, 25, 12, 5, 3)[level]
    return rng.poisson(view * photons) / photons


def _impulse_noise(view: Colour, level: int, rng: np.random.Generator) -> Colour:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    drawn = rng.random(view.shape)
    return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, view))


def _defocus_blur(view: Colour, level: int, _: np.random.Generator) -> Colour:
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    scale = _scale(view)
    reach, fine = int(np.ceil(radius * scale)) + 1, 9
    # Each tap is the covered share of its pixel, so that radii below a pixel blur too.
    places = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    disk = (
        (np.hypot(places[:, None], places) <= radius * scale)
        .reshape(2 * reach + 1, fine, 2 * reach + 1, fine)
        .mean(axis=(1, 3))
    )
    return filtered(view, ndimage.gaussian_filter(disk, softness * scale))


def _glass_blur(view: Colour, level: int, rng: np.random.Generator) -> Colour:
    sigma, reach_px, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    scale, side = _scale(view), len(view)
    reach = max(1, round(reach_px * scale))
    shuffled = blurred(view, sigma * scale)
    for _ in range(rounds):
        rows, columns = np.clip(np.mgrid[:side, :side] + rng.integers(-reach, reach + 1, (2, side, side)), 0, side - 1)
        shuffled = shuffled[rows, columns]
    return blurred(shuffled, sigma * scale)


def _motion_blur(view: Colour, level: int, rng: np.random.Generator) -> Colour:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    scale = _scale(view)
    return filtered(view, streak(radius * scale, sigma * scale, rng.uniform(-45, 45)))


def _zoom_blur(view: Colour, level: int, _: np.random.Generator) -> Colour:
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    zooms = np.arange(1, end, step)
    return (view + sum(zoomed(view, zoom) for zoom in zooms)) / (len(zooms) + 1)


def _snow(view: Colour, level: int, rng: np.random.Generator) -> Colour:
    mean, std, zoom, threshold, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    flakes = zoomed(rng.normal(mean, std, (*view.shape[:2], 1)), max(1.0, zoom * _scale(view)))
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    falling = filtered(flakes, streak(radius * _scale(view), sigma * _scale(view), rng.uniform(-135, -45)))
    whitened = np.maximum(view, (view @ _LUMA)[..., None] * 1.5 + 0.5)
    snowed: Colour = kept * view + (1 - kept) * whitened + falling + np.rot90(falling, 2)
    return snowed


def _frost(view: Colour, level: int, rng: np.random.Generator) -> Colour:
    kept, laid = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    crystals = 1 - np.abs(2 * plasma(len(view), 1.6, rng) - 1)
    frosted: Colour = kept * view + laid * crystals[..., None] ** 2 * _FROST_TINT
    return frosted


def _fog(view: Colour, level: int, rng: np.random.Generator) -> Colour:
    density, decay = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[level]
    # Their amplitude is the square of what they divide by the decay at each step.
    foggy: Colour = view + density * plasma(len(view), decay**2, rng)[..., None]
    dimmed: Colour = foggy * view.max() / (view.max() + density)
    return dimmed


def _brightness(view: Colour, level: int, _: np.random.Generator) -> Colour:
    """Adds to the value of HSV; hue and saturation stay."""
    value = view.max(axis=2, keepdims=True)
    brighter = np.clip(value + (0.1, 0.2, 0.3, 0.4, 0.5)[level], 0, 1)
    lit: Colour = np.where(value > 0, view * brighter / np.where(value > 0, value, 1), brighter)
    return lit


def _contrast(view: Colour, level: int, _: np.random.Generator) -> Colour:
    mean = view.mean(axis=(0, 1), keepdims=True)
    paler: Colour = mean + (view - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level]
    return paler


def _elastic_transform(view: Colour, level: int, rng: np.random.Generator) -> Colour:
    share, smooth, bend = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))[
        level
    ]
    px, side = _ELASTIC_PX * _scale(view), len(view)
    middle, third = side // 2, side // 3
    corners = np.array([[middle + third] * 2, [middle + third, middle - third], [middle - third] * 2], dtype=np.float64)
    moved = corners + rng.uniform(-bend * px, bend * px, corners.shape)
    # The affine map from moved corners back to where they were: what the output is read at.
    affine = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners)
    places = np.stack([*np.mgrid[:side, :side].astype(np.float64), np.ones((side, side))], axis=-1)
    field = rng.uniform(-1, 1, (2, side, side))
    shifts = [ndimage.gaussian_filter(each, smooth * px, mode="reflect", truncate=3) * share * px for each in field]
    places[..., 0] += shifts[0]
    places[..., 1] += shifts[1]
    at = np.moveaxis(places @ affine, -1, 0)
    return np.stack([ndimage.map_coordinates(view[..., c], at, order=1, mode="reflect") for c in range(3)], axis=-1)


def _pixelate(view: Colour, level: int, _: np.random.Generator) -> Colour:
    side = len(view)
    small = max(1, int(side * (0.6, 0.5, 0.4, 0.3, 0.25)[level]))
    image = _image(view).resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)
    return np.asarray(image) / 255.0


def _jpeg_compression(view: Colour, level: int, _: np.random.Generator) -> Colour:
    stored = io.BytesIO()
    _image(view).save(stored, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return np.asarray(Image.open(stored)) / 255.0


KINDS: dict[str, Callable[[Colour, int, np.random.Generator], Colour]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""The corruptions, in the paper's order."""


def _scale(view: Colour) -> float:
    return len(view) / SIDE_PX


def _image(view: Colour) -> Image.Image:
    return Image.fromarray(np.round(view * 255).astype(np.uint8))
