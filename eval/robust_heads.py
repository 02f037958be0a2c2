"""The classifiers whose robustness is measured: trained once, asked about every set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.logistic import LogisticFit, fit_warnings
from ukd.eval.logreg import PRESETS
from ukd.eval.presets import NamedPreset
from ukd.eval.robust import TEMP_ENDS, Scores, fit_temperature
from ukd.eval.splits import single_image_warning, stratified_holdout
from ukd.eval.votes import rank_of, weighted_vote
from ukd.neighbours import Floats, nearest

GRID = PRESETS["kornblith"]
Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Preset(NamedPreset):
    """A classifier, and what it is shown.

    Attributes:
        head: `logreg` or `knn`.
        corruptions: kinds of corruption.
        severities: their severities, 1 to 5.
        log10_c: ends of the grid of C, as powers of ten.
        num_c: values of C.
        heldout_share: share of each class held out of training to choose C and fit the temperature.
        tol: a fit is done once no entry of its gradient exceeds this.
        max_iter: steps after which a fit is given up, and reported.
        k: neighbours that vote.
        vote_temp: temperature of their votes.
    """

    head: Literal["logreg", "knn"]
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = ()
    log10_c: tuple[float, float] = GRID.log10_c
    num_c: int = GRID.num_c
    heldout_share: float = GRID.heldout_share
    tol: float = GRID.tol
    max_iter: int = GRID.max_iter
    k: int = 20
    vote_temp: float = 0.07


class Head(Protocol):
    """A trained classifier.

    Attributes:
        classes: [C] the classes of its scores, ascending.
        temp: Temperature of its probabilities; None where its scores are no logits.
        selection: How what was left open was chosen.
        warnings: What a reader must know.
    """

    classes: Labels
    temp: float | None
    selection: dict[str, float]
    warnings: Sequence[str]

    def scores(self, features: Floats) -> Scores:
        """Scores [n, C] of images [n, D]."""

    def correct(self, scores: Scores, targets: Labels) -> Correct:
        """Say of each row of scores [n, C'] whether it puts column `targets` [n] first; ties go to the lowest."""


def train_head(
    features: Floats, labels: Labels, preset: Preset, seed: int, advance: Callable[[int], None] | None = None
) -> Head:
    """Train a classifier.

    Args:
        features: [n, D].
        labels: [n] any integers, two of them different.
        preset: which one.
        seed: seed of the choice of held-out images.
        advance: called with 1 after every fit.

    Raises:
        DataError: fewer images than neighbours, or no class with a second image to hold out.
    """
    if preset.head == "knn":
        return _Neighbours(features, labels, preset)
    return _Regression(features, labels, preset, seed, advance)


class _Regression:
    """Logistic regression on all but the held-out images, on which C is chosen and then the temperature fitted.

    It is not fitted anew to all images: the temperature then belongs to the very classifier that is measured.
    """

    def __init__(
        self, features: Floats, labels: Labels, preset: Preset, seed: int, advance: Callable[[int], None] | None
    ) -> None:
        heldout = stratified_holdout("robust", labels, preset.heldout_share, seed)
        self._fit = LogisticFit(features[~heldout], labels[~heldout], tol=preset.tol, max_iter=preset.max_iter)
        curve = []
        for c in np.logspace(*preset.log10_c, preset.num_c).tolist():
            self._fit.to(c)
            top1 = float(self._fit.correct(features[heldout], labels[heldout]).mean())
            curve.append((c, self._fit.certificate()[0], top1))
            if advance:
                advance(1)
        c, _, top1 = max(curve, key=lambda fit: fit[2])
        self._fit.to(c)
        grad_norm, _ = self._fit.certificate()
        self.classes = self._fit.classes
        targets = np.searchsorted(self.classes, labels[heldout])
        self.temp: float | None = fit_temperature(self._fit.logits(features[heldout]), targets)
        self.selection = {"c": c, "heldout_top1": top1, "temp": self.temp, "grad_norm": grad_norm}
        self.selection["num_heldout"] = int(heldout.sum())
        warnings = [
            *fit_warnings(preset.name, preset.tol, [(c, norm) for c, norm, _ in curve], c, grad_norm),
            *single_image_warning(labels),
        ]
        if not TEMP_ENDS[0] * 1.01 < self.temp < TEMP_ENDS[1] / 1.01:
            warnings.append(
                f"{preset.name}: the temperature is {self.temp:.2g}, an end of its range: the {int(heldout.sum())} "
                "held-out images do not bound it"
            )
        self.warnings: Sequence[str] = warnings

    def scores(self, features: Floats) -> Scores:
        return self._fit.logits(features)

    def correct(self, scores: Scores, targets: Labels) -> Correct:
        right: Correct = scores.argmax(axis=1) == targets
        return right


class _Neighbours:
    """The weighted vote of the nearest training images; over the whole bank, whichever classes are then judged."""

    def __init__(self, features: Floats, labels: Labels, preset: Preset) -> None:
        if preset.k > len(features):
            raise DataError(f"robust: {preset.k} neighbours are to vote but there are {len(features)} training images")
        self._bank, self._preset = features, preset
        self.classes, self._numbers = np.unique(labels, return_inverse=True)
        self.temp: float | None = None
        self.selection: dict[str, float] = {}
        self.warnings: Sequence[str] = ()

    def scores(self, features: Floats) -> Scores:
        similarity, index = nearest(features, self._bank, self._preset.k)
        return weighted_vote(similarity, self._numbers[index], len(self.classes), self._preset.vote_temp)

    def correct(self, scores: Scores, targets: Labels) -> Correct:
        """An image none of whose neighbours is of a class that is judged is wrong."""
        right: Correct = rank_of(targets, scores) == 0
        return right
