"""How far the student's feature of an image is from its target: what regression objectives are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional

from ukd.similarity import cosine, result_dtype, soft_cross_entropy

Metric = Literal["cosine", "mse", "smooth_l1", "unic", "radio"]


def _cosine(student: Tensor, target: Tensor) -> Tensor:
    return 1 - cosine(student, target)


def _mse(student: Tensor, target: Tensor) -> Tensor:
    # In fp64, in which the square of no fp32 number overflows.
    return (student.double() - target.double()).square().mean(-1).to(result_dtype(student, target))


def _smooth_l1(student: Tensor, target: Tensor) -> Tensor:
    dtype = result_dtype(student, target)
    return functional.smooth_l1_loss(student.to(dtype), target.to(dtype), reduction="none").mean(-1)


_PARTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": _cosine, "mse": _mse, "smooth_l1": _smooth_l1}

WEIGHTS: dict[str, dict[str, float]] = {
    "cosine": {"cosine": 2.0},
    "mse": {"mse": 1.0},
    "smooth_l1": {"smooth_l1": 1.0},
    "unic": {"cosine": 0.5, "smooth_l1": 0.5},
    "radio": {"cosine": 0.9, "smooth_l1": 0.1},
}
"""Of what each metric is the weighted sum."""


def by_image(metric: Metric, student: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The parts of a metric, image by image.

    `cosine` is 2 - 2 cos, the squared distance of normalised features. The others are sums of 1 - cos, of the mean
    squared difference over the dimensions, and of the mean of h(difference), where h(x) is x^2 / 2 below 1 and
    |x| - 1 / 2 beyond.

    Args:
        metric: Which.
        student: [B, D], any floating dtype, not normalised.
        target: [B, D], as student.

    Returns:
        [B] by name of the part, weighted: fp64 if an argument is fp64, else fp32.
    """
    return {part: weight * _PARTS[part](student, target) for part, weight in WEIGHTS[metric].items()}


def cross_entropy_by_image(student: Tensor, target: Tensor, student_temp: float, target_temp: float) -> Tensor:
    """Cross-entropy of the softmax over the dimensions of the student under that of the target, image by image.

    Args:
        student: [B, D], any floating dtype, not normalised.
        target: [B, D], as student.
        student_temp: What the student's feature is divided by.
        target_temp: What the target is divided by.

    Returns:
        [B], at least the target's entropy: fp64 if an argument is fp64, else fp32.
    """
    dtype = result_dtype(student, target)
    return soft_cross_entropy(target.to(dtype) / target_temp, student.to(dtype) / student_temp)
