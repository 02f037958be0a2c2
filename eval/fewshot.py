"""k-nearest-neighbour classification from few images of each class, several times over. Pure functions of arrays.

As DINOv2 has it (facebookresearch/dinov2:dinov2/eval/knn.py, `--n-per-class-list` and `--n-tries`): each draw of the
bank has its own seed, and figures are means over the draws with their standard deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from ukd.data import Labels
from ukd.errors import DataError
from ukd.eval.intervals import bootstrap_mean
from ukd.eval.knn import KnnResult, Preset, Row, ranks_of
from ukd.eval.votes import Ranks
from ukd.neighbours import Floats

NAMED = 5
"""Classes that a message names."""


@dataclass(frozen=True)
class FewShots:
    """Which banks are drawn.

    Attributes:
        shots: images of each class in a bank.
        seeds: seed of each draw.
    """

    shots: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class FewShotPreset(Preset):
    """A vote over banks of few images; attributes as those of `Preset` and `FewShots`."""

    shots: int = 1
    seeds: tuple[int, ...] = (0,)


def few_shot_preset(preset: Preset, few: FewShots) -> FewShotPreset:
    """The same vote over few images, named after both."""
    named = replace(preset, name=f"{preset.name}-{few.shots}-shot")
    return FewShotPreset(**asdict(named), **asdict(few))


def evaluate_few_shots(
    queries: Floats,
    query_labels: Labels,
    bank: Floats,
    bank_labels: Labels,
    presets: Sequence[Preset],
    few: FewShots,
    *,
    seed: int = 0,
) -> KnnResult:
    """Classify queries by every draw of the bank.

    A figure is the mean over the draws; its interval is over the queries, each with its own mean over the draws, and
    its standard deviation over the draws (the sample's, n - 1; None for one draw).

    Args:
        queries: [q, D] features, not normalised.
        query_labels: [q] any integers.
        bank: [n, D] features to draw from.
        bank_labels: [n] any integers.
        presets: votes.
        few: the draws.
        seed: seed of the bootstrap intervals.

    Raises:
        DataError: a class has fewer images than are drawn, or as `ukd.eval.knn.evaluate`.
    """
    draws = []
    warnings: dict[str, None] = {}
    for draw_seed in few.seeds:
        rows = drawn_rows(bank_labels, few.shots, draw_seed)
        ranks, notes = ranks_of(queries, query_labels, bank[rows], bank_labels[rows], presets)
        draws.append(ranks)
        warnings.update(dict.fromkeys(notes))
    rows_of_table = [
        _row(few_shot_preset(preset, few), k, [ranks[preset, k] for ranks in draws], seed) for preset, k in draws[0]
    ]
    return KnnResult(tuple(rows_of_table), tuple(warnings))


def drawn_rows(labels: Labels, shots: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw `shots` rows of each class of labels [n] without replacement, in ascending order.

    Raises:
        DataError: A class has fewer images.
    """
    classes, size = np.unique(labels, return_counts=True)
    if size.min() < shots:
        small = [f"{each} has {num}" for each, num in zip(classes, size, strict=True) if num < shots]
        listed = ", ".join(small[:NAMED]) + (", ..." if len(small) > NAMED else "")
        raise DataError(
            f"knn: --shots {shots} but {len(small)} classes of the bank have fewer images (class {listed}); "
            f"choose --shots <= {size.min()}"
        )
    rng = np.random.default_rng(seed)
    return np.sort(
        np.concatenate([rng.choice(np.flatnonzero(labels == each), shots, replace=False) for each in classes])
    )


def _row(preset: Preset, k: int, ranks: Sequence[Ranks], seed: int) -> Row:
    shares, deviations = [], []
    for most in (1, 5):
        correct = np.stack([each < most for each in ranks]).astype(np.float64)
        shares.append(bootstrap_mean(correct.mean(axis=0), seed))
        deviations.append(float(correct.mean(axis=1).std(ddof=1)) if len(ranks) > 1 else None)
    return Row(preset, k, shares[0], shares[1], deviations[0], deviations[1])
