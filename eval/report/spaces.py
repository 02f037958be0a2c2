"""What a report draws of feature spaces: maps, shared neighbours, similarities and classes. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from ukd.blocks import Embeddings
from ukd.data import Labels
from ukd.eval.spaces import unit
from ukd.eval.votes import majority_vote, rank_of
from ukd.neighbours import nearest_others, shared_share

PERPLEXITY = 30.0
MAP_SPREAD = 1e-4
"""t-SNE starts from points this close together, so that no order is forced upon it."""

Floats64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.int32]


def flat_map(features: Embeddings, start: Floats64 | None = None) -> Floats64:
    """Lay images out in the plane so that those of similar directions lie together, by t-SNE.

    A map has no up and no left of its own. Started from the map of another space, and at the end turned and mirrored
    to lie upon it as well as it can (orthogonal Procrustes), it can be compared with it by eye.

    Args:
        features: [n, D], n >= 4, any scale; directions alone matter.
        start: A map [n, 2] of the same images to start from; None starts from the two principal components.

    Returns:
        [n, 2], each axis centred.
    """
    directions = unit(features)
    first = start
    if first is None:
        first = PCA(2, random_state=0).fit_transform(directions)
    spread = first.std(axis=0)
    begin = MAP_SPREAD * first / np.where(spread > 0, spread, 1.0)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    flow = TSNE(2, perplexity=perplexity, init=begin.astype(np.float32), random_state=0)
    flat: Floats64 = flow.fit_transform(directions).astype(np.float64)
    flat -= flat.mean(axis=0)
    if start is None:
        return flat
    left, _, right = np.linalg.svd(flat.T @ start)
    turned: Floats64 = flat @ left @ right
    return turned


def shared_by_k(student: Index, teacher: Index, ks: Sequence[int]) -> list[tuple[int, float]]:
    """Share of neighbours in common, for each number of them.

    Args:
        student: [n, K] neighbours in the student's space, nearest first.
        teacher: [n, K] in the teacher's.
        ks: Numbers of neighbours; those above K are left out.
    """
    return [(k, shared_share(student[:, :k], teacher[:, :k])) for k in ks if k <= student.shape[1]]


def similarities(student: Embeddings, teacher: Embeddings, num_pairs: int) -> tuple[Floats64, Floats64]:
    """Cosine similarity of random pairs of different images in both spaces, [num_pairs] each, the same pairs."""
    rng = np.random.default_rng(0)
    one = rng.integers(len(student), size=num_pairs)
    other = (one + rng.integers(1, len(student), size=num_pairs)) % len(student)
    ours, theirs = unit(student), unit(teacher)
    return (ours[one] * ours[other]).sum(axis=1), (theirs[one] * theirs[other]).sum(axis=1)


def accuracy_by_class(features: Embeddings, labels: Labels, k: int) -> dict[int, float]:
    """Classify every image by a majority of its k nearest others, ties to the lowest class.

    Args:
        features: [n, D], any scale.
        labels: [n] any integers.
        k: Neighbours, below n.

    Returns:
        Share classified rightly of each class.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    votes = majority_vote(numbers[nearest_others(features, k)], len(classes))
    right: npt.NDArray[Any] = rank_of(numbers, votes) == 0
    return {int(label): float(right[numbers == i].mean()) for i, label in enumerate(classes)}
