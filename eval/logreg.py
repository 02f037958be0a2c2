"""Logistic regression on frozen features: how well a linear map tells classes apart. Pure functions of arrays.

Multinomial, L2, unpenalised intercept, on features as they are, the strength chosen on images held out of training:
Kornblith et al. 2019 (arXiv:1805.08974), whose weight decay is 1 / C, and DINOv2, Oquab et al. 2023 (arXiv:2304.07193).
Released code stops its solver early and starts each fit from the one before, so that its figures depend on the order
of the grid. Here every fit goes on until its gradient is next to zero, and that gradient is part of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.intervals import Share, bootstrap, bootstrap_per_class
from ukd.eval.logistic import LogisticFit
from ukd.eval.presets import NamedPreset
from ukd.neighbours import Floats

NAMED = 5
"""Classes that a message names."""


@dataclass(frozen=True)
class Preset(NamedPreset):
    """A grid of C, the inverse of the weight decay, and when a fit is done.

    Attributes:
        log10_c: ends of the grid, as powers of ten.
        num_c: values of C, evenly spaced in their logarithm.
        heldout_share: share of each class held out to choose C.
        tol: a fit is done once no entry of the gradient exceeds this (see `LogisticFit`).
        max_iter: steps of the solver after which a fit is given up, and reported.
    """

    log10_c: tuple[float, float]
    num_c: int = 45
    heldout_share: float = 0.1
    tol: float = 1e-5
    max_iter: int = 1_000

    @property
    def cs(self) -> list[float]:
        """The grid, ascending."""
        return [float(c) for c in np.logspace(*self.log10_c, self.num_c)]


PRESETS = {preset.name: preset for preset in (Preset("kornblith", (-5.0, 6.0)), Preset("dinov2", (-6.0, 5.0)))}


@dataclass(frozen=True)
class Candidate:
    """One C of the grid.

    Attributes:
        c: itself.
        heldout_top1: share of the held-out images that it classifies rightly.
        grad_norm: largest entry of the gradient where the fit stopped.
        num_iter: steps it took.
    """

    c: float
    heldout_top1: float
    grad_norm: float
    num_iter: int


@dataclass(frozen=True)
class LogregResult:
    """The figures of one preset.

    Attributes:
        preset: the protocol.
        top1: share of test images classified rightly.
        mean_per_class: mean over the classes of the test images of their shares.
        c: the chosen C.
        grad_norm: largest entry of the gradient where the fit to all training images stopped.
        num_heldout: images that C was chosen on.
        curve: every C of the grid.
        warnings: what a reader must know.
    """

    preset: Preset
    top1: Share
    mean_per_class: Share
    c: float
    grad_norm: float
    num_heldout: int
    curve: tuple[Candidate, ...]
    warnings: tuple[str, ...]


def evaluate(
    train: Floats,
    train_labels: Labels,
    test: Floats,
    test_labels: Labels,
    preset: Preset,
    *,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> LogregResult:
    """Choose C on held-out training images, fit all of them with it, and classify the test images.

    Of several C that are equally good on the held-out images the smallest is taken.

    Args:
        train: [n, D] features, used as they are.
        train_labels: [n] any integers.
        test: [q, D] features.
        test_labels: [q] any integers.
        preset: the protocol.
        class_names: names of the class numbers, for messages.
        seed: seed of the choice of held-out images and of the bootstrap intervals.
        advance: called with 1 after every fit.

    Raises:
        DataError: no images, a label too few or too many, one class only, a class of the test images without
            training images, or no class with a second image to hold out.
    """
    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if not len(features) or len(features) != len(labels):
            raise DataError(
                f"logreg: {name}: {len(features)} images with {len(labels)} labels; every image needs one label"
            )
    _check_classes(train_labels, test_labels, class_names)
    heldout = stratified_holdout(train_labels, preset.heldout_share, seed)
    fit = LogisticFit(train[~heldout], train_labels[~heldout], tol=preset.tol, max_iter=preset.max_iter)
    curve = []
    for c in preset.cs:
        fit.to(c)
        curve.append(Candidate(c, float(fit.correct(train[heldout], train_labels[heldout]).mean()), *fit.certificate()))
        if advance:
            advance(1)
    best = max(curve, key=lambda candidate: candidate.heldout_top1)
    final = LogisticFit(train, train_labels, tol=preset.tol, max_iter=preset.max_iter)
    final.to(best.c)
    if advance:
        advance(1)
    grad_norm, _ = final.certificate()
    correct = final.correct(test, test_labels)
    return LogregResult(
        preset,
        bootstrap(correct, seed),
        bootstrap_per_class(correct, test_labels, seed),
        best.c,
        grad_norm,
        int(heldout.sum()),
        tuple(curve),
        tuple(_warnings(preset, curve, best, grad_norm, train_labels)),
    )


def stratified_holdout(labels: Labels, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Hold a share of every class out, rounded, but at least one image and never the only one.

    Args:
        labels: [n] any integers.
        share: in (0, 1).
        seed: seed of the choice.

    Returns:
        [n], true where held out.

    Raises:
        DataError: no class has a second image.
    """
    rng = np.random.default_rng(seed)
    heldout = np.zeros(len(labels), dtype=np.bool_)
    for each in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == each))
        heldout[rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]] = True
    if not heldout.any():
        raise DataError("logreg: every class has one training image, so none can be held out to choose C; give more")
    return heldout


def _check_classes(train_labels: Labels, test_labels: Labels, names: Sequence[str] | None) -> None:
    missing = np.setdiff1d(test_labels, train_labels)
    if len(missing):
        listed = ", ".join(names[each] if names and each < len(names) else str(each) for each in missing[:NAMED])
        more = ", ..." if len(missing) > NAMED else ""
        raise DataError(
            f"logreg: {len(missing)} classes of the test images have no training image ({listed}{more}); "
            "train and test must hold the same classes"
        )
    if len(np.unique(train_labels)) < 2:
        raise DataError("logreg: all training images are of one class; at least two are needed")


def _warnings(
    preset: Preset, curve: Sequence[Candidate], best: Candidate, grad_norm: float, train_labels: Labels
) -> Iterator[str]:
    loose = [candidate for candidate in curve if candidate.grad_norm > preset.tol]
    if loose:
        worst = max(loose, key=lambda candidate: candidate.grad_norm)
        yield (
            f"{preset.name}: {len(loose)} of {len(curve)} fits have not converged, the worst at C={worst.c:.3g} with "
            f"a gradient of {worst.grad_norm:.1e} where {preset.tol:.0e} is wanted; C may be chosen wrongly"
        )
    if grad_norm > preset.tol:
        yield (
            f"{preset.name}: the final fit at C={best.c:.3g} has not converged: its gradient is {grad_norm:.1e} where "
            f"{preset.tol:.0e} is wanted"
        )
    if best in (curve[0], curve[-1]):
        yield f"{preset.name}: the chosen C={best.c:.3g} is an end of the grid; a better one may lie beyond it"
    single = int((np.unique(train_labels, return_counts=True)[1] == 1).sum())
    if single:
        yield f"{single} classes have a single training image, which is never held out"
