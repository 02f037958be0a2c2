"""Multinomial logistic regression, fitted until its gradient says so.

Newton's method with conjugate gradients, not L-BFGS: on features of networks, whose columns are far from independent,
L-BFGS needs thousands of steps at large C, and scikit-learn's default tolerance of 1e-4 stops it where accuracies are
still points away from those of the optimum.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from ukd.data import Labels
from ukd.neighbours import Floats

Wide = npt.NDArray[np.float64]


class LogisticFit:
    """Logistic regressions on one set of images, each started from the one before.

    The features are centred and divided by the root mean square of what is left, and C multiplied by its square. That
    moves the intercept and rescales the weights, but the optimum predicts the same: it is the protocol's own, found in
    fewer steps, and one tolerance means the same for every model. The gradient is that of
    mean cross-entropy + |weights|^2 / (2 C n) after this change.

    Args:
        features: [n, D].
        labels: [n] any integers, two of them different.
        tol: a fit is done once no entry of the gradient exceeds this.
        max_iter: Newton steps after which it is given up.
    """

    def __init__(self, features: Floats, labels: Labels, *, tol: float, max_iter: int) -> None:
        self._mean: Wide = features.mean(axis=0, dtype=np.float64)
        centred: Wide = features - self._mean
        self._scale = float(np.sqrt(np.square(centred).mean())) or 1.0
        self._rows = np.divide(centred, self._scale, out=centred)
        self._labels = labels
        self._model = LogisticRegression(solver="newton-cg", tol=tol, max_iter=max_iter, warm_start=True)

    def to(self, c: float) -> None:
        """Fit with this C."""
        self._model.set_params(C=c * self._scale**2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # That it has not converged: the certificate says so, and how far off.
            self._model.fit(self._rows, self._labels)

    def probabilities(self, features: Floats) -> Wide:
        """Probabilities [n, C] of the classes, ascending, for images [n, D]."""
        found: Wide = self._model.predict_proba((features - self._mean) / self._scale)
        return found

    def logits(self, features: Floats) -> Wide:
        """Logarithms [n, C] of those probabilities, each row but for a constant."""
        decided: Wide = self._model.decision_function((features - self._mean) / self._scale)
        return decided if decided.ndim == 2 else np.column_stack([np.zeros_like(decided), decided])

    @property
    def classes(self) -> Labels:
        """The classes [C], ascending."""
        found: Labels = self._model.classes_
        return found

    def correct(self, features: Floats, labels: Labels) -> npt.NDArray[np.bool_]:
        """Say of each image [n, D] whether its most probable class is its label [n]; ties go to the lowest."""
        right: npt.NDArray[np.bool_] = self._model.classes_[self.probabilities(features).argmax(axis=1)] == labels
        return right

    def certificate(self) -> tuple[float, int]:
        """Largest entry of the gradient, and the number of steps taken."""
        residual = self._model.predict_proba(self._rows)
        residual[np.arange(len(residual)), np.searchsorted(self._model.classes_, self._labels)] -= 1
        residual = residual[:, -len(self._model.coef_) :] / len(residual)
        penalty = self._model.coef_ / (self._model.C * len(residual))
        steepest = max(np.abs(residual.T @ self._rows + penalty).max(), np.abs(residual.sum(axis=0)).max())
        return float(steepest), int(self._model.n_iter_.max())


def fit_warnings(
    name: str, tol: float, curve: Sequence[tuple[float, float]], chosen: float, grad_norm: float
) -> Iterator[str]:
    """Say what a reader must know of a search for C: fits that have not converged, and a choice at an end of the grid.

    Args:
        name: Of the protocol.
        tol: The certificate that was wanted.
        curve: Each C of the grid, ascending, with its certificate.
        chosen: The chosen C.
        grad_norm: Certificate of the final fit.
    """
    loose = [fit for fit in curve if fit[1] > tol]
    if loose:
        c, worst = max(loose, key=lambda fit: fit[1])
        yield (
            f"{name}: {len(loose)} of {len(curve)} fits have not converged, the worst at C={c:.3g} with "
            f"a gradient of {worst:.1e} where {tol:.0e} is wanted; C may be chosen wrongly"
        )
    if grad_norm > tol:
        yield (
            f"{name}: the final fit at C={chosen:.3g} has not converged: its gradient is {grad_norm:.1e} where "
            f"{tol:.0e} is wanted"
        )
    if chosen in (curve[0][0], curve[-1][0]):
        yield f"{name}: the chosen C={chosen:.3g} is an end of the grid; a better one may lie beyond it"
