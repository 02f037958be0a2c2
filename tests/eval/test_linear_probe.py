"""Training and choosing: against scikit-learn, by hand, on chance, interrupted, and on two processes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ukd.errors import TrainingError
from ukd.eval.linear.choice import LinearResult, Point, choose
from ukd.eval.linear.heads import Counts, Grid, Head
from ukd.eval.linear.presets import PRESETS, Preset
from ukd.eval.linear.probe import Sets, State, probe
from ukd.eval.linear.rows import CachedBatches, Standardiser

CPU = torch.device("cpu")
FAST = replace(PRESETS["cached-sgd"], epochs=10, lrs=(0.03, 0.3), weight_decays=(0.0, 1e-3))


def sets_of(
    train: Tensor, targets: Tensor, test: Tensor, test_targets: Tensor, columns: dict[str, slice] | None = None
) -> Sets:
    heldout = torch.zeros(len(train), dtype=torch.bool)
    heldout[::10] = True
    return Sets(
        targets=targets,
        heldout=heldout,
        heldout_rows=train[heldout],
        test_rows=test,
        test_targets=test_targets,
        columns=columns or {"pooled": slice(0, train.shape[1])},
        num_classes=int(targets.max()) + 1,
        class_token=False,
    )


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Sets]:
    """Training rows and sets of pixels, normalised as simreg does."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    rows, targets = torch.from_numpy(pixels[order]), torch.from_numpy(labels[order])
    standardise = Standardiser(rows[:1200], CPU)
    rows = standardise(rows)
    return rows[:1200], sets_of(rows[:1200], targets[:1200], rows[1200:], targets[1200:])


def run(digits: tuple[Tensor, Sets], preset: Preset = FAST, **arguments: Any) -> LinearResult:
    rows, sets = digits
    return probe(CachedBatches(rows, preset.batch_size, 0, CPU), sets, preset, **arguments)


def test_digits_are_told_apart_as_well_as_by_scikit_learn(digits: tuple[Tensor, Sets]) -> None:
    rows, sets = digits
    result = run(digits, PRESETS["cached-sgd"])
    exact = max(
        LogisticRegression(C=c, max_iter=2000).fit(rows, sets.targets).score(sets.test_rows, sets.test_targets)
        for c in (0.01, 0.1, 1.0)
    )
    assert exact > 0.95
    for choice in (result.selected_on_heldout, result.last):
        assert abs(choice.top1.value - exact) < 0.015
    assert result.selected_on_heldout.top5.value > 0.99


def test_the_best_on_the_test_images_is_never_below_the_others(digits: tuple[Tensor, Sets]) -> None:
    result = run(digits)
    best, selected, last = (each.top1 for each in (result.best_on_val, result.selected_on_heldout, result.last))
    assert best.value >= selected.value and best.value >= last.value
    assert best.value == max(max(point.test.top1) for point in result.curve) / len(digits[1].test_rows)
    assert last.low < last.value < last.high and last.n == len(digits[1].test_rows)
    assert [point.epoch for point in result.curve] == list(range(1, 11)) and result.last.epoch == 10
    assert result.num_heldout == 120 and len(result.heads) == 4


def test_permuted_labels_give_chance(digits: tuple[Tensor, Sets]) -> None:
    rows, sets = digits
    targets = sets.targets[torch.randperm(1200, generator=torch.Generator().manual_seed(0))]
    result = run((rows, replace(sets, targets=targets)))
    assert abs(result.selected_on_heldout.top1.value - 0.1) < 0.06
    assert result.selected_on_heldout.heldout_top1 < 0.25


def test_twins_never_learn_from_heldout_images(digits: tuple[Tensor, Sets]) -> None:
    rows, sets = digits
    spoiled = rows.clone()
    spoiled[sets.heldout] = spoiled[sets.heldout].flip(1)
    first, second = run(digits), run((spoiled, sets))
    assert [point.heldout for point in first.curve] == [point.heldout for point in second.curve]
    assert [point.test for point in first.curve] != [point.test for point in second.curve]


def test_an_interrupted_probe_ends_as_if_nothing_had_happened(digits: tuple[Tensor, Sets]) -> None:
    states: list[State] = []

    def save(step: int, state: State) -> None:
        tensors = {name: [value.clone() for value in state[name]] for name in ("grid", "twins")}
        states.append({"step": step, "curve": state["curve"], **tensors})

    done: list[int] = []
    whole = run(digits, save=save, advance=done.append)
    assert len(states) == 10 and sum(done) == states[-1]["step"] * 256
    for state in (states[3], states[9]):
        assert run(digits, state=state) == whole


def grid_of(lrs: tuple[float, ...]) -> Grid:
    return cast(Grid, SimpleNamespace(heads=[Head("pooled", lr, 0.0) for lr in lrs], finite=lambda: [True] * len(lrs)))


def curve_of(test: list[list[int]], heldout: list[list[int]]) -> list[Point]:
    pairs = zip(test, heldout, strict=True)
    return [Point(epoch, Counts(ours, ours), Counts(own, own)) for epoch, (ours, own) in enumerate(pairs, start=1)]


def test_choices_by_hand() -> None:
    curve = curve_of([[5, 9, 1], [6, 3, 2], [4, 4, 2]], [[3, 0, 7], [7, 7, 1], [1, 2, 2]])
    grid = grid_of((0.1, 0.2, 0.4))
    result = choose(PRESETS["moco"], curve, grid, num_test=10, num_heldout=8, seed=0)
    found = {
        name: (each.epoch, each.head.lr, each.top1.value, each.heldout_top1)
        for name, each in vars(result).items()
        if name in ("last", "selected_on_heldout", "best_on_val")
    }
    assert found == {
        "last": (3, 0.2, 0.4, 2 / 8),  # The first of two that are equal on the held-out images.
        "selected_on_heldout": (2, 0.1, 0.6, 7 / 8),  # Of three that are equal on these, the last epoch's first.
        "best_on_val": (1, 0.2, 0.9, 0.0),
    }
    assert result.warnings == (
        "moco: the chosen learning rate of 0.1 is an end of the grid; a better one may lie beyond it",
    )


def test_dinov2_chooses_among_the_heads_at_the_end() -> None:
    curve = curve_of([[9, 9], [3, 4]], [[9, 9], [6, 5]])
    result = choose(PRESETS["dinov2"], curve, grid_of((0.1, 0.2)), num_test=10, num_heldout=10, seed=0)
    assert (result.best_on_val.epoch, result.best_on_val.top1.value) == (2, 0.4)
    assert (result.selected_on_heldout.epoch, result.selected_on_heldout.top1.value) == (2, 0.3)
    assert result.last == result.selected_on_heldout


def test_heads_that_diverge_are_left_out_by_name_and_all_of_them_are_refused(digits: tuple[Tensor, Sets]) -> None:
    preset = replace(FAST, lrs=(0.1, 1e200), weight_decays=(1.0,), epochs=3)
    result = run(digits, preset)
    assert result.best_on_val.head.lr == 0.1
    assert "1 of 2 heads, at learning rates of 1e+200 and more, ended in NaN or infinity" in result.warnings[0]
    with pytest.raises(TrainingError, match=r"every head are NaN or infinite .* 1e\+200 and more; give a smaller --lr"):
        run(digits, replace(preset, lrs=(1e200,)))
