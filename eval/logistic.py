"""Multinomial logistic regression, fitted until its gradient says so.

Newton's method with conjugate gradients, not L-BFGS: on features of networks, whose columns are far from independent,
L-BFGS needs thousands of steps at large C, and scikit-learn's default tolerance of 1e-4 stops it where accuracies are
still points away from those of the optimum.
"""

from __future__ import annotations

import warnings

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
