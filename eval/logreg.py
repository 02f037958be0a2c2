"""Logistic regression on frozen features: how well a linear map tells classes apart. Pure functions of arrays.

Multinomial, L2, unpenalised intercept, on features as they are, the strength chosen on images held out of training:
Kornblith et al. 2019 (arXiv:1805.08974), whose weight decay is 1 / C, and DINOv2, Oquab et al. 2023 (arXiv:2304.07193).
Released code stops its solver early and starts each fit from the one before, so that its figures depend on the order
of the grid. Here every fit goes on until its gradient is next to zero, and that gradient is part of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.intervals import Share, bootstrap, bootstrap_per_class
from ukd.eval.logistic import fit_warnings
from ukd.eval.presets import NamedPreset
from ukd.eval.solvers import fit_grid
from ukd.eval.splits import check_classes, single_image_warning, stratified_holdout
from ukd.neighbours import Floats


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
    device: torch.device | None = None,
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
        device: where all C are fitted at once; None fits one after the other with scikit-learn.

    Raises:
        DataError: no images, a label too few or too many, one class only, a class of the test images without
            training images, or no class with a second image to hold out.
    """
    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if not len(features) or len(features) != len(labels):
            raise DataError(
                f"logreg: {name}: {len(features)} images with {len(labels)} labels; every image needs one label"
            )
    check_classes("logreg", train_labels, test_labels, class_names)
    heldout = stratified_holdout("logreg", train_labels, preset.heldout_share, seed)
    curve = []
    fits = partial(fit_grid, tol=preset.tol, max_iter=preset.max_iter, device=device)
    for c, fit in zip(preset.cs, fits(train[~heldout], train_labels[~heldout], preset.cs), strict=True):
        curve.append(Candidate(c, float(fit.correct(train[heldout], train_labels[heldout]).mean()), *fit.certificate()))
        if advance:
            advance(1)
    best = max(curve, key=lambda candidate: candidate.heldout_top1)
    (final,) = fits(train, train_labels, [best.c])
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


def _warnings(
    preset: Preset, curve: Sequence[Candidate], best: Candidate, grad_norm: float, train_labels: Labels
) -> Iterator[str]:
    certificates = [(candidate.c, candidate.grad_norm) for candidate in curve]
    yield from fit_warnings(preset.name, preset.tol, certificates, best.c, grad_norm)
    yield from single_image_warning(train_labels)
