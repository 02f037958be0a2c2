"""MixUp and CutMix: what is mixed with what, in which share, and that nothing but (seed, step) decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ukd.mixing import Mix, draw_cutmix, draw_mix, in_pairs, mix_views

DARK, BRIGHT = torch.zeros(2, 3, 8, 10), torch.ones(2, 3, 8, 10)
shares = st.floats(0, 1)


@given(shares)
def test_mixup_is_the_weighted_mean(share: float) -> None:
    mixed, own = mix_views(BRIGHT, DARK, Mix(share, None))
    assert own == share
    torch.testing.assert_close(mixed, torch.full_like(mixed, share))


@given(shares, shares, shares)
def test_cutmix_covers_one_box_and_says_how_much_is_left(share: float, y: float, x: float) -> None:
    mixed, own = mix_views(BRIGHT, DARK, Mix(share, (y, x)))
    assert own == pytest.approx(float(mixed.mean()))
    covered = mixed[0, 0] == 0
    box = covered.any(1)[:, None] & covered.any(0)[None]
    assert torch.equal(covered, box)
    # Sides are rounded to pixels, and a box beyond the border is cut off.
    assert own >= share - 0.25


def test_a_box_in_the_middle_by_hand() -> None:
    mixed, own = mix_views(BRIGHT, DARK, Mix(0.75, (0.5, 0.5)))
    assert (mixed[0, 0] == 0).nonzero().tolist() == [[y, x] for y in range(2, 6) for x in range(2, 8)]
    assert own == 1 - 24 / 80


def test_views_are_not_changed_in_place() -> None:
    views = torch.ones(2, 3, 8, 10)
    mix_views(views, DARK, Mix(0.5, (0.5, 0.5)))
    assert views.min() == 1


def test_partners_are_every_two_consecutive_images() -> None:
    assert in_pairs(torch.arange(6)).tolist() == [1, 0, 3, 2, 5, 4]
    assert in_pairs(torch.arange(12).view(6, 2))[0].tolist() == [2, 3]


def test_the_draw_is_that_of_seed_and_step() -> None:
    assert draw_mix(1, 2, 0.5, 0.5) == draw_mix(1, 2, 0.5, 0.5)
    assert len({draw_mix(seed, step, 0.5, 0.5) for seed in range(5) for step in range(5)}) == 25


def test_probabilities() -> None:
    kinds = [draw_mix(0, step, 0.2, 0.3) for step in range(2000)]
    blended = sum(mix is not None and mix.place is None for mix in kinds)
    patched = sum(mix is not None and mix.place is not None for mix in kinds)
    assert abs(blended - 400) < 60 and abs(patched - 600) < 70
    assert all(draw_mix(0, step, 0.0, 0.0) is None for step in range(100))


def test_the_share_of_an_objectives_cutmix_is_beta() -> None:
    drawn = np.array([draw_cutmix(0, step, 2.0).share for step in range(4000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.var() == pytest.approx(1 / 20, abs=0.005)  # Beta(2, 2)
