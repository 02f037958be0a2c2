"""Learning rates of the protocols, by hand and against torch's schedulers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ukd.eval.linear.presets import PRESETS
from ukd.eval.linear.schedule import Schedule

SCHEDULERS = {
    "moco": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [60, 80]),
    "simreg": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [15, 30, 40]),
    "dino": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=0),
    "mocov3": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 90, eta_min=0),
}


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_epochs_have_the_learning_rates_of_the_released_code(name: str) -> None:
    preset = PRESETS[name]
    schedule = Schedule(preset, 3 * preset.batch_size)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = SCHEDULERS[name](optimizer)
    for epoch in range(preset.epochs):
        for step in range(3 * epoch, 3 * epoch + 3):
            assert schedule.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        scheduler.step()
    assert schedule.num_steps == 3 * preset.epochs
    assert schedule.epoch_ending_at == {3 * epoch: epoch for epoch in range(1, preset.epochs + 1)}


def test_dinov2_takes_its_cosine_step_by_step_whatever_the_images() -> None:
    schedule = Schedule(PRESETS["dinov2"], 12_345)
    assert schedule.num_steps == 12_500
    assert schedule.epoch_ending_at == {1250 * part: part for part in range(1, 11)}
    assert [schedule.factor(step) for step in (0, 6250, 12_499)] == pytest.approx([1, 0.5, 1.58e-8], rel=1e-2)


def test_by_hand() -> None:
    moco = Schedule(PRESETS["moco"], 384)  # An epoch is a step and a half.
    assert moco.num_steps == 150
    assert [moco.factor(step) for step in (0, 89, 90, 119, 120, 149)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert list(moco.epoch_ending_at.items())[:4] == [(2, 1), (3, 2), (5, 3), (6, 4)]
    few = Schedule(PRESETS["moco"], 64)  # A step is four epochs.
    assert few.num_steps == 25 and list(few.epoch_ending_at.items())[:2] == [(1, 4), (2, 8)]


@given(st.sampled_from(list(PRESETS.values())), st.integers(1, 5000), st.integers(1, 2000), st.integers(1, 50))
def test_every_image_is_seen_and_the_end_is_measured(preset, num_images, batch_size, epochs) -> None:  # type: ignore[no-untyped-def]
    preset = replace(preset, batch_size=batch_size, epochs=epochs)
    schedule = Schedule(preset, num_images)
    if preset.steps is None:
        assert schedule.num_steps * batch_size >= epochs * num_images > (schedule.num_steps - 1) * batch_size
    ends = list(schedule.epoch_ending_at)
    assert ends == sorted(ends) and ends[-1] == schedule.num_steps and ends[0] >= 1
    assert schedule.epoch_ending_at[schedule.num_steps] == epochs
    factors = [schedule.factor(step) for step in range(min(schedule.num_steps, 300))]
    assert factors[0] == 1 and factors == sorted(factors, reverse=True) and factors[-1] > 0
