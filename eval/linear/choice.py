"""What a trained grid of heads is worth: the choice among its heads and epochs, on held-out and on test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ukd.errors import TrainingError
from ukd.eval.intervals import Share, bootstrap
from ukd.eval.linear.heads import Counts, Grid, Head
from ukd.eval.linear.presets import Preset


@dataclass(frozen=True)
class Point:
    """What every head does after an epoch: itself on the test images, its twin on the held-out ones."""

    epoch: int
    test: Counts
    heldout: Counts


@dataclass(frozen=True)
class Choice:
    """A head at the end of an epoch, and its figures.

    Attributes:
        head: the head.
        epoch: passes it was trained for.
        top1: share of test images whose class it has first.
        top5: share of test images whose class is among its first five.
        heldout_top1: share of held-out images whose class its twin has first.
    """

    head: Head
    epoch: int
    top1: Share
    top5: Share
    heldout_top1: float


@dataclass(frozen=True)
class LinearResult:
    """The figures of one preset.

    Attributes:
        preset: the protocol.
        last: the end of training, of several heads the one whose twin is best on the held-out images then.
        selected_on_heldout: epoch and head whose twin is best on the held-out images.
        best_on_val: epoch and head that are best on the test images themselves, as papers have it.
        num_heldout: held-out images.
        heads: every head.
        curve: what they do after each epoch.
        warnings: what a reader must know.
    """

    preset: Preset
    last: Choice
    selected_on_heldout: Choice
    best_on_val: Choice
    num_heldout: int
    heads: tuple[Head, ...]
    curve: tuple[Point, ...]
    warnings: tuple[str, ...]


def choose(
    preset: Preset, curve: Sequence[Point], grid: Grid, *, num_test: int, num_heldout: int, seed: int
) -> LinearResult:
    """Choose among the heads of a trained grid, and put their figures together.

    Of several that are equally good the one of the last epoch is taken, and of these the first of the grid.

    Args:
        preset: the protocol.
        curve: what the heads did after each epoch.
        grid: the heads at the end.
        num_test: test images.
        num_heldout: held-out images.
        seed: seed of the bootstrap intervals.

    Raises:
        TrainingError: no head has weights that are numbers.
    """
    diverged = [head for head, finite in zip(grid.heads, grid.finite(), strict=True) if not finite]
    if len(diverged) == len(grid.heads):
        raise TrainingError(
            f"linear: {preset.name}: the weights of every head are NaN or infinite after training at learning rates "
            f"of {min(head.lr for head in diverged):g} and more; give a smaller --lr"
        )
    test, heldout = (
        np.array(top1) for top1 in zip(*((each.test.top1, each.heldout.top1) for each in curve), strict=True)
    )

    def choice(scores: npt.NDArray[np.int64], first: int) -> Choice:
        place, head = _best(scores, first)
        counts = (curve[place].test.top1[head], curve[place].test.top5[head])
        top1, top5 = (bootstrap(np.arange(num_test) < count, seed) for count in counts)
        return Choice(grid.heads[head], curve[place].epoch, top1, top5, curve[place].heldout.top1[head] / num_heldout)

    end = len(curve) - 1
    first = 0 if preset.every_epoch else end
    selected = choice(heldout, first)
    return LinearResult(
        preset,
        choice(heldout, end),
        selected,
        choice(test, first),
        num_heldout,
        tuple(grid.heads),
        tuple(curve),
        tuple(_warnings(preset, grid.heads, diverged, selected.head)),
    )


def _best(scores: npt.NDArray[np.int64], first: int) -> tuple[int, int]:
    """Place of the highest score [E, H] among the epochs from `first` on; of several the last epoch's first head."""
    among = scores[first:][::-1]
    back, head = np.unravel_index(among.argmax(), among.shape)
    return len(scores) - 1 - int(back), int(head)


def _warnings(preset: Preset, heads: Sequence[Head], diverged: Sequence[Head], chosen: Head) -> Iterator[str]:
    if diverged:
        rates = f"learning rates of {min(head.lr for head in diverged):g} and more"
        yield f"{preset.name}: {len(diverged)} of {len(heads)} heads, at {rates}, ended in NaN or infinity: left out"
    lrs = sorted({head.lr for head in heads})
    if len(lrs) > 1 and chosen.lr in (lrs[0], lrs[-1]):
        yield (
            f"{preset.name}: the chosen learning rate of {chosen.lr:g} is an end of the grid; a better one may lie "
            "beyond it"
        )
