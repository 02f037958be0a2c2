"""Linear probes: heads trained on frozen features, and the choice among them. Nothing here knows of images.

The figures of most papers are the best over epochs, or over heads, on the images they report: selection on the test
set. It is kept under that name, `best_on_val`, beside figures that owe nothing to it. For these every head has a twin
of the same first weights that never sees the held-out training images; where the twins do best on them, epoch and
head are chosen, and the test figure is that of the head trained on all training images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ukd.eval.linear.choice import LinearResult, Point, choose
from ukd.eval.linear.heads import Counts, Grid
from ukd.eval.linear.presets import Preset
from ukd.eval.linear.schedule import Schedule

State = dict[str, Any]


class Batches(Protocol):
    """Where the training rows come from."""

    def __call__(self, first_step: int, last_step: int) -> Iterable[tuple[Tensor, Tensor]]:
        """This process's share of each step's rows [b, W], and the numbers [b] of their training images."""


@dataclass(frozen=True)
class Sets:
    """What heads learn and are judged by; class numbers count from 0, tensors lie where it is computed.

    Attributes:
        targets: [n] classes of the training images.
        heldout: bool [n], those held out from the twins.
        heldout_rows: [h, W] their features in the evaluation view, in their order.
        test_rows: [q, W] features of the test images.
        test_targets: [q] their classes.
        columns: where each kind of features stands in a row.
        num_classes: classes.
        class_token: whether the model has one, which changes the learning rates of some protocols.
    """

    targets: Tensor
    heldout: Tensor
    heldout_rows: Tensor
    test_rows: Tensor
    test_targets: Tensor
    columns: Mapping[str, slice]
    num_classes: int
    class_token: bool


def probe(
    batches: Batches,
    sets: Sets,
    preset: Preset,
    *,
    seed: int = 0,
    state: State | None = None,
    save: Callable[[int, State], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> LinearResult:
    """Train a preset's heads on frozen features and measure them after every epoch.

    Args:
        batches: where the training rows come from.
        sets: labels, and the rows that heads are measured on.
        preset: the protocol.
        seed: seed of the first weights and of the bootstrap intervals.
        state: what `save` was given last by a probe that was interrupted; this one ends as that would have.
        save: called after every epoch with the number of steps taken and what it takes to continue from there.
        advance: called with the number of images done since the last call, over all processes.

    Raises:
        TrainingError: no head has weights that are numbers.
    """
    schedule = Schedule(preset, len(sets.targets))
    training = _Training(sets, preset, seed)
    done = training.restore(state) if state else 0
    for step, (rows, index) in enumerate(batches(done, schedule.num_steps), start=done):
        training.step(rows, index, schedule.factor(step))
        if advance:
            advance(preset.batch_size)
        if step + 1 in schedule.epoch_ending_at:
            training.measure(schedule.epoch_ending_at[step + 1])
            if save:
                save(step + 1, training.state())
    num_test, num_heldout = len(sets.test_rows), len(sets.heldout_rows)
    return choose(preset, training.curve, training.grid, num_test=num_test, num_heldout=num_heldout, seed=seed)


class _Training:
    """Heads and their twins, and what they have done so far."""

    def __init__(self, sets: Sets, preset: Preset, seed: int) -> None:
        self._sets = sets
        self.grid, self._twins = (
            Grid(
                sets.columns,
                sets.num_classes,
                preset.rates(class_token=sets.class_token),
                momentum=preset.momentum,
                init_std=preset.init_std,
                seed=seed,
                device=sets.test_rows.device,
                dtype=sets.test_rows.dtype,
            )
            for _ in range(2)
        )
        self.curve: list[Point] = []

    def step(self, rows: Tensor, index: Tensor, factor: float) -> None:
        targets, seen = self._sets.targets[index], ~self._sets.heldout[index]
        self.grid.step(rows, targets, factor)
        self._twins.step(rows[seen], targets[seen], factor)

    def measure(self, epoch: int) -> None:
        sets = self._sets
        test = self.grid.count(sets.test_rows, sets.test_targets)
        self.curve.append(Point(epoch, test, self._twins.count(sets.heldout_rows, sets.targets[sets.heldout])))

    def state(self) -> State:
        curve = [(point.epoch, tuple(point.test), tuple(point.heldout)) for point in self.curve]
        return {"grid": self.grid.state(), "twins": self._twins.state(), "curve": curve}

    def restore(self, state: State) -> int:
        """Continue from what `state` gave; returns the number of steps taken."""
        self.grid.restore(state["grid"])
        self._twins.restore(state["twins"])
        self.curve = [Point(epoch, Counts(*test), Counts(*heldout)) for epoch, test, heldout in state["curve"]]
        return int(state["step"])
