"""Measures of one feature space, or of two that hold the same images in the same order. Pure functions of arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn import manifold

from ukd.neighbours import Floats

TILE_ROWS = 4096
MIN_SPREAD = 1e-6
"""Features that differ from their mean by less than this share of their length are equal but for rounding."""
MIN_LENGTH_SPREAD = 1e-3
"""Lengths that vary by less than this share of their mean are equal but for the rounding of fp16."""


def unbiased_hsic(x: Floats, y: Floats) -> float:
    """Estimate the Hilbert-Schmidt independence criterion of linear kernels without bias.

    HSIC_1 of Song et al. 2012 (JMLR 13:1393): with K = x x^T and L = y y^T, their diagonals set to zero,
    ( tr(K L) + 1^T K 1 1^T L 1 / ((n-1)(n-2)) - 2 / (n-2) 1^T K L 1 ) / (n (n-3)). It does not change when a constant
    is added to every row, and for centred rows all three terms follow from x^T y and the rows' squared lengths a, b:
    tr(K L) = |x^T y|^2 - a.b; K 1 = -a; L 1 = -b. So no n x n matrix is needed, and nothing large cancels.

    Args:
        x: [n, D], n >= 4.
        y: [n, E].

    Returns:
        A number of any sign; not negative if x is y.
    """
    num = len(x)
    mean_x, mean_y = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    cross = np.zeros((x.shape[1], y.shape[1]))
    dot = sum_a = sum_b = 0.0
    for start in range(0, num, TILE_ROWS):
        rows_x, rows_y = x[start : start + TILE_ROWS] - mean_x, y[start : start + TILE_ROWS] - mean_y
        cross += rows_x.T @ rows_y
        a, b = np.square(rows_x).sum(axis=1), np.square(rows_y).sum(axis=1)
        dot, sum_a, sum_b = dot + float(a @ b), sum_a + float(a.sum()), sum_b + float(b.sum())
    total = float(np.square(cross).sum()) - num / (num - 2) * dot + sum_a * sum_b / ((num - 1) * (num - 2))
    return total / (num * (num - 3))


def unbiased_cka(x: Floats, y: Floats) -> float | None:
    """Compare two spaces by linear centred kernel alignment, HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)).

    Kornblith et al. 2019 (arXiv:1905.00414), on the unbiased estimator as in Nguyen et al. 2021 (arXiv:2010.15327): the
    biased one calls unrelated spaces alike wherever images are not far more than dimensions.

    Args:
        x: [n, D], n >= 4.
        y: [n, E].

    Returns:
        At most 1 but for rounding, about 0 for unrelated spaces and then of either sign; None if all rows are alike.
    """
    if _collapsed(x) or _collapsed(y):
        return None
    return unbiased_hsic(x, y) / float(np.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y)))


def rankme(features: Floats, eps: float) -> float:
    """Count the dimensions that features really use: exp(-sum_k p_k log p_k), p_k = s_k / sum_j s_j + eps.

    Garrido et al. 2023 (arXiv:2210.02885), on the singular values s of the features themselves, not centred.

    Args:
        features: [n, D].
        eps: added to every share.

    Returns:
        From 1 to min(n, D), but for eps; 1 for features that are all zero.
    """
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    if values[0] == 0:
        return 1.0
    share = values / values.sum() + eps
    return float(np.exp(-(share * np.log(share)).sum()))


def trustworthiness(original: Floats, embedded: Floats, k: int) -> float:
    """Punish neighbours in `embedded` by how far beyond the k nearest they are in `original`.

    Venna & Kaski 2001, as scikit-learn computes it. With the arguments swapped it is their continuity.

    Args:
        original: [n, D], unit rows, so that its Euclidean order is that of cosine.
        embedded: [n, E], unit rows.
        k: number of neighbours, below n / 2.
    """
    return float(manifold.trustworthiness(original, embedded, n_neighbors=k))


def length_correlation(x: Floats, y: Floats) -> float | None:
    """Pearson correlation of the rows' lengths, in [-1, 1]; None where those of a space are all equal."""
    lengths = [np.linalg.norm(rows.astype(np.float64), axis=1) for rows in (x, y)]
    if any(each.std() <= MIN_LENGTH_SPREAD * each.mean() for each in lengths):
        return None
    return float(np.corrcoef(*lengths)[0, 1])


def dimension_cosine(x: Floats, y: Floats) -> float | None:
    """Mean over the dimensions of the cosine of their columns: whether each says the same of all images.

    The space similarity of CoSS (arXiv:2409.13939) over all images, on features as they are, not centred. Unlike every
    other measure here it knows rotations: it is 1 only for equal dimensions in the same order.

    Args:
        x: [n, D].
        y: [n, D].

    Returns:
        A number in [-1, 1]. A dimension that is zero in one of them counts 0; one that is zero in both is left out,
        and if all are, there is no figure: None.
    """
    columns_x, columns_y = unit(x.T), unit(y.T)
    alive = columns_x.any(axis=1) | columns_y.any(axis=1)
    return float((columns_x * columns_y)[alive].sum(axis=1).mean()) if alive.any() else None


def procrustes_error(x: Floats, y: Floats) -> float | None:
    """Share of y that the best rotation, scale and offset of x leave unexplained.

    min over orthogonal R and s >= 0 of |s x R - y| / |y|, x and y centred, in the Frobenius norm (Schoenemann 1966,
    Psychometrika 31:1; as a distance of representations Williams et al. 2021, arXiv:2110.14739): with the singular
    values of x^T y adding up to c |x| |y| it is sqrt(1 - c^2). Zeros are put beside the narrower of the two, which adds
    no singular value. Unrelated spaces come near 1 only where images are many more than dimensions.

    Args:
        x: [n, D].
        y: [n, E].

    Returns:
        From 0, equal but for rotation, scale and offset, to 1; None if all rows of one are alike.
    """
    if _collapsed(x) or _collapsed(y):
        return None
    mean_x, mean_y = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    cross = np.zeros((x.shape[1], y.shape[1]))
    squared_x = squared_y = 0.0
    for start in range(0, len(x), TILE_ROWS):
        rows_x, rows_y = x[start : start + TILE_ROWS] - mean_x, y[start : start + TILE_ROWS] - mean_y
        cross += rows_x.T @ rows_y
        squared_x, squared_y = squared_x + float(np.square(rows_x).sum()), squared_y + float(np.square(rows_y).sum())
    explained = float(np.linalg.svd(cross, compute_uv=False).sum()) ** 2 / (squared_x * squared_y)
    return float(np.sqrt(max(0.0, 1 - explained)))


def unit(features: Floats) -> npt.NDArray[np.float64]:
    """Scale rows [n, D] to unit length; rows of zeros stay."""
    wide = features.astype(np.float64)
    length: npt.NDArray[np.float64] = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)


def _collapsed(features: Floats) -> bool:
    wide = features.astype(np.float64)
    spread = float(np.square(wide - wide.mean(axis=0)).sum())
    return spread <= MIN_SPREAD**2 * float(np.square(wide).sum())
