"""The published numbers, and what a changed preset is called."""

from __future__ import annotations

import pytest

from ukd.errors import UserError
from ukd.eval.linear.presets import PRESETS, choose_presets

# A changed hash is a changed protocol: no older result can be compared with it any more. It needs a new name.
HASHES = {
    "cached-sgd": "3d9ac5995326d248",
    "moco": "446fd1b28aecac7d",
    "mocov3": "a5b8712656270b82",
    "dino": "14b3dbcd5bcee6ea",
    "dinov2": "9c1ae2a2c409f0c7",
    "simreg": "eeb264e1165be5cc",
}


def test_protocols_are_frozen() -> None:
    assert {name: preset.hash for name, preset in PRESETS.items()} == HASHES


@pytest.mark.parametrize(
    ("name", "class_token", "first_lr", "num"),
    [
        ("moco", False, 30.0, 1),
        ("mocov3", False, 0.1 * 4, 1),
        ("mocov3", True, 3.0 * 4, 1),
        ("dino", True, 0.001 * 4, 1),
        ("dinov2", True, 1e-5 * 4, 13),
        ("simreg", False, 0.01, 1),
        ("cached-sgd", False, 0.01, 18),
    ],
)
def test_learning_rates_as_heads_get_them(name: str, class_token: bool, first_lr: float, num: int) -> None:
    rates = PRESETS[name].rates(class_token=class_token)
    assert len(rates) == len(set(rates)) == num and rates[0][0] == pytest.approx(first_lr)


def test_a_changed_preset_has_another_name_and_hash() -> None:
    (same,) = choose_presets(["moco"], epochs=100, batch_size=256)
    assert same == PRESETS["moco"]
    (short,) = choose_presets(["moco"], epochs=10)
    assert short.name == "moco-custom" and short.hash != same.hash
    assert short.milestones == (6, 8)
    (cached,) = choose_presets(["simreg"], cached=True)
    assert (cached.name, cached.views) == ("simreg-custom", "centre")
    (own,) = choose_presets(["mocov3"], lrs=[0.5, 1.0])
    assert own.rates(class_token=True) == own.rates(class_token=False) == [(2.0, 0.0), (4.0, 0.0)]
    (larger,) = choose_presets(["dino"], batch_size=512)
    assert larger.rates(class_token=True) == [(0.002, 0.0)]
    (fewer,) = choose_presets(["dinov2"], steps=100)
    assert (fewer.steps, fewer.epochs) == (100, 10)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="no preset 'mocov2'; choose from cached-sgd, moco, mocov3, dino, dinov2"):
        choose_presets(["mocov2"])
