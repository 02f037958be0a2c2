"""What every task that learns from labels asks of them, and the training images it holds out to choose among fits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ukd.data import Labels
from ukd.errors import DataError

NAMED = 5
"""Classes that a message names."""


def check_classes(task: str, train_labels: Labels, test_labels: Labels, names: Sequence[str] | None) -> None:
    """Refuse labels that a classifier of this task could not be trained and tested with.

    Args:
        task: What the user called.
        train_labels: [n] any integers.
        test_labels: [q] any integers.
        names: Names of the class numbers, for messages.

    Raises:
        DataError: One class only, or a class of the test images without training images.
    """
    missing = np.setdiff1d(test_labels, train_labels)
    if len(missing):
        listed = ", ".join(names[each] if names and each < len(names) else str(each) for each in missing[:NAMED])
        more = ", ..." if len(missing) > NAMED else ""
        raise DataError(
            f"{task}: {len(missing)} classes of the test images have no training image ({listed}{more}); "
            "train and test must hold the same classes"
        )
    if len(np.unique(train_labels)) < 2:
        raise DataError(f"{task}: all training images are of one class; at least two are needed")


def stratified_holdout(task: str, labels: Labels, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Hold a share of every class out, rounded, but at least one image and never the only one.

    Args:
        task: What the user called.
        labels: [n] any integers.
        share: in (0, 1).
        seed: Seed of the choice.

    Returns:
        [n], true where held out.

    Raises:
        DataError: No class has a second image.
    """
    rng = np.random.default_rng(seed)
    heldout = np.zeros(len(labels), dtype=np.bool_)
    for each in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == each))
        heldout[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    if not heldout.any():
        raise DataError(f"{task}: every class has one training image, so none can be held out to choose by; give more")
    return heldout


def single_image_warning(labels: Labels) -> list[str]:
    """Say how many classes have one image, which `stratified_holdout` never takes."""
    single = int((np.unique(labels, return_counts=True)[1] == 1).sum())
    return [f"{single} classes have a single training image, which is never held out"] if single else []
