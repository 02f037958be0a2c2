"""PCA whitening, fitted on images that are not searched. Pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ukd.errors import DataError
from ukd.neighbours import Floats, nearest

MIN_SHARE = 1e-10
"""Directions of less variance than this share of the largest have none but for rounding."""
SAME_IMAGE = 1e-4
"""Features whose cosine about the mean falls short of 1 by less than this are of one image."""
MAX_SHARED = 0.5
"""Images that share more of the database than this are the database, whatever their folder is called."""


@dataclass(frozen=True)
class Whitening:
    """x to (x - mean) directions, in which the images it was fitted on have variance 1 everywhere.

    Attributes:
        mean: [D].
        directions: [D, r], eigenvectors of the covariance over their standard deviations, largest first.
        num_images: Images it was fitted on.
    """

    mean: npt.NDArray[np.float64]
    directions: npt.NDArray[np.float64]
    num_images: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know."""
        dim, kept = self.directions.shape
        if kept == dim:
            return ()
        return (f"whitening: {self.num_images} images vary in {kept} of {dim} dimensions; the others are dropped",)

    def __call__(self, features: Floats) -> npt.NDArray[np.float32]:
        """Whiten features [n, D] to [n, r]."""
        return ((features - self.mean) @ self.directions).astype(np.float32)


def fit(features: Floats) -> Whitening:
    """Fit on features [n, D] of images that are neither searched nor searched for.

    The covariance is about the mean. facebookresearch/dino:eval_copy_detection.py takes the mean off what it whitens
    but not off what it fits on, so that its first direction is that of the mean itself; here it is off both.

    Raises:
        DataError: The features do not vary.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    variance, vectors = np.linalg.eigh(centred.T @ centred / len(features))
    kept = variance > MIN_SHARE * np.square(features, dtype=np.float64).sum(axis=1).mean()
    if not kept.any():
        raise DataError(f"--whiten: all {len(features)} images have the same features; more varied ones are needed")
    directions = vectors[:, kept] / np.sqrt(variance[kept])
    return Whitening(mean, directions[:, ::-1], len(features))


def refuse_shared(fitted: Floats, evaluated: Floats, name: str) -> tuple[str, ...]:
    """Refuse whitening that is fitted on the images it is evaluated on, whatever their folders are called.

    An image is known by its feature, about the mean of all: rounding, which depends on the batch, moves that by less
    than SAME_IMAGE allows, and another image's, even under an untrained network, is further away.

    Args:
        fitted: [m, D] features of the images to fit on, not all alike.
        evaluated: [n, D] features of the database, by the same model.
        name: Where the images to fit on come from.

    Returns:
        What a reader must know, if some images are in both.

    Raises:
        DataError: More than MAX_SHARED of the database is among them.
    """
    mean = fitted.mean(axis=0, dtype=np.float64)
    shared = int((nearest(evaluated - mean, fitted - mean, 1)[0] > 1 - SAME_IMAGE).sum())
    if shared > MAX_SHARED * len(evaluated):
        raise DataError(
            f"--whiten: {name} holds {shared} of the {len(evaluated)} images that are evaluated; whitening must be "
            "fitted on another set"
        )
    return (f"whitening: {shared} of the {len(evaluated)} images of the database are in {name}",) if shared else ()
