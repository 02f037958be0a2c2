"""MixUp and CutMix of whole batches, on whatever device holds them: done once, before any network sees the views."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ukd.rng import Purpose, stream


class Mix(NamedTuple):
    """How every image of a batch is mixed with its partner."""

    share: float
    """Share of the image itself, in [0, 1]; for a patch, before its sides are rounded to pixels."""
    place: tuple[float, float] | None
    """Centre of the patch that the partner covers, as shares of height and width; None blends the whole images."""


def draw_mix(seed: int, step: int, mixup_prob: float, cutmix_prob: float) -> Mix | None:
    """Draws how the batch of a step is mixed: the same for all its images, views and processes.

    MixUp (Zhang et al., ICLR 2018, arXiv:1710.09412) and CutMix (Yun et al., ICCV 2019, arXiv:1905.04899), each with
    a share drawn uniformly from [0, 1], as "patient and consistent" teaching does (Beyer et al., CVPR 2022,
    arXiv:2106.05237).

    Args:
        seed: The recipe's seed.
        step: The step.
        mixup_prob: Probability of MixUp.
        cutmix_prob: Probability of CutMix; both together at most 1.

    Returns:
        None for a batch that is left as it is.
    """
    rng = stream(Purpose.MIXING, seed, step)
    kind, share, *place = rng.random(4)
    if kind >= mixup_prob + cutmix_prob:
        return None
    return Mix(share, None if kind < mixup_prob else (place[0], place[1]))


def draw_cutmix(seed: int, step: int, alpha: float) -> Mix:
    """Draws a CutMix of a step with a share from Beta(alpha, alpha)."""
    rng = stream(Purpose.MIXING, seed, step, 1)
    place = rng.random(2)
    return Mix(float(rng.beta(alpha, alpha)), (float(place[0]), float(place[1])))


def mix_views(views: Tensor, partners: Tensor, mix: Mix) -> tuple[Tensor, float]:
    """Mixes views with those of their partners.

    Args:
        views: [B, 3, H, W].
        partners: [B, 3, H, W].
        mix: How.

    Returns:
        The mixed views, and the share of them that comes from `views`.
    """
    if mix.place is None:
        return views * mix.share + partners * (1 - mix.share), mix.share
    height, width = views.shape[-2:]
    top, bottom = _span(height, mix.place[0], mix.share)
    left, right = _span(width, mix.place[1], mix.share)
    mixed = views.clone()
    mixed[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def in_pairs(views: Tensor) -> Tensor:
    """Each image's partner: of every two consecutive images the other one, so that ranks need not exchange any.

    Args:
        views: [B, ...] with an even B.
    """
    return views.view(-1, 2, *views.shape[1:]).flip(1).view_as(views)


def _span(length: int, centre: float, share: float) -> tuple[int, int]:
    """Pixels of one side that a patch covers; a patch beyond the border is cut off there."""
    half = length * np.sqrt(1 - share) / 2
    first, last = round(centre * length - half), round(centre * length + half)
    return max(0, first), min(length, last)
