"""k-nearest-neighbour classification: how well images of one class lie together. Pure functions of arrays.

Two votes, because two literatures use them: self-supervised papers weigh each neighbour by exp(cos / temp)
(Wu et al. 2018, arXiv:1805.01978; DINO, Caron et al. 2021, arXiv:2104.14294: k = 10, 20, 100, 200; 0.07);
unsupervised-distillation papers count heads (CompRess, Abbasi Koohpayegani et al. 2020, arXiv:2010.14713;
SimReg, Navaneet et al. 2021, arXiv:2201.05131: k = 1, 20). Two libraries whose figures are quoted weigh at k = 200 and
0.1: lightly (lightly-ai/lightly:benchmarks/imagenet/resnet50/knn_eval.py) by cosine, VISSL by the inner product of
features that it does not normalise (facebookresearch/vissl:vissl/config/defaults.yaml, L2_NORM_FEATS). One search at
the largest k serves every row of the same similarity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.intervals import Share, bootstrap
from ukd.eval.presets import NamedPreset
from ukd.eval.raw_neighbours import nearest_by_product
from ukd.eval.votes import NO_CLASS, Ranks, target_ranks
from ukd.neighbours import Floats, nearest


@dataclass(frozen=True)
class Preset(NamedPreset):
    """A vote and its numbers of neighbours.

    Attributes:
        vote: `weighted` by exp(cos / temp); `dot`, nearest by the inner product of features as they are and weighted by
            exp(product / temp); or `majority`, nearest by cosine and every neighbour counting one.
        ks: numbers of neighbours, a row of the table each.
        temp: temperature of a weighted vote; None for a majority.
    """

    vote: Literal["weighted", "majority", "dot"]
    ks: tuple[int, ...]
    temp: float | None = None

    @property
    def norm(self) -> str:
        """What becomes of the lengths of features, as result files name it."""
        return "none" if self.vote == "dot" else "l2"


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("dino", "weighted", (10, 20, 100, 200), 0.07),
        Preset("ukd", "majority", (1, 20)),
        Preset("lightly", "weighted", (200,), 0.1),
        Preset("vissl", "dot", (200,), 0.1),
    )
}


@dataclass(frozen=True)
class Row:
    """The figures of one preset at one k; their standard deviations over draws of the bank where several were made."""

    preset: Preset
    k: int
    top1: Share
    top5: Share
    top1_std: float | None = None
    top5_std: float | None = None


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
    """Classify queries by their nearest bank rows under every preset, from one exact search for each similarity.

    A row whose k exceeds the bank is left out with a warning. A query of a class the bank lacks is an error.

    Args:
        queries: [q, D] features, not normalised.
        query_labels: [q] any integers.
        bank: [n, D] features.
        bank_labels: [n] any integers.
        presets: protocols to run.
        seed: seed of the bootstrap intervals.

    Raises:
        DataError: no queries, a label too few or too many, a broken row, or every k exceeds the bank.
    """
    ranks, warnings = ranks_of(queries, query_labels, bank, bank_labels, presets)
    rows = [
        Row(preset, k, bootstrap(found < 1, seed), bootstrap(found < 5, seed)) for (preset, k), found in ranks.items()
    ]
    return KnnResult(tuple(rows), warnings)


def ranks_of(
    queries: Floats, query_labels: Labels, bank: Floats, bank_labels: Labels, presets: Sequence[Preset]
) -> tuple[Mapping[tuple[Preset, int], Ranks], tuple[str, ...]]:
    """Rank each query's own class, 0 for the predicted one, under every preset and k; arguments as for `evaluate`.

    Returns:
        Preset and k to ranks [q], in the order of the table, and what a reader of them must know.

    Raises:
        DataError: as `evaluate`.
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
    targets = _class_numbers(query_labels, classes)
    found = {}
    for search, norm in ((nearest, "l2"), (nearest_by_product, "none")):
        ks = {preset: sorted(k for k in set(preset.ks) if k <= len(bank)) for preset in presets if preset.norm == norm}
        if not any(ks.values()):
            continue
        similarity, index = search(queries, bank, max(k for each in ks.values() for k in each))
        for preset in (each for each in ks if ks[each]):
            found[preset] = target_ranks(
                similarity, bank_classes[index], targets, len(classes), ks[preset], preset.temp
            )
    ranks = {(preset, k): found[preset][k] for preset in presets if preset in found for k in sorted(found[preset])}
    return ranks, tuple(_warnings(wanted, len(bank), query_labels, classes))


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
