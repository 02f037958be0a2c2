"""Robustness and calibration of a classifier's scores. Pure functions of arrays.

Shifted sets that hold some of the classes are judged among those alone, as ImageNet-A and -R ask for (Hendrycks et al.
2021, arXiv:1907.07174 and arXiv:2006.16241); ReaL counts any of several right labels (Beyer et al. 2020,
arXiv:2006.07159); mCE weighs each corruption by how hard a reference finds it (Hendrycks & Dietterich 2019,
arXiv:1903.12261); calibration error and temperature are those of Guo et al. 2017 (arXiv:1706.04599).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ukd.data import Labels
from ukd.errors import DataError

Scores = npt.NDArray[np.float64]

NUM_BINS = 15
TEMP_ENDS = (0.01, 100.0)
"""Between which the temperature is looked for."""
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""Top-1 errors of AlexNet on the official ImageNet-C, means over the five severities (hendrycks/robustness)."""


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be believed.

    Attributes:
        ece: expected calibration error, in [0, 1].
        nll: mean negative log-likelihood of the labels, in nats.
        brier: mean over the images of the summed squared errors of all probabilities, in [0, 2].
    """

    ece: float
    nll: float
    brier: float


def among(scores: Scores, classes: Labels, subset: Labels) -> Scores:
    """Keep the columns of some classes.

    Args:
        scores: [n, C].
        classes: [C] the class of each column, ascending.
        subset: the classes to keep, ascending, all of them among the columns'.

    Returns:
        [n, len(subset)].
    """
    return scores[:, np.searchsorted(classes, subset)]


def correct_by_real(predicted: Labels, right: Sequence[Sequence[int]]) -> npt.NDArray[np.bool_]:
    """Say of each image that has a right label at all whether its prediction is one.

    Args:
        predicted: [n] class numbers.
        right: the right labels of each image; an image without any is dropped.

    Raises:
        DataError: no image has a label.
    """
    found = [bool(each in labels) for each, labels in zip(predicted.tolist(), right, strict=True) if labels]
    if not found:
        raise DataError("robust: --real gives no image a label")
    return np.array(found)


def calibration(logits: Scores, targets: Labels, temp: float) -> Calibration:
    """Measure the probabilities softmax(logits / temp).

    Args:
        logits: [n, C].
        targets: [n] columns of the right classes.
        temp: above 0.
    """
    log_probs = log_softmax(logits / temp, axis=1)
    probs = np.exp(log_probs)
    rows = np.arange(len(targets))
    off = probs.copy()
    off[rows, targets] -= 1
    correct = logits.argmax(axis=1) == targets
    return Calibration(
        expected_calibration_error(probs.max(axis=1), correct),
        float(-log_probs[rows, targets].mean()),
        float(np.square(off).sum(axis=1).mean()),
    )


def expected_calibration_error(confidence: Scores, correct: npt.NDArray[np.bool_]) -> float:
    """Average |accuracy - confidence| over 15 equally wide bins (b - 1, b] / 15, by the images in each.

    Args:
        confidence: [n] probability of the predicted class, in (0, 1].
        correct: [n] whether it is the right one.
    """
    number = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    # The bins' sums of (correct - confidence): their sizes cancel.
    gaps = np.bincount(number, correct - confidence, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def fit_temperature(logits: Scores, targets: Labels) -> float:
    """Find the temperature in [0.01, 100] that makes the labels likeliest.

    Args:
        logits: [n, C] of images that the classifier was not trained on.
        targets: [n] columns of the right classes.
    """
    rows = np.arange(len(targets))

    def nll(log_temp: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temp), axis=1)[rows, targets].mean())

    found = minimize_scalar(nll, bounds=tuple(np.log(TEMP_ENDS)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def mean_corruption_error(errors: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Average over the corruptions the error divided by the reference's; 1 for the reference itself.

    Args:
        errors: mean error over the severities by kind of corruption.
        reference: the reference's, on the same severities.

    Raises:
        DataError: the reference makes no error on one.
    """
    perfect = [kind for kind in errors if reference[kind] == 0]
    if perfect:
        raise DataError(
            f"robust: the reference makes no error on {', '.join(perfect)}, and nothing can be relative to none; give "
            "another --reference, higher severities or more images"
        )
    return float(np.mean([error / reference[kind] for kind, error in errors.items()]))
