"""Binary codes of a teacher's features, clusters of images, and the bits that say nothing within a cluster."""

from __future__ import annotations

import torch
from torch import Tensor

from ukd.errors import UserError
from ukd.neighbours import k_means
from ukd.row_blocks import RowBlocks
from ukd.similarity import distances, moments

ITQ_STEPS = 50
"""Steps of iterative quantisation, as many as in the paper."""


def project(rows: RowBlocks, mean: Tensor, projection: Tensor) -> Tensor:
    """Rows [n, D] less their mean in the space of codes, [n, bits]; the signs are the codes."""
    dtype = projection.dtype
    return torch.cat([(some.to(dtype) - mean) @ projection for some in rows])


def iterative_quantisation(rows: RowBlocks, bits: int) -> tuple[Tensor, Tensor]:
    """The projection whose signs lie nearest to the rows themselves.

    Gong & Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes", CVPR 2011: the first
    principal axes, then the rotation that brings the rows closest to corners of a cube. It starts from a rotation of
    its own, always the same. Rows narrower than the code are spread over all bits.

    Args:
        rows: [n, D] by blocks, any floating dtype.
        bits: Length of the code.

    Returns:
        fp64 mean [D] and projection [D, bits].
    """
    mean, covariance = moments(rows)
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :bits]
    generator = torch.Generator().manual_seed(0)
    whole = torch.linalg.qr(torch.randn(bits, bits, generator=generator, dtype=torch.float64)).Q
    components = RowBlocks(project(rows, mean, axes))
    rotation = whole[: axes.shape[1]]
    for _ in range(ITQ_STEPS):
        product = torch.stack([block.T @ signs(block @ rotation) for block in components]).sum(0)
        left, _, right = torch.linalg.svd(product, full_matrices=False)
        rotation = left @ right
    return mean, axes @ rotation


def signs(x: Tensor) -> Tensor:
    """1 where x is at least 0, else -1, in the dtype of x."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def cluster_centres(components: Tensor, num_clusters: int) -> Tensor:
    """Centres [num_clusters, bits] of k-means over rows [n, bits]; the same for the same rows.

    Raises:
        UserError: More clusters than images.
    """
    if num_clusters > len(components):
        raise UserError(
            f"num_clusters: {num_clusters} clusters cannot be made of {len(components)} training images; "
            f"choose num_clusters <= {len(components)}"
        )
    return torch.from_numpy(k_means(components.numpy(), num_clusters, spherical=False, seed=0)).to(components.dtype)


def nearest_centre(components: Tensor, centres: Tensor) -> Tensor:
    """Number of the nearest centre [K, bits] of every row [n, bits], int64 [n]."""
    return torch.cat([distances(rows, centres).argmin(1) for rows in RowBlocks(components)])


def telling_bits(codes: Tensor, clusters: Tensor, num_clusters: int, margin: float) -> Tensor:
    """Which bits tell the images of a cluster apart: those whose mean lies within a margin of 0.

    He et al., BRCD, WWW 2024: a bit that nearly all images of a cluster share is redundant there. In the released code
    (hly1998/BRCD:get_mask/get_matrix.py) the second threshold undoes the first, and every bit of every cluster is
    silenced. Here the half of the bits that are shared least is kept, whatever the margin says.

    Args:
        codes: [n, bits] of 1 and -1.
        clusters: int64 [n].
        num_clusters: How many there are.
        margin: Largest |mean| of a bit that is kept.

    Returns:
        [num_clusters, bits] of 0 and 1, in the dtype of `codes`.
    """
    bits = codes.shape[1]
    sums = codes.new_zeros(num_clusters, bits).index_add(0, clusters, codes)
    sizes = torch.bincount(clusters, minlength=num_clusters).clamp(min=1)
    shared = (sums / sizes[:, None]).abs()
    rank = shared.argsort(dim=1, stable=True).argsort(dim=1)
    is_kept = (shared <= margin) | (rank < (bits + 1) // 2)
    return is_kept.to(codes.dtype)
