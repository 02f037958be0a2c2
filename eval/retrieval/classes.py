"""Retrieval by class: does an image find others of its class? Pure functions of arrays.

R@k as in metric learning (Oh Song et al. 2016, arXiv:1511.06452): the share of queries with any image of their class
among the first k. MAP@R and R-precision as in Musgrave et al. 2020 (arXiv:2003.08505).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.presets import NamedPreset
from ukd.eval.retrieval.figures import Figures, averaged, ranked
from ukd.eval.retrieval.metrics import Relevance, Values, first, hit, r_precision, step_ap
from ukd.neighbours import Floats

MAX_RANKED = 10_000
"""Databases of more images are not ranked to their end, so `map_full` is left out."""


@dataclass(frozen=True)
class Preset(NamedPreset):
    """Which R@k are reported.

    Attributes:
        ks: Numbers of images.
    """

    ks: tuple[int, ...]


PRESETS = {
    preset.name: preset
    for preset in (Preset("cub", (1, 2, 4, 8)), Preset("sop", (1, 10, 100, 1000)), Preset("inshop", (1, 10, 20, 30)))
}


def evaluate(
    queries: Floats,
    query_labels: Labels,
    database: Floats,
    database_labels: Labels,
    preset: Preset,
    *,
    own: bool = False,
    seed: int = 0,
) -> Figures:
    """Rank the database for every query and see where its class is.

    Queries whose class the database does not hold are left out with a warning, and so is a k that exceeds it.

    Args:
        queries: [q, D] features, any scale; cosine is used.
        query_labels: [q] any integers.
        database: [n, D] features.
        database_labels: [n] any integers.
        preset: Which R@k are reported.
        own: Query i shows image i of the database, which answers everyone but its own query (leave-one-out).
        seed: Seed of the bootstrap intervals.

    Returns:
        `recall_at_k`, `r_precision`, `map_at_r` and `map_full`.

    Raises:
        DataError: A label too few or too many, a broken row, no query with an answer, or every k exceeds the database.
    """
    for name, features, labels in (("queries", queries, query_labels), ("database", database, database_labels)):
        if not len(features) or len(features) != len(labels):
            raise DataError(f"retrieval: {name}: {len(features)} images with {len(labels)} labels; each needs one")
    num = len(database) - own
    ks = [k for k in preset.ks if k <= num]
    if not ks:
        raise DataError(f"retrieval: k={min(preset.ks)} but each query has {num} images to find; choose k <= {num}")
    num_relevant = count_answers(query_labels, database_labels) - own
    answerable = num_relevant > 0
    if not answerable.any():
        raise DataError("retrieval: no query has another image of its class to find; every class has one image")
    full = num <= MAX_RANKED
    depth = num if full else max(*ks, int(num_relevant.max()))
    values: dict[str, list[Values]] = {}
    for block, index in ranked(queries, database, depth, own=own):
        kept = answerable[block]
        relevance = (database_labels[index] == query_labels[block, None])[kept]
        for name, each in _values(relevance, num_relevant[block][kept], ks, full):
            values.setdefault(name, []).append(each)
    shares = averaged({name: np.concatenate(parts) for name, parts in values.items()}, seed)
    return Figures(shares, tuple(_warnings(preset, ks, num, int((~answerable).sum()), len(queries), full)))


def count_answers(query_labels: Labels, database_labels: Labels) -> Labels:
    """Count the images of the database that have each query's label, [q]."""
    classes, sizes = np.unique(database_labels, return_counts=True)
    place = np.minimum(np.searchsorted(classes, query_labels), len(classes) - 1)
    return np.where(classes[place] == query_labels, sizes[place], 0).astype(np.int64)


def _values(relevance: Relevance, num_relevant: Labels, ks: list[int], full: bool) -> Iterator[tuple[str, Values]]:
    for k in ks:
        yield f"recall_at_{k}", hit(relevance, k)
    yield "r_precision", r_precision(relevance, num_relevant)
    yield "map_at_r", step_ap(first(relevance, num_relevant), num_relevant)
    if full:
        yield "map_full", step_ap(relevance, num_relevant)


def _warnings(preset: Preset, ks: list[int], num: int, lone: int, num_queries: int, full: bool) -> Iterator[str]:
    for k in preset.ks:
        if k not in ks:
            yield f"R@{k} left out: each query has {num} images to find"
    if lone:
        yield f"{lone} of {num_queries} queries left out: the database has no other image of their class"
    if not full:
        yield f"map_full left out: it ranks all of the database, and that is done up to {MAX_RANKED} images"
