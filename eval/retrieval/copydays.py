"""Copydays (Douze et al. 2009, Evaluation of GIST descriptors): which original is this a copy of?

The database holds the originals, and distractors if there are any; queries are copies of them, by strength: `strong`
edits, JPEG qualities and crops. A copy's first four letters are those of its original's name. Average precision is
trapezoidal and ends at place 20 (facebookresearch/dino:eval_copy_detection.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ukd.data import Images, Labels
from ukd.errors import DataError
from ukd.eval.presets import NamedPreset
from ukd.eval.retrieval.figures import Figures, averaged, ranked
from ukd.eval.retrieval.metrics import trapezoidal_ap
from ukd.eval.retrieval.pictures import Folder
from ukd.neighbours import Floats

ORIGINAL, GROUPS = "original", ("strong", "jpegqual", "crops")
NUM_PREFIX = 4
"""Letters that a copy's name shares with its original's."""


@dataclass(frozen=True)
class Preset(NamedPreset):
    """How images are fed, and how long the lists are.

    Attributes:
        image_px: Side of the square that images are squashed to.
        gem: Exponent of the generalised mean over tokens that is joined to the pooled feature; None for none.
        k: Length of the lists.
    """

    image_px: int = 320
    gem: float | None = 4.0
    k: int = 20


PRESETS = {preset.name: preset for preset in (Preset("dino"), Preset("pooled", gem=None))}


@dataclass(frozen=True)
class Copydays:
    """The benchmark as it lies on disk.

    Attributes:
        queries: The copies by block: `strong`, `jpegqual/3`, `crops/10`, ...
        originals: What is searched.
        answers: For each block, the number of each copy's original [q].
    """

    queries: Mapping[str, Images]
    originals: Images
    answers: Mapping[str, Labels]


def open_copydays(folder: Path) -> Copydays:
    """Open a folder of `original/`, `strong/`, `jpegqual/*/` and `crops/*/`; blocks that are not there are left out.

    Raises:
        DataError: No originals or no copies, or a copy without an original.
    """
    pictures, blocks = Folder(folder), dict[str, list[str]]()
    for path in pictures.paths():
        blocks.setdefault(path.rpartition("/")[0], []).append(path)
    originals = blocks.pop(ORIGINAL, [])
    copies = {name: blocks[name] for name in blocks if name.split("/")[0] in GROUPS}
    if not originals or not copies:
        raise DataError(
            f"data: {folder} has no {'copies' if originals else 'originals'}; wanted are original/ and any of strong/, "
            "jpegqual/3/, ..., crops/10/, ..."
        )
    number = {_prefix(path): index for index, path in enumerate(originals)}
    if len(number) < len(originals):
        raise DataError(f"data: {folder}/{ORIGINAL}: two originals have the same first {NUM_PREFIX} letters")
    strange = [path for paths in copies.values() for path in paths if _prefix(path) not in number]
    if strange:
        raise DataError(
            f"data: {folder}: {len(strange)} copies have no original whose name begins alike: {', '.join(strange[:5])}"
        )
    return Copydays(
        {name: pictures.pick(paths) for name, paths in copies.items()},
        pictures.pick(originals),
        {name: np.array([number[_prefix(path)] for path in paths]) for name, paths in copies.items()},
    )


def evaluate(
    queries: Sequence[Floats], answers: Mapping[str, Labels], database: Floats, preset: Preset, *, seed: int = 0
) -> Figures:
    """Look for every copy's original.

    Args:
        queries: Features [q, D] of each block, any scale; cosine is used.
        answers: For each block the row of the database that is right, [q].
        database: [n, D], originals first.
        preset: How long the lists are.
        seed: Seed of the bootstrap intervals.

    Returns:
        `map_trapz_at_k_BLOCK`, and the mean over all qualities as `..._jpegqual`, over all crops as `..._crops`.

    Raises:
        DataError: A row is broken.
    """
    depth, values = min(preset.k, len(database)), {}
    for (block, right), rows in zip(answers.items(), queries, strict=True):
        index = np.concatenate([listed for _, listed in ranked(rows, database, depth)])
        values[block] = trapezoidal_ap(index == right[:, None], np.ones(len(right), dtype=np.int64))
    for group in GROUPS:
        parts = [each for block, each in values.items() if block.startswith(f"{group}/")]
        if parts:
            values[group] = np.concatenate(parts)
    return Figures(averaged({f"map_trapz_at_{preset.k}_{block}": each for block, each in values.items()}, seed))


def _prefix(path: str) -> str:
    return path.rpartition("/")[2][:NUM_PREFIX]
