"""How faithfully a student's feature space reproduces its teacher's, without labels. Pure functions of arrays.

Both spaces hold the same n images in the same order; their widths may differ. Neighbours by cosine, trustworthiness and
continuity look at directions alone; everything else takes features as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from ukd.data import Images
from ukd.errors import DataError
from ukd.eval.presets import NamedPreset
from ukd.eval.raw_neighbours import nearest_others_by_distance
from ukd.eval.spaces import (
    dimension_cosine,
    length_correlation,
    procrustes_error,
    rankme,
    trustworthiness,
    unbiased_cka,
    unit,
)
from ukd.neighbours import Floats, nearest_others, shared_share

MIN_IMAGES = 4
"""The unbiased estimator of HSIC divides by n - 3."""


@dataclass(frozen=True)
class Preset(NamedPreset):
    """What is compared.

    Attributes:
        ks: numbers of neighbours of mutual kNN.
        rank_k: number of neighbours of trustworthiness and continuity.
        max_images: of more images than these, a fixed choice is taken.
        max_rank_images: as `max_images`, for trustworthiness and continuity, which need n x n ranks.
        eps: RankMe's epsilon.
    """

    ks: tuple[int, ...]
    rank_k: int
    max_images: int
    max_rank_images: int
    eps: float


PRESETS = {preset.name: preset for preset in (Preset("ukd", (10, 20, 100), 20, 10_000, 5_000, 1e-7),)}


@dataclass(frozen=True)
class Space:
    """One model's features, with what every comparison needs of them.

    Attributes:
        features: [n, D], not normalised.
        neighbours: [n, k] nearest other rows by cosine, at the largest k of the preset that n allows.
        neighbours_l2: [n, k] those by Euclidean distance.
        rank: RankMe.
    """

    features: Floats
    neighbours: npt.NDArray[np.int32]
    neighbours_l2: npt.NDArray[np.int32]
    rank: float


@dataclass(frozen=True)
class Fidelity:
    """A student's likeness to its teacher on n images; None where a figure is not defined.

    Attributes:
        num_images: n.
        num_ranked: images of trustworthiness and continuity.
        mutual_knn: share of neighbours by cosine in common, in [0, 1], for each k.
        mutual_knn_l2: that of neighbours by Euclidean distance.
        chance: what unrelated spaces share on average, k / (n - 1), for each k, by either.
        cka: unbiased linear CKA; 1 for equal up to rotation and scale, about 0 for unrelated.
        trustworthiness: in [0, 1], low where images near one another in the student are not in the teacher.
        continuity: in [0, 1], low where images near one another in the teacher are not in the student.
        rank: RankMe of the student, 1 to min(n, D).
        teacher_rank: RankMe of the teacher.
        length_correlation: Pearson correlation of the lengths of features.
        dimension_cosine: mean cosine of dimensions, in [-1, 1]; defined for equal widths.
        procrustes_error: share of the teacher that the best rotation, scale and offset leave over, 0 to 1.
        warnings: what a reader must know.
    """

    num_images: int
    num_ranked: int
    mutual_knn: dict[int, float]
    mutual_knn_l2: dict[int, float]
    chance: dict[int, float]
    cka: float | None
    trustworthiness: float | None
    continuity: float | None
    rank: float
    teacher_rank: float
    length_correlation: float | None
    dimension_cosine: float | None
    procrustes_error: float | None
    warnings: tuple[str, ...]


def chosen_images(images: Images, most: int) -> npt.NDArray[np.int64] | None:
    """Choose `most` images by the hashes of their ids, in ascending order; None where there are no more than these.

    The choice knows no order: of a folder sorted by class it takes every class, and few images change with a new one.
    """
    if len(images) <= most:
        return None
    digests = [blake2b(os.fsencode(images.id(index)), digest_size=16).digest() for index in range(len(images))]
    return np.sort(np.array(sorted(range(len(images)), key=digests.__getitem__)[:most], dtype=np.int64))


def space_of(features: Floats, preset: Preset) -> Space:
    """Compute what every comparison with these features needs.

    Args:
        features: [n, D], finite.
        preset: what is compared.

    Raises:
        DataError: fewer than four images, or a row that holds NaN or infinity.
    """
    if len(features) < MIN_IMAGES:
        raise DataError(f"fidelity: {len(features)} images; at least {MIN_IMAGES} are needed")
    most = max((k for k in preset.ks if k < len(features)), default=1)
    neighbours = nearest_others(features, most), nearest_others_by_distance(features, most)
    return Space(features, *neighbours, rankme(features, preset.eps))


def compare(student: Space, teacher: Space, preset: Preset, *, seed: int = 0) -> Fidelity:
    """Compare a student's space with its teacher's.

    Args:
        student: its space.
        teacher: the teacher's, of the same images in the same order.
        preset: what is compared.
        seed: seed of the choice of images for trustworthiness and continuity.

    Raises:
        DataError: the numbers of images differ.
    """
    num = len(student.features)
    if num != len(teacher.features):
        raise DataError(f"fidelity: {num} images of the student but {len(teacher.features)} of the teacher")
    ks = [k for k in preset.ks if k < num]
    cka = unbiased_cka(student.features, teacher.features)
    lengths = length_correlation(student.features, teacher.features)
    rows = np.sort(np.random.default_rng(seed).permutation(num)[: preset.max_rank_images])
    ours, theirs = unit(student.features[rows]), unit(teacher.features[rows])
    ranked = 2 * preset.rank_k < len(rows)
    widths = student.features.shape[1], teacher.features.shape[1]
    return Fidelity(
        num_images=num,
        num_ranked=len(rows),
        mutual_knn={k: shared_share(student.neighbours[:, :k], teacher.neighbours[:, :k]) for k in ks},
        mutual_knn_l2={k: shared_share(student.neighbours_l2[:, :k], teacher.neighbours_l2[:, :k]) for k in ks},
        chance={k: k / (num - 1) for k in ks},
        cka=cka,
        trustworthiness=trustworthiness(theirs, ours, preset.rank_k) if ranked else None,
        continuity=trustworthiness(ours, theirs, preset.rank_k) if ranked else None,
        rank=student.rank,
        teacher_rank=teacher.rank,
        length_correlation=lengths,
        dimension_cosine=dimension_cosine(student.features, teacher.features) if widths[0] == widths[1] else None,
        procrustes_error=procrustes_error(student.features, teacher.features),
        warnings=tuple(_warnings(preset, num, ks, ranked, cka, lengths, widths)),
    )


def _warnings(
    preset: Preset,
    num: int,
    ks: Sequence[int],
    ranked: bool,
    cka: float | None,
    lengths: float | None,
    widths: tuple[int, int],
) -> Iterator[str]:
    for k in preset.ks:
        if k not in ks:
            yield f"mutual kNN at k={k} left out: each of the {num} images has {num - 1} others"
    if not ranked:
        yield f"trustworthiness and continuity left out: k={preset.rank_k} needs more than {2 * preset.rank_k} images"
    if cka is None:
        yield "CKA and Procrustes error left out: a model gives all images the same features"
    if lengths is None:
        yield "norm correlation left out: a model gives all features the same length"
    if widths[0] != widths[1]:
        yield (
            f"cosine of dimensions left out: features are {widths[0]} wide and the teacher's {widths[1]}; where a run "
            "has a projector, --features projected compares what comes after it"
        )
