"""Multinomial logistic regressions at every C of a grid, fitted at once: one matrix product serves all.

The objective and the certificate are those of `ukd.eval.logistic`: mean cross-entropy + |weights|^2 / (2 C n) on
centred features of unit root mean square, the intercept free, two classes sharing one weight vector, as scikit-learn.
L-BFGS alone would need thousands of steps on features of networks, whose columns are far from independent. So it works
along the principal axes of the features, where the penalty is the same, its first guess of the inverse Hessian is
that at weights of zero, diagonal but for the classes, and Newton's method finishes what it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ukd.data import Labels
from ukd.eval.descent import minimise
from ukd.neighbours import Floats

TILE_ENTRIES = 2**24
"""Class scores held at once."""
SINGLE_TOL = 1e-4
"""Largest entry of the gradient down to which fp32 is trusted."""


@dataclass(frozen=True)
class Problem:
    """The objectives of H heads that differ in their penalty.

    Attributes:
        rows: [n, D + 1] features along their principal axes, a column of ones last.
        axes: [D, D] those axes, a column each.
        targets: [n] class numbers.
        num_classes: 2 or more.
        penalty: [H, 1, D + 1] 1 / (C n), 0 for the intercept.
    """

    rows: Tensor
    axes: Tensor
    targets: Tensor
    num_classes: int
    penalty: Tensor

    @property
    def width(self) -> int:
        """Weight vectors of a head."""
        return 1 if self.num_classes == 2 else self.num_classes

    def to(self, dtype: torch.dtype) -> Problem:
        """The same problem in another precision."""
        return replace(self, rows=self.rows.to(dtype), axes=self.axes.to(dtype), penalty=self.penalty.to(dtype))

    def guess(self) -> Tensor:
        """Inverse of the Hessian's diagonal [H, 1, D + 1] where all classes are equally likely."""
        share = (1 - 1 / self.num_classes) / self.num_classes
        return 1 / (share * self.rows.square().mean(0) + self.penalty)

    def value_and_gradient(self, weight: Tensor, heads: Tensor) -> tuple[Tensor, Tensor]:
        """Objectives, fp64 [h], and gradients [h, P, D + 1] of some heads [h] at weights [h, P, D + 1]."""
        value = weight.new_zeros(len(heads), dtype=torch.float64)
        gradient = torch.zeros_like(weight)
        for tile in self._tiles(len(heads)):
            rows, targets = self.rows[tile], self.targets[tile]
            log_shares = self._scores(rows, weight).log_softmax(2)
            place = targets[:, None, None].expand(-1, len(heads), 1)
            value -= log_shares.gather(2, place).double().sum((0, 2))
            residual = log_shares.exp_().scatter_add_(2, place, -torch.ones_like(log_shares[..., :1]))
            gradient += (residual[..., -self.width :].flatten(1).T @ rows).view_as(gradient)
        penalty = self.penalty[heads]
        value = value / len(self.rows) + (weight.double().square() * penalty.double()).sum((1, 2)) / 2
        return value, gradient / len(self.rows) + penalty * weight

    def hessian_diagonal(self, weight: Tensor, heads: Tensor) -> Tensor:
        """Diagonals of the Hessians [h, P, D + 1] of some heads at weights [h, P, D + 1]."""
        diagonal = torch.zeros_like(weight)
        for tile in self._tiles(len(heads)):
            shares = self._scores(self.rows[tile], weight).softmax(2)[..., -self.width :]
            diagonal += ((shares - shares.square()).flatten(1).T @ self.rows[tile].square()).view_as(diagonal)
        # Of a column of zeros, the intercept of classes that are told apart wholly, nothing but rounding is left.
        return (diagonal / len(self.rows) + self.penalty[heads]).clamp(min=torch.finfo(weight.dtype).tiny)

    def hessian_times(self, vector: Tensor, weight: Tensor, heads: Tensor) -> Tensor:
        """Products [h, P, D + 1] of vectors of that shape with the Hessians of some heads at weights of that shape."""
        product = torch.zeros_like(weight)
        for tile in self._tiles(len(heads)):
            shares = self._scores(self.rows[tile], weight).softmax(2)
            change = self._scores(self.rows[tile], vector)
            change = shares * (change - (shares * change).sum(2, keepdim=True))
            product += (change[..., -self.width :].flatten(1).T @ self.rows[tile]).view_as(product)
        return product / len(self.rows) + self.penalty[heads] * vector

    def _tiles(self, num_heads: int) -> Iterator[slice]:
        tile = max(1, TILE_ENTRIES // (num_heads * self.num_classes))
        return (slice(start, start + tile) for start in range(0, len(self.rows), tile))

    def _scores(self, rows: Tensor, weight: Tensor) -> Tensor:
        """Scores [r, h, C] of rows [r, D + 1] by weights [h, P, D + 1]; of two classes, the first has 0."""
        scores = (rows @ weight.flatten(0, 1).T).view(len(rows), len(weight), self.width)
        return torch.cat([torch.zeros_like(scores), scores], dim=2) if self.width == 1 else scores

    def steepest(self, gradient: Tensor) -> Tensor:
        """Largest entry [h] of gradients [h, P, D + 1], along the features' own axes."""
        own = gradient[..., :-1] @ self.axes.T
        return torch.maximum(own.abs().amax((1, 2)), gradient[..., -1].abs().amax(1))


class Head:
    """One C's fit, asked as `ukd.eval.logistic.LogisticFit` is.

    Args:
        weight: [P, D + 1] for features as they are, intercept last.
        classes: [C] ascending.
        grad_norm: Largest entry of the gradient.
        num_iter: Steps taken.
    """

    def __init__(self, weight: npt.NDArray[np.float64], classes: Labels, grad_norm: float, num_iter: int) -> None:
        self.weight, self._classes, self._certificate = weight, classes, (grad_norm, num_iter)

    def logits(self, features: Floats) -> npt.NDArray[np.float64]:
        """Logarithms [n, C] of the classes' probabilities for images [n, D], each row but for a constant."""
        scores: npt.NDArray[np.float64] = features @ self.weight[:, :-1].T + self.weight[:, -1]
        return np.hstack([np.zeros_like(scores), scores]) if len(self._classes) == 2 else scores

    def correct(self, features: Floats, labels: Labels) -> npt.NDArray[np.bool_]:
        """Say of each image [n, D] whether its most probable class is its label [n]; ties go to the lowest."""
        right: npt.NDArray[np.bool_] = self._classes[self.logits(features).argmax(axis=1)] == labels
        return right

    def certificate(self) -> tuple[float, int]:
        """Largest entry of the gradient, and the number of steps taken."""
        return self._certificate


def fit_all(
    features: Floats,
    labels: Labels,
    cs: Sequence[float],
    *,
    tol: float,
    max_iter: int,
    device: torch.device,
    dtypes: Sequence[torch.dtype] | None = None,
) -> list[Head]:
    """Fit a logistic regression at every C.

    Args:
        features: [n, D].
        labels: [n] any integers, two of them different.
        cs: Each C.
        tol: A fit is done once no entry of the gradient exceeds this, in fp64.
        max_iter: Steps of each stage after which a fit is given up.
        device: Where to compute.
        dtypes: Precision of each stage, fp64 last; a stage begins where the one before ended. None takes fp64 alone on
            a CPU, and on a GPU fp32 as far as it is trusted, then fp64.
    """
    if dtypes is None:
        dtypes = (torch.float64,) if device.type == "cpu" else (torch.float32, torch.float64)
    classes, targets = np.unique(labels, return_inverse=True)
    mean = torch.from_numpy(features.mean(axis=0, dtype=np.float64)).to(device)
    rows = torch.from_numpy(features).to(device, torch.float64) - mean
    scale = math.sqrt(float(rows.square().mean())) or 1.0
    rows /= scale
    axes: Tensor = torch.linalg.eigh(rows.T @ rows)[1]
    rows = torch.cat([rows @ axes, rows.new_ones(len(rows), 1)], dim=1)
    penalty = (1 / (rows.new_tensor(list(cs)) * scale**2 * len(rows)))[:, None, None].repeat(1, 1, rows.shape[1])
    penalty[..., -1] = 0
    problem = Problem(rows, axes, torch.from_numpy(targets).to(device), len(classes), penalty)
    weight = rows.new_zeros(len(cs), problem.width, rows.shape[1])
    num_iter = torch.zeros(len(cs), dtype=torch.int64, device=device)
    for dtype in dtypes:
        reached = tol if dtype == torch.float64 else max(tol, SINGLE_TOL)
        found = minimise(problem.to(dtype), weight.to(dtype), tol=reached, max_iter=max_iter)
        weight, num_iter = found.weight.double(), num_iter + found.num_iter
    if problem.width > 1:
        weight[..., -1] -= weight[..., -1].mean(1, keepdim=True)  # What all classes share is arbitrary; here it is 0.
    own = weight[..., :-1] @ axes.T / scale
    plain = torch.cat([own, weight[..., -1:] - own @ mean[:, None]], dim=2).cpu().numpy()
    certificates = zip(found.grad_norm.tolist(), num_iter.tolist(), strict=True)
    return [Head(each, classes, *certificate) for each, certificate in zip(plain, certificates, strict=True)]
