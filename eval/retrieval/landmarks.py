"""Revisited Oxford and Paris (Radenovic et al. 2018, arXiv:1803.11285): landmarks in three difficulties.

What counts as right is, for easy, the easy images of a query's landmark; for medium the easy and the hard; for hard the
hard. What is neither right nor wrong then is junk and leaves the ranking: the hard for easy, the easy for hard, and the
unclear always. The protocol crops queries to their box; much released code does not, so both are reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ukd.data import Images
from ukd.errors import DataError
from ukd.eval.presets import NamedPreset
from ukd.eval.retrieval.figures import Figures, averaged, found_in, ranked
from ukd.eval.retrieval.gnd import read_pickle
from ukd.eval.retrieval.metrics import Relevance, precision_until_last, trapezoidal_ap, without
from ukd.eval.retrieval.pictures import Cropped, Folder
from ukd.neighbours import Floats, Index

LEVELS = {
    "easy": (("easy",), ("hard", "junk")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}
"""Which lists of a query are right answers, and which are junk."""
FILES = {"roxford": "roxford5k", "rparis": "rparis6k"}


@dataclass(frozen=True)
class Preset(NamedPreset):
    """How images are fed, and which precisions are reported.

    Attributes:
        image_px: Longer side; images are shrunk to it, never enlarged.
        scales: Each image is fed at these shares of that size, and its features are averaged.
        ks: Numbers of images of mP@k.
    """

    image_px: int
    scales: tuple[float, ...] = (1.0,)
    ks: tuple[int, ...] = (1, 5, 10)


_CIRTORCH = Preset("cirtorch", 1024, (1.0, 0.5**0.5, 0.5))
PRESETS = {
    "roxford": {preset.name: preset for preset in (Preset("dino", 224), _CIRTORCH)},
    "rparis": {preset.name: preset for preset in (Preset("dino", 512, (1.0, 0.5**0.5, 0.5)), _CIRTORCH)},
}
"""`dino` is facebookresearch/dino:README.md's, another for each city; `cirtorch` that of Radenovic et al. 2018
(arXiv:1711.02512, filipradenovic/cnnimageretrieval-pytorch:README.md) for networks trained on landmarks."""


@dataclass(frozen=True)
class Truth:
    """Numbers of images of the database, a list a query.

    Attributes:
        easy: Show the landmark clearly.
        hard: Show it in part, from afar, or in unusual light.
        junk: Too unclear to be asked for.
    """

    easy: tuple[Index, ...]
    hard: tuple[Index, ...]
    junk: tuple[Index, ...]


@dataclass(frozen=True)
class Landmarks:
    """The benchmark as it lies on disk.

    Attributes:
        queries: Whole query images.
        cropped: The same cut to their boxes.
        database: The images that are searched.
        truth: What is right.
    """

    queries: Images
    cropped: Images
    database: Images
    truth: Truth


def open_landmarks(folder: Path, kind: str) -> Landmarks:
    """Open `gnd_<name>.pkl` and `jpg/` in a folder, or in the folder of that name in it, as revisitop lays them out.

    Args:
        folder: The folder.
        kind: `roxford` or `rparis`.

    Raises:
        DataError: The files are not there, or not what they should be.
    """
    name = FILES[kind]
    place = folder if (folder / f"gnd_{name}.pkl").exists() else folder / name
    path = place / f"gnd_{name}.pkl"
    stored = read_pickle(path)
    try:
        names, query_names, entries = stored["imlist"], stored["qimlist"], stored["gnd"]
        lists = {key: tuple(_numbers(entry[key], len(names)) for entry in entries) for key in ("easy", "hard", "junk")}
        boxes = np.array([entry["bbx"] for entry in entries], dtype=np.float64).reshape(len(query_names), 4)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"data: {path} is not the ground truth of {name}: {type(error).__name__} {error}; "
            "wanted are imlist, qimlist, and gnd with easy, hard, junk and bbx for every query"
        ) from None
    pictures = Folder(place / "jpg")
    queries = pictures.pick([f"{each}.jpg" for each in query_names])
    database = pictures.pick([f"{each}.jpg" for each in names])
    return Landmarks(queries, Cropped(queries, boxes), database, Truth(**lists))


def evaluate(queries: Floats, database: Floats, truth: Truth, preset: Preset, *, seed: int = 0) -> Figures:
    """Rank the whole database for every query.

    Queries without a right answer at a level do not count there.

    Args:
        queries: [q, D] features, any scale; cosine is used.
        database: [n, D].
        truth: What is right.
        preset: Which precisions are reported.
        seed: Seed of the bootstrap intervals.

    Returns:
        `map_trapz_LEVEL` and `mp_at_k_LEVEL` for every level that any query has answers at.

    Raises:
        DataError: The truth is of other queries, or a row is broken.
    """
    if len(queries) != len(truth.easy):
        raise DataError(f"retrieval: {len(queries)} queries but ground truth for {len(truth.easy)}")
    index = np.concatenate([listed for _, listed in ranked(queries, database, len(database))])
    of = {name: found_in(getattr(truth, name), index) for name in ("easy", "hard", "junk")}
    figures = [_level(level, of, preset, seed) for level in LEVELS]
    shares = {name: share for each in figures for name, share in each.shares.items()}
    if not shares:
        raise DataError("retrieval: no query has an answer at any level; easy and hard are empty throughout")
    return Figures(shares, tuple(warning for each in figures for warning in each.warnings))


def _level(level: str, of: Mapping[str, Relevance], preset: Preset, seed: int) -> Figures:
    right, junk = (np.logical_or.reduce([of[name] for name in names]) for names in LEVELS[level])
    kept = right.any(axis=1)
    if not kept.any():
        return Figures({}, (f"{level} left out: no query has an answer at this level",))
    relevance = without(right[kept], (junk & ~right)[kept])
    values = {f"map_trapz_{level}": trapezoidal_ap(relevance, relevance.sum(axis=1))}
    values |= {f"mp_at_{k}_{level}": precision_until_last(relevance, k) for k in preset.ks}
    empty = f"{level}: {(~kept).sum()} of {len(kept)} queries have no answer at this level and do not count"
    return Figures(averaged(values, seed), () if kept.all() else (empty,))


def _numbers(listed: Any, num: int) -> npt.NDArray[np.int64]:
    """Check a list of numbers of images."""
    numbers = np.asarray(listed, dtype=np.int64).reshape(-1)
    strange = numbers[(numbers < 0) | (numbers >= num)]
    if len(strange):
        raise IndexError(f"image {strange[0]} of {num}")
    return numbers
