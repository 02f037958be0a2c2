"""The figures of one model's robustness, and what the result file calls them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ukd.eval.corruptions import KINDS, NUM_SEVERITIES
from ukd.eval.intervals import Share
from ukd.eval.results import Metric
from ukd.eval.robust import Calibration


@dataclass(frozen=True)
class Row:
    """The figures of one set.

    Attributes:
        top1: share of its images classified rightly, among its own classes.
        clean_top1: share of the clean images of these classes classified rightly among them; None for clean images.
        raw: calibration of the probabilities as they are; None where there are none.
        scaled: calibration after the temperature; None where there are none.
    """

    top1: Share
    clean_top1: Share | None = None
    raw: Calibration | None = None
    scaled: Calibration | None = None


@dataclass(frozen=True)
class Figures:
    """The figures of one model.

    Attributes:
        rows: by set.
        errors: top-1 error by kind of corruption and severity.
        temp: temperature of the classifier.
        mce: mean corruption error, 1 for the reference; None without a reference.
        reference: what that is.
        warnings: what a reader must know.
    """

    rows: dict[str, Row]
    errors: dict[str, dict[int, float]]
    temp: float | None
    mce: float | None = None
    reference: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def mean_errors(self) -> dict[str, float]:
        """Mean error over the severities by kind of corruption."""
        return {kind: float(np.mean(list(by.values()))) for kind, by in self.errors.items()}


def mce_name(figures: Figures) -> str:
    """Name of the mean corruption error of all kinds and severities, or of how many."""
    num_severities = len(next(iter(figures.errors.values())))
    if len(figures.errors) == len(KINDS) and num_severities == NUM_SEVERITIES:
        return "mce"
    return f"mce_partial_{len(figures.errors)}_kinds_{num_severities}_severities"


def metrics_of(figures: Figures, num_clean: int) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for name, row in figures.rows.items():
        metrics[f"{name}_top1"] = _metric(row.top1)
        if row.clean_top1:
            metrics[f"{name}_same_classes_clean_top1"] = _metric(row.clean_top1)
        for when, each in (("", row.raw), ("_scaled", row.scaled)):
            if each:
                values = {"ece": each.ece, "nll": each.nll, "brier": each.brier}
                metrics |= {f"{name}_{what}{when}": Metric(value, row.top1.n) for what, value in values.items()}
    for kind, by in figures.errors.items():
        metrics |= {f"{kind}_{severity}_error": Metric(error, num_clean) for severity, error in by.items()}
    if figures.errors:
        mean = float(np.mean(list(figures.mean_errors.values())))
        metrics[mce_name(figures).replace("mce", "corruption_error")] = Metric(mean, num_clean)
    if figures.mce is not None:
        metrics[mce_name(figures)] = Metric(figures.mce, num_clean)
    return metrics


def _metric(share: Share) -> Metric:
    return Metric(share.value, share.n, (share.low, share.high))
