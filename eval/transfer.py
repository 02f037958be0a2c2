"""Transfer of frozen features: logistic regression on one data set after another, each with its own metric and split.

Kornblith et al. 2019 (arXiv:1805.08974, section 3.1): L2-regularised multinomial logistic regression on features as
they are, 45 values of the weight decay 1 / C tried on validation images, the best fitted anew to training and
validation images together. VOC2007 has a binary regression for each class, all of one C, and its own 11-point average
precision (Everingham et al. 2010, section 4.2). C is chosen by the set's own metric. Pure functions of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.intervals import bootstrap, bootstrap_per_class
from ukd.eval.logistic import LogisticFit, fit_warnings
from ukd.eval.logistic_grid import Head
from ukd.eval.logreg import PRESETS
from ukd.eval.presets import NamedPreset
from ukd.eval.results import Metric
from ukd.eval.solvers import fit_grid
from ukd.eval.splits import NAMED, check_classes, single_image_warning
from ukd.eval.transfer_suite import MetricName
from ukd.neighbours import Floats

Marks = Labels
"""[n] class numbers, or [n, C] of several classes an image: 1 shown, 0 not to be judged, -1 not shown."""
GRID = PRESETS["kornblith"]


class Use(IntEnum):
    """What an image of a set is for."""

    TRAIN = 0
    VAL = 1
    TEST = 2


@dataclass(frozen=True)
class Preset(NamedPreset):
    """How one set is measured.

    Attributes:
        metric: `top1`, `mean_per_class` or `map_11point`.
        train: source of the training images.
        val: source of the images that C is chosen on, or how they are taken from the training images.
        test: source of the test images, or how they are taken from the training images.
        log10_c: ends of the grid of C, as powers of ten.
        num_c: values of C, evenly spaced in their logarithm.
        tol: a fit is done once no entry of its gradient exceeds this (see `LogisticFit`).
        max_iter: steps of the solver after which a fit is given up, and reported.
    """

    metric: MetricName
    train: str
    val: str
    test: str
    log10_c: tuple[float, float] = GRID.log10_c
    num_c: int = GRID.num_c
    tol: float = GRID.tol
    max_iter: int = GRID.max_iter

    @property
    def cs(self) -> list[float]:
        """The grid, ascending."""
        return [float(c) for c in np.logspace(*self.log10_c, self.num_c)]


@dataclass(frozen=True)
class Candidate:
    """One C of the grid: its figure on the validation images, and the largest entry of the gradient of its fit."""

    c: float
    val: float
    grad_norm: float


@dataclass(frozen=True)
class TransferResult:
    """The figure of one set.

    Attributes:
        preset: the protocol.
        figure: the set's own metric on the test images.
        c: the chosen C.
        grad_norm: largest entry of the gradient where the fit to training and validation images stopped.
        num_val: images that C was chosen on.
        curve: every C of the grid.
        warnings: what a reader must know.
    """

    preset: Preset
    figure: Metric
    c: float
    grad_norm: float
    num_val: int
    curve: tuple[Candidate, ...]
    warnings: tuple[str, ...]


def evaluate(
    features: Floats,
    marks: Marks,
    use: npt.NDArray[np.int64],
    preset: Preset,
    *,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
    device: torch.device | None = None,
) -> TransferResult:
    """Choose C on the validation images, fit all but the test images with it, and measure the test images.

    Of several C that are equally good on the validation images the smallest is taken.

    Args:
        features: [n, D], used as they are.
        marks: [n] or [n, C].
        use: [n] `Use` of each row.
        preset: the protocol.
        class_names: names of the class numbers, for messages.
        seed: seed of the bootstrap intervals.
        advance: called with 1 after every C.
        device: where all C are fitted at once; None fits one after the other with scikit-learn.

    Raises:
        DataError: a class without training or without test images, or one class only.
    """
    (_check_marks if marks.ndim == 2 else _check_labels)(preset, marks, use, class_names)
    train, val, test = (use == each for each in Use)
    curve = []
    for c, fits in zip(preset.cs, _fits(features[train], marks[train], preset.cs, preset, device), strict=True):
        curve.append(Candidate(c, _measure(fits, features[val], marks[val], preset, seed).value, _grad_norm(fits)))
        if advance:
            advance(1)
    best = max(curve, key=lambda candidate: candidate.val)
    (final,) = _fits(features[~test], marks[~test], [best.c], preset, device)
    if advance:
        advance(1)
    certificates = [(candidate.c, candidate.grad_norm) for candidate in curve]
    warnings = [*fit_warnings(preset.name, preset.tol, certificates, best.c, _grad_norm(final))]
    if marks.ndim == 1:
        warnings += [f"{preset.name}: {each}" for each in single_image_warning(marks[~test])]
    figure = _measure(final, features[test], marks[test], preset, seed)
    return TransferResult(preset, figure, best.c, _grad_norm(final), int(val.sum()), tuple(curve), tuple(warnings))


def average_precision_11point(scores: npt.NDArray[np.float64], marks: Marks) -> float:
    """Average the best precision at recalls of at least 0, 0.1, ..., 1 (VOC2007).

    Images of equal scores are taken together, so that their order does not matter; without ties it is the figure of
    the development kit.

    Args:
        scores: [n], higher for images more likely to show the class.
        marks: [n] 1 for images that show it, at least one; -1 for those that do not; 0 for those not to be judged.
    """
    judged = np.flatnonzero(marks)
    order = judged[np.argsort(-scores[judged], kind="stable")]
    hits = np.cumsum(marks[order] == 1)
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits, precision = hits[ends], hits[ends] / (ends + 1)
    # In whole numbers: 0.1 * 3 exceeds 3 / 10.
    return float(np.mean([precision[10 * hits >= tenth * hits[-1]].max() for tenth in range(11)]))


def _fits(
    features: Floats, marks: Marks, cs: Sequence[float], preset: Preset, device: torch.device | None
) -> Iterator[tuple[LogisticFit | Head, ...]]:
    """What one C takes, C by C: a multinomial regression, or a binary one for each class of the images judged for it.

    Ask each before going on to the next.
    """
    fit = partial(fit_grid, cs=cs, tol=preset.tol, max_iter=preset.max_iter, device=device)
    if marks.ndim == 1:
        return zip(fit(features, marks), strict=True)
    return zip(*(fit(features[column != 0], column[column != 0]) for column in marks.T), strict=True)


def _grad_norm(fits: Sequence[LogisticFit | Head]) -> float:
    return max(fit.certificate()[0] for fit in fits)


def _measure(fits: Sequence[LogisticFit | Head], features: Floats, marks: Marks, preset: Preset, seed: int) -> Metric:
    """The set's own metric of what one C takes, with an interval where images are of one class each."""
    if marks.ndim == 2:
        scored = [(fit.logits(features)[:, 1], column) for fit, column in zip(fits, marks.T, strict=True)]
        return Metric(float(np.mean([average_precision_11point(*each) for each in scored])), len(marks))
    correct = fits[0].correct(features, marks)
    per_class = preset.metric == "mean_per_class"
    share = bootstrap_per_class(correct, marks, seed) if per_class else bootstrap(correct, seed)
    return Metric(share.value, share.n, (share.low, share.high))


def _check_labels(preset: Preset, labels: Marks, use: npt.NDArray[np.int64], names: Sequence[str] | None) -> None:
    train, test = labels[use == Use.TRAIN], labels[use == Use.TEST]
    check_classes(f"transfer: {preset.name}", train, labels[use != Use.TRAIN], names)
    known = np.union1d(labels, np.arange(len(names or ())))
    for each, what in ((train, "training"), (test, "test")):
        _refuse(preset, np.setdiff1d(known, each), what, names)


def _check_marks(preset: Preset, marks: Marks, use: npt.NDArray[np.int64], names: Sequence[str] | None) -> None:
    for each in Use:
        some = marks[use == each]
        _refuse(preset, np.flatnonzero(~(some == 1).any(axis=0)), each.name.lower(), names)
        if not (some == -1).any(axis=0).all():
            raise DataError(
                f"transfer: {preset.name}: a class is on every {each.name.lower()} image; none tells it apart"
            )


def _refuse(preset: Preset, empty: Labels, what: str, names: Sequence[str] | None) -> None:
    if len(empty):
        listed = ", ".join(names[each] if names and each < len(names) else str(each) for each in empty[:NAMED])
        more = ", ..." if len(empty) > NAMED else ""
        raise DataError(f"transfer: {preset.name}: {len(empty)} classes have no {what} image ({listed}{more})")
