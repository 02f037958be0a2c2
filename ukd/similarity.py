"""Cosine similarity, exact in value and gradient for any vectors that fp32 can hold."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SQUARED_NORM = 1e-62
"""Vectors no longer than 1e-31 count as zero: a gradient of 1 / length would soon leave the range of fp32."""


def cosine(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Cosine similarity of a and b along one dimension.

    A vector of length zero has similarity 0 to everything, and a zero gradient. NaN and infinity give NaN.

    Args:
        a: Any floating dtype, not normalised.
        b: As a, of the same shape.
        dim: The dimension that is summed away.

    Returns:
        Similarities in [-1, 1], of the shape of a without `dim`: fp64 if a or b is fp64, else fp32.
    """
    return cosine_from_sums(cosine_sums(a, b, dim)).to(result_dtype(a, b))


def cosine_sums(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """The three sums that make a cosine; those of the parts of two vectors add up to those of the whole.

    They are taken in fp64, in which the square of no fp32 number overflows or vanishes.

    Args:
        a: As in `cosine`.
        b: As in `cosine`.
        dim: As in `cosine`.

    Returns:
        fp64 [3, ...]: the sums of a * b, a * a and b * b along `dim`.
    """
    a, b = a.double(), b.double()
    return torch.stack([(a * b).sum(dim), (a * a).sum(dim), (b * b).sum(dim)])


def cosine_from_sums(sums: Tensor) -> Tensor:
    """Cosine similarity from the three sums of `cosine_sums`.

    Args:
        sums: fp64 [3, ...].

    Returns:
        fp64 [...] in [-1, 1]; 0, with a zero gradient, where one of the two vectors counts as zero.
    """
    ab, aa, bb = sums.unbind()
    # "Is it zero", not "is it anything else": so a NaN passes through to the loss, which then stops the run.
    zero = (aa <= MIN_SQUARED_NORM) | (bb <= MIN_SQUARED_NORM)
    aa, bb = aa.masked_fill(zero, 1.0), bb.masked_fill(zero, 1.0)
    return ab.masked_fill(zero, 0.0) / aa.sqrt() / bb.sqrt()


def result_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of a loss of these tensors: fp64 if one of them is fp64, else fp32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
