"""What fits the logistic regressions of a grid of C: scikit-learn one after the other, or all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sklearn
import torch

from ukd.data import Labels
from ukd.errors import UserError
from ukd.eval.logistic import LogisticFit
from ukd.eval.logistic_grid import Head, fit_all
from ukd.neighbours import Floats

SOLVERS = {
    "sklearn": f"scikit-learn {sklearn.__version__} newton-cg",
    "lbfgs": f"torch {torch.__version__} batched L-BFGS, then Newton-CG",
}
"""The solvers by their names on the command line, as result files name them."""


def choose_solver(task: str, name: str | None, device: torch.device) -> str:
    """Take the solver that is named; without a name `lbfgs` on a GPU and `sklearn` on a CPU.

    Raises:
        UserError: No such solver.
    """
    if name not in (None, *SOLVERS):
        raise UserError(f"{task}: no solver {name!r}; choose from {', '.join(SOLVERS)}")
    return name or ("sklearn" if device.type == "cpu" else "lbfgs")


def fit_grid(
    features: Floats, labels: Labels, cs: Sequence[float], *, tol: float, max_iter: int, device: torch.device | None
) -> Iterator[LogisticFit | Head]:
    """Fit a logistic regression at every C; ask each fit before going on to the next.

    Args:
        features: [n, D].
        labels: [n] any integers, two of them different.
        cs: each C.
        tol: a fit is done once no entry of the gradient exceeds this (see `LogisticFit`).
        max_iter: steps of the solver after which a fit is given up.
        device: where all C are fitted at once; None fits one after the other with scikit-learn.
    """
    if device is not None:
        yield from fit_all(features, labels, cs, tol=tol, max_iter=max_iter, device=device)
        return
    fit = LogisticFit(features, labels, tol=tol, max_iter=max_iter)
    for c in cs:
        fit.to(c)
        yield fit
