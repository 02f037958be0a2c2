"""k-nearest-neighbour classification: how well images of one class lie together. Pure functions of arrays.

Two votes, because two literatures use them: self-supervised papers weigh each neighbour by exp(cos / temp)
(Wu et al. 2018, arXiv:1805.01978; DINO, Caron et al. 2021, arXiv:2104.14294: k = 10, 20, 100, 200; 0.07);
unsupervised-distillation papers count heads (CompRess, Abbasi Koohpayegani et al. 2020, arXiv:2010.14713;
SimReg, Navaneet et al. 2021, arXiv:2201.05131: k = 1, 20). One search at the largest k serves every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.intervals import Share, bootstrap
from ukd.eval.presets import NamedPreset
from ukd.neighbours import Floats, nearest

Scores = npt.NDArray[np.float64]

TILE_ENTRIES = 2**23
"""Class scores held at once while voting."""
NO_CLASS = -1


@dataclass(frozen=True)
class Preset(NamedPreset):
    """A vote and its numbers of neighbours.

    Attributes:
        vote: `weighted` by exp(cos / temp), or `majority`, every neighbour counting one.
        ks: numbers of neighbours, a row of the table each.
        temp: temperature of the weighted vote; None for a majority.
    """

    vote: Literal["weighted", "majority"]
    ks: tuple[int, ...]
    temp: float | None = None


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("dino", "weighted", (10, 20, 100, 200), 0.07),
        Preset("ukd", "majority", (1, 20)),
    )
}


@dataclass(frozen=True)
class Row:
    """The figures of one preset at one k."""

    preset: Preset
    k: int
    top1: Share
    top5: Share


@dataclass(frozen=True)
class KnnResult:
    """Every row that the bank is large enough for, and what a reader of them must know."""

    rows: tuple[Row, ...]
    warnings: tuple[str, ...]


def evaluate(
    queries: Floats,
    query_labels: Labels,
    bank: Floats,
    bank_labels: Labels,
    presets: Sequence[Preset],
    *,
    seed: int = 0,
) -> KnnResult:
    """Classify queries by their nearest bank rows under every preset, from one exact search.

    A row whose k exceeds the bank is left out with a warning. A query of a class the bank lacks is an error.

    Args:
        queries: [q, D] features, any scale; cosine is used.
        query_labels: [q] any integers.
        bank: [n, D] features.
        bank_labels: [n] any integers.
        presets: protocols to run.
        seed: seed of the bootstrap intervals.

    Raises:
        DataError: no queries, a label too few or too many, a broken row, or every k exceeds the bank.
    """
    for name, features, labels in (("queries", queries, query_labels), ("bank", bank, bank_labels)):
        if not len(features) or len(features) != len(labels):
            raise DataError(
                f"knn: {name}: {len(features)} images with {len(labels)} labels; every image needs one label"
            )
    wanted = [(preset, k) for preset in presets for k in preset.ks]
    possible = [k for _, k in wanted if k <= len(bank)]
    if not possible:
        asked = ", ".join(str(k) for k in sorted({k for _, k in wanted}))
        raise DataError(f"knn: k={asked} but the bank holds {len(bank)} images; choose k <= {len(bank)}")
    classes, bank_classes = np.unique(bank_labels, return_inverse=True)
    similarity, index = nearest(queries, bank, max(possible))
    labels = bank_classes[index]
    targets = _class_numbers(query_labels, classes)
    rows = []
    for preset in presets:
        ks = sorted(k for k in set(preset.ks) if k <= len(bank))
        ranks = target_ranks(similarity, labels, targets, len(classes), ks, preset.temp) if ks else {}
        rows += [Row(preset, k, bootstrap(ranks[k] < 1, seed), bootstrap(ranks[k] < 5, seed)) for k in ks]
    return KnnResult(tuple(rows), tuple(_warnings(wanted, len(bank), query_labels, classes)))


def weighted_vote(similarity: Floats, labels: Labels, num_classes: int, temp: float) -> Scores:
    """Score classes by sum_j exp((cos_j - max_j cos_j) / temp) over the neighbours j of each class.

    Taking the maximum off scales all its scores alike: no ranking changes and no temperature overflows.

    Args:
        similarity: [q, k] cosine, best first.
        labels: [q, k] classes of the neighbours, 0 to num_classes - 1.
        num_classes: width of the scores.
        temp: temperature, > 0.

    Returns:
        Scores [q, num_classes] >= 0; a class without a neighbour has 0.
    """
    return _sum_by_class(_weights(similarity, temp), labels, num_classes)


def majority_vote(labels: Labels, num_classes: int) -> Scores:
    """Count the neighbours of each class: labels [q, k] to counts [q, num_classes]."""
    return _sum_by_class(np.ones(labels.shape), labels, num_classes)


def rank_of(targets: Labels, scores: Scores) -> npt.NDArray[np.int64]:
    """Count the classes placed before each target class; ties go to the lowest class, as argmax has it.

    Args:
        targets: [q] class numbers, or -1 for a class that cannot be voted for.
        scores: [q, C].

    Returns:
        Ranks [q], 0 for the predicted class; at least 5 where the target has no vote at all, so that top-5
        counts only classes among the neighbours.
    """
    own = np.take_along_axis(scores, np.maximum(targets, 0)[:, None], axis=1)
    before = np.arange(scores.shape[1]) < targets[:, None]
    ranks: npt.NDArray[np.int64] = ((scores > own) | ((scores == own) & before)).sum(axis=1)
    ranks[(targets == NO_CLASS) | (own[:, 0] <= 0)] = max(scores.shape[1], 5)
    return ranks


def target_ranks(
    similarity: Floats,
    labels: Labels,
    targets: Labels,
    num_classes: int,
    ks: Sequence[int],
    temp: float | None,
) -> dict[int, npt.NDArray[np.int64]]:
    """Rank each query's own class in the vote of its first k neighbours, for every k, in one pass.

    Args:
        similarity: [q, K] cosine, best first.
        labels: [q, K] class numbers of the neighbours.
        targets: [q] class numbers of the queries, -1 for one that no neighbour can have.
        num_classes: classes of the bank.
        ks: numbers of neighbours, each <= K.
        temp: temperature of the weighted vote; None for a majority.

    Returns:
        k to ranks [q], as `rank_of` gives them.
    """
    ranks = {k: np.empty(len(labels), dtype=np.int64) for k in ks}
    for tile in _tiles(len(labels), max(num_classes, labels.shape[1])):
        weight = np.ones(labels[tile].shape) if temp is None else _weights(similarity[tile], temp)
        scores, done = np.zeros((len(weight), num_classes)), 0
        for k in sorted(ks):
            scores += _sum_by_class(weight[:, done:k], labels[tile, done:k], num_classes)
            ranks[k][tile] = rank_of(targets[tile], scores)
            done = k
    return ranks


def _weights(similarity: Floats, temp: float) -> Scores:
    wide = similarity.astype(np.float64)
    return np.exp((wide - wide[:, :1]) / temp)


def _sum_by_class(weights: Scores, labels: Labels, num_classes: int) -> Scores:
    """Add weights [q, k] up by label into [q, C]; the cells in between are never one-hot."""
    cells = labels + num_classes * np.arange(len(labels))[:, None]
    sums = np.bincount(cells.ravel(), weights.ravel(), minlength=len(labels) * num_classes)
    return sums.reshape(len(labels), num_classes).astype(np.float64, copy=False)


def _tiles(num: int, width: int) -> Iterator[slice]:
    step = max(1, TILE_ENTRIES // width)
    return (slice(start, start + step) for start in range(0, num, step))


def _class_numbers(labels: Labels, classes: Labels) -> Labels:
    """Number labels by their place among the sorted classes; -1 where absent."""
    place = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return np.where(classes[place] == labels, place, NO_CLASS)


def _warnings(
    wanted: Sequence[tuple[Preset, int]], num_bank: int, query_labels: Labels, classes: Labels
) -> Iterator[str]:
    for preset, k in wanted:
        if k > num_bank:
            yield f"{preset.name}: k={k} left out: the bank holds {num_bank} images"
    absent = np.setdiff1d(query_labels, classes)
    if len(absent):
        num = int(np.isin(query_labels, absent).sum())
        named = ", ".join(map(str, absent[:10])) + (" ..." if len(absent) > 10 else "")
        share = f"{num} of {len(query_labels)}"
        yield f"{share} queries are of classes the bank lacks ({named}): they count as errors"
