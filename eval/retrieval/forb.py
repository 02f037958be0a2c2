"""FORB, retrieval of flat objects (Wu et al. 2023, arXiv:2309.16249): find it, and say when it is not there.

Every query is put to two databases: one with its answers and one without any (`oods`). The best similarities in the
second give thresholds at which 0, 10, ..., 100 % of queries wrongly find something there. t-mAP is the mean over these
eleven of AP@k of what remains of the ten nearest in the first (pxiangwu/FORB:baselines/eval_tmap.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ukd.data import Images
from ukd.errors import DataError
from ukd.eval.presets import NamedPreset
from ukd.eval.retrieval.figures import Figures, averaged, found_in
from ukd.eval.retrieval.metrics import Relevance, Values, first, step_ap
from ukd.eval.retrieval.pictures import Folder
from ukd.neighbours import Floats, Index, nearest

NUM_RATES = 11
"""False-positive rates from 0 to 1 at which thresholds are set."""


@dataclass(frozen=True)
class Preset(NamedPreset):
    """How images are fed, and how long the lists are.

    Attributes:
        query_scales: Shorter sides, in sides of the view, that a query is resized to before its centre is cut out; its
            unit features are averaged.
        database_scales: The same of images of the database.
        ks: Lengths of the lists that figures are of.
        depth: Length of the list that thresholds are applied to.
    """

    query_scales: tuple[float, ...]
    database_scales: tuple[float, ...]
    ks: tuple[int, ...] = (1, 5)
    depth: int = 10


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("forb", (1.414, 1.0, 0.707), (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)),
        Preset("one-scale", (1.0,), (1.0,)),
    )
}
"""`forb` is pxiangwu/FORB:baselines/dinov2/extract_features.py's; `one-scale` takes a seventh of its time."""


@dataclass(frozen=True)
class Forb:
    """The benchmark as it lies on disk.

    Attributes:
        queries: The queries of all kinds of objects.
        database: The images of both databases, each once.
        inside: [n] numbers of the images that are the database with answers.
        outside: [m] those of the database without.
        answers: For each query, the places of its answers in `inside`.
        levels: For each query, `easy`, `medium` or `hard`.
        objects: The kinds of objects found.
    """

    queries: Images
    database: Images
    inside: Index
    outside: Index
    answers: tuple[Index, ...]
    levels: tuple[str, ...]
    objects: tuple[str, ...]


def open_forb(folder: Path) -> Forb:
    """Open a folder of `metadata/`, as in pxiangwu/FORB, beside the images that it names.

    Answers are found by their paths, so that parts of the benchmark need no renumbering.

    Raises:
        DataError: A file is missing, or not what it should be.
    """
    metadata = folder / "metadata"
    objects = sorted(path.name.removesuffix("_gt.ndjson") for path in metadata.glob("*_gt.ndjson"))
    if not objects:
        raise DataError(f"data: {metadata} holds no *_gt.ndjson; wanted is the folder that FORB's metadata lies in")
    records = [record for name in objects for record in _records(metadata / f"{name}_gt.ndjson")]
    inside, outside = (_lines(metadata / f"{name}_database_images.txt") for name in ("all", "oods"))
    paths = list(dict.fromkeys([*inside, *outside]))
    number = {path: index for index, path in enumerate(paths)}
    place = {path: index for index, path in enumerate(inside)}
    try:
        queries = [record["query_image"] for record in records]
        answers = [[place[path] for path in record["groundtruth_images"]] for record in records]
        levels = tuple(record["difficulty"] for record in records)
    except KeyError as error:
        raise DataError(
            f"data: {metadata}: {error} is missing, as an answer in all_database_images.txt or as an entry of a query "
            "(query_image, groundtruth_images, difficulty)"
        ) from None
    pictures = Folder(folder)
    return Forb(
        pictures.pick(queries),
        pictures.pick(paths),
        np.array([number[path] for path in inside], dtype=np.int64),
        np.array([number[path] for path in outside], dtype=np.int64),
        tuple(np.unique(np.array(each, dtype=np.int64)) for each in answers),
        levels,
        tuple(objects),
    )


def evaluate(
    queries: Floats,
    inside: Floats,
    outside: Floats,
    answers: Sequence[Index],
    levels: Sequence[str],
    preset: Preset,
    *,
    seed: int = 0,
) -> Figures:
    """Search both databases for every query.

    Args:
        queries: [q, D], any scale; cosine is used.
        inside: [n, D], the database with answers.
        outside: [m, D], the database without.
        answers: For each query the rows of `inside` that are right.
        levels: For each query its difficulty.
        preset: How long the lists are.
        seed: Seed of the bootstrap intervals; the thresholds are not drawn anew.

    Returns:
        `tmap_at_k`, and `map_at_k_over_all`, the same without thresholds; and both by difficulty, `..._hard`.

    Raises:
        DataError: A row is broken, or the widths differ.
    """
    similarity, index = nearest(queries, inside, min(preset.depth, len(inside)))
    thresholds = thresholds_at(nearest(queries, outside, 1)[0][:, 0])
    right = found_in(answers, index)
    num_right = np.array([len(each) for each in answers])
    overall: dict[str, Values] = {}
    for k in preset.ks:
        at = [ap_above(threshold, similarity, right, num_right, k) for threshold in thresholds]
        overall |= {f"tmap_at_{k}": np.mean(at, axis=0), f"map_at_{k}_over_all": at[-1]}
    by_level = {
        f"{name}_{level}": each[np.array(levels) == level]
        for level in sorted(set(levels))
        for name, each in overall.items()
    }
    return Figures(averaged({**overall, **by_level}, seed))


def thresholds_at(best: npt.NDArray[np.floating[Any]]) -> list[float]:
    """Find the similarities at which 0, 10, ..., 100 % of the queries find what is not there.

    Args:
        best: [q] the highest similarity of each query to any image of the database without answers.

    Returns:
        Eleven thresholds, descending but for ties; the last lets everything pass.
    """
    ascending, steps = np.sort(best), NUM_RATES - 1
    places = [-(-(steps - step) * len(best) // steps) - 1 for step in range(steps)]
    return [*(float(ascending[place]) for place in places), -np.inf]


def ap_above(threshold: float, similarity: Floats, right: Relevance, num_right: Index, k: int) -> Values:
    """AP@k over all right answers [q] of what reaches a threshold; without any to be found, 1 for finding nothing.

    Args:
        threshold: Images of lower similarity are dropped.
        similarity: [q, d], highest first.
        right: [q, d] whether the images are right answers.
        num_right: [q] all right answers, found or not.
        k: Length of the list.
    """
    kept = similarity >= threshold
    ap = step_ap(first(right & kept, k), np.maximum(num_right, 1))
    return np.where(num_right == 0, ~kept.any(axis=1), ap)


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"data: {path}, line {number}: {error}") from None


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"data: cannot read {path}: {error.strerror}") from None
