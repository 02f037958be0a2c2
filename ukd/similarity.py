"""Shared maths of the objectives, exact in value and gradient for any vectors that fp32 can hold.

Nothing here is computed in half precision, whatever autocast says.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ukd.row_blocks import RowBlocks

MIN_SQUARED_NORM = 1e-62
"""Vectors no longer than 1e-31 count as zero: a gradient of 1 / length would soon leave the range of fp32."""
SAME_POINT = 1e-12
"""Squared distance, relative to the squared lengths, up to which two points count as one: a part in a million apart."""


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


def normalised(x: Tensor, dim: int = -1) -> Tensor:
    """Vectors scaled to length 1; a zero vector stays zero, with a zero gradient. NaN and infinity give NaN.

    Args:
        x: Any floating dtype.
        dim: The dimension along which the vectors lie.

    Returns:
        As x, in fp64 if x is fp64, else fp32.
    """
    wide = x.double()
    squared = (wide * wide).sum(dim, keepdim=True)
    zero = squared <= MIN_SQUARED_NORM
    return (wide.masked_fill(zero, 0.0) / squared.masked_fill(zero, 1.0).sqrt()).to(result_dtype(x))


def dot_products(a: Tensor, b: Tensor) -> Tensor:
    """Dot product of every row of a with every row of b; of `normalised` rows, their cosine similarity.

    Args:
        a: [..., n, D], any floating dtype.
        b: [..., m, D].

    Returns:
        [..., n, m], fp64 if a or b is fp64, else fp32.
    """
    dtype = result_dtype(a, b)
    with torch.autocast(a.device.type, enabled=False):
        return a.to(dtype) @ b.to(dtype).mT


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of every row of a to every row of b.

    Two rows that differ by less than a part in a million of their length have distance 0, with a zero gradient.

    Args:
        a: [n, D], any floating dtype, not normalised.
        b: [m, D].

    Returns:
        fp64 [n, m].
    """
    a, b = a.double(), b.double()
    squared_lengths = (a * a).sum(1)[:, None] + (b * b).sum(1)
    squared = squared_lengths - 2 * a @ b.T
    same = squared <= (SAME_POINT * squared_lengths).clamp(min=MIN_SQUARED_NORM)
    return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)


def soft_cross_entropy(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Cross-entropy of the student's softmax under the teacher's.

    Args:
        teacher_logits: [..., num_classes], already divided by their temperature.
        student_logits: As teacher_logits.

    Returns:
        [...], at least the teacher's entropy.
    """
    return -(teacher_logits.softmax(-1) * student_logits.log_softmax(-1)).sum(-1)


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's softmax from the teacher's.

    Args:
        teacher_logits: As in `soft_cross_entropy`.
        student_logits: As teacher_logits.

    Returns:
        [...], at least 0.
    """
    log_ratio = teacher_logits.log_softmax(-1) - student_logits.log_softmax(-1)
    return (teacher_logits.softmax(-1) * log_ratio).sum(-1)


def info_nce(positive: Tensor, negatives: Tensor) -> Tensor:
    """Cross-entropy of telling a positive from negatives, 0 where there are none.

    Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018, arXiv:1807.03748, equation 4.

    Args:
        positive: [...], logits of the positives: similarities already divided by their temperature.
        negatives: [..., K], those of the negatives of each; dimensions of size 1 serve several positives.

    Returns:
        [...], at least 0.
    """
    return -logsigmoid(positive - negatives.logsumexp(-1))


def moments(rows: RowBlocks) -> tuple[Tensor, Tensor]:
    """Mean and covariance of rows, taken in fp64 in two passes over them; one block and [D, D] are held.

    Args:
        rows: [n, D] by blocks, any floating dtype, not normalised.

    Returns:
        fp64 [D] and [D, D], the latter over n, not n - 1.
    """
    mean = torch.stack([block.double().sum(0) for block in rows]).sum(0) / len(rows)
    covariance = mean.new_zeros(len(mean), len(mean))
    for block in rows:
        centred = block.double() - mean
        covariance += centred.T @ centred
    return mean, covariance / len(rows)


def result_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of a loss of these tensors: fp64 if one of them is fp64, else fp32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
