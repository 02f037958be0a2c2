"""Views: crops against the rules, colour and the evaluation view against torchvision and timm."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as reference
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, RandomResizedCrop, Resize

from ukd.data import Pixels
from ukd.views import NUM_COLOUR, Augmentation, _crop_box, apply_colour, evaluation_view, to_unit_range

ORDERS = list(permutations(range(4)))
# torchvision's grey weights sum to 0.9999; Pillow's, which the papers' code used, and ours to 1.
LUMA_TOLERANCE = 1.1e-4
SCALES = st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(lambda pair: (min(pair), max(pair)))
SIDES = st.integers(1, 400)


def augmentation(**changed: Any) -> Augmentation:
    defaults = {
        "size_px": 32,
        "crop_scale": (0.2, 1.0),
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "blur_sigma": (0.1, 2.0),
        **dict.fromkeys(["flip_prob", "jitter_prob", "gray_prob", "blur_prob"], 0.0),
    }
    return Augmentation(**{**defaults, **changed})


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def views(*seeds: int, size_px: int = 32) -> Tensor:
    return to_unit_range(torch.from_numpy(np.stack([noise(size_px, size_px, seed) for seed in seeds])))


def row(
    brightness: float = 1,
    contrast: float = 1,
    saturation: float = 1,
    hue: float = 0,
    order: int = 0,
    gray: float = 0,
    sigma: float = 0,
) -> Tensor:
    return torch.tensor([[brightness, contrast, saturation, hue, order, gray, sigma]])


@given(height=SIDES, width=SIDES, scale=SCALES, seed=st.integers(0, 2**32))
def test_a_crop_lies_in_the_image_and_keeps_the_share_asked_for(
    height: int, width: int, scale: tuple[float, float], seed: int
) -> None:
    left, top, right, bottom = _crop_box(height, width, scale, np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    box_w, box_h = right - left, bottom - top
    fits = (box_w - 0.5) * (box_h - 0.5) <= scale[1] * height * width
    fits &= (box_w + 0.5) * (box_h + 0.5) >= scale[0] * height * width
    fits &= (box_w - 0.5) / (box_h + 0.5) <= 4 / 3 and (box_w + 0.5) / (box_h - 0.5) >= 3 / 4
    central = abs(left - (width - right)) <= 1 and abs(top - (height - bottom)) <= 1
    assert fits or (central and (box_w == width or box_h == height))


def test_a_crop_that_cannot_fit_is_central() -> None:
    assert _crop_box(30, 300, (0.5, 1.0), np.random.default_rng(0)) == (130, 0, 170, 30)
    assert _crop_box(300, 30, (0.5, 1.0), np.random.default_rng(0)) == (0, 130, 30, 170)


def test_crops_are_distributed_as_those_of_torchvision() -> None:
    torch.manual_seed(0)
    image, num = torch.zeros(3, 60, 90), 4000
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(num)], float)
    rng = np.random.default_rng(0)
    ours = np.array([_crop_box(60, 90, (0.2, 1.0), rng) for _ in range(num)], float)
    ours = np.stack([ours[:, 1], ours[:, 0], ours[:, 3] - ours[:, 1], ours[:, 2] - ours[:, 0]], 1)
    spread = theirs.std(0)
    assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) < 4 * spread * np.sqrt(2 / num))
    assert np.all(np.abs(ours.std(0) / spread - 1) < 0.06)


def test_the_crop_is_resized_as_pillow_does_and_flipped() -> None:
    pixels = noise(40, 50)
    box = _crop_box(40, 50, (0.2, 1.0), np.random.default_rng(3))
    expected = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR, box=box))
    np.testing.assert_array_equal(augmentation().crop(pixels, np.random.default_rng(3)), expected)
    flipped = augmentation(flip_prob=1.0).crop(pixels, np.random.default_rng(3))
    np.testing.assert_array_equal(flipped, expected[:, ::-1])


def test_colour_is_drawn_from_its_ranges() -> None:
    every = augmentation(jitter_prob=1.0, gray_prob=1.0, blur_prob=1.0, contrast=1.5)
    rng = np.random.default_rng(0)
    rows = np.stack([every.draw_colour(rng) for _ in range(2000)])
    low, high = rows.min(0), rows.max(0)
    np.testing.assert_allclose(low[[0, 1, 2, 3]], [0.6, 0.0, 0.6, -0.1], atol=0.01)
    np.testing.assert_allclose(high[[0, 1, 2, 3]], [1.4, 2.5, 1.4, 0.1], atol=0.01)
    assert set(rows[:, 4]) == set(range(24)) and set(rows[:, 5]) == {1.0}
    # Blur is told in pixels of a 224-pixel view; these have 32.
    np.testing.assert_allclose([low[6], high[6]], [0.1 * 32 / 224, 2 * 32 / 224], rtol=0.1)
    assert np.array_equal(augmentation().draw_colour(rng), row()[0].numpy())


def test_changes_come_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    drawn = augmentation(jitter_prob=0.8, gray_prob=0.2, blur_prob=0.5)
    rows = np.stack([drawn.draw_colour(rng) for _ in range(2000)])
    shares = [(rows[:, 0] != 1).mean(), rows[:, 5].mean(), (rows[:, 6] > 0).mean()]
    np.testing.assert_allclose(shares, [0.8, 0.2, 0.5], atol=0.04)


def test_a_neutral_row_changes_nothing() -> None:
    assert torch.equal(apply_colour(views(0, 1), row().repeat(2, 1)), views(0, 1))
    assert row().shape == (1, NUM_COLOUR)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.4, 2.5])
@pytest.mark.parametrize(
    ("name", "tolerance"), [("brightness", 1e-6), ("contrast", LUMA_TOLERANCE), ("saturation", LUMA_TOLERANCE)]
)
def test_jitter_is_that_of_torchvision(name: str, factor: float, tolerance: float) -> None:
    adjust = getattr(reference, f"adjust_{name}")
    tolerance *= max(1, abs(factor - 1))
    torch.testing.assert_close(
        apply_colour(views(0), row(**{name: factor})), adjust(views(0), factor), atol=tolerance, rtol=0
    )
    redless = views(0) * torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1)  # Only in red do the grey weights differ.
    torch.testing.assert_close(
        apply_colour(redless.clone(), row(**{name: factor})), adjust(redless, factor), atol=1e-5, rtol=0
    )


@given(hue=st.floats(-0.5, 0.5, width=32), seed=st.integers(0, 1000))
def test_hue_is_that_of_torchvision(hue: float, seed: int) -> None:
    expected = reference.adjust_hue(views(seed), hue)
    torch.testing.assert_close(apply_colour(views(seed), row(hue=hue)), expected, atol=1e-5, rtol=0)


def test_hue_by_hand() -> None:
    pixels = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).T.view(1, 3, 2, 2)
    turned = apply_colour(pixels.clone(), row(hue=1 / 3)).view(3, 4).T
    torch.testing.assert_close(turned[0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)  # Red turns into green.
    assert torch.equal(turned[1:], pixels.view(3, 4).T[1:])  # Grey has no hue.


@pytest.mark.parametrize("order", range(24))
def test_jitter_comes_in_the_order_drawn(order: int) -> None:
    names, factors = ("brightness", "contrast", "saturation", "hue"), (1.3, 0.7, 1.4, 0.1)
    expected = views(0)
    for change in ORDERS[order]:
        expected = getattr(reference, f"adjust_{names[change]}")(expected, factors[change])
    actual = apply_colour(views(0), row(*factors, order=order))
    torch.testing.assert_close(actual, expected, atol=3 * LUMA_TOLERANCE, rtol=0)


def test_gray_is_that_of_pillow() -> None:
    pixels = noise(32, 32)
    gray = apply_colour(views(0), row(gray=1))[0]
    assert torch.equal(gray[0], gray[1]) and torch.equal(gray[0], gray[2])
    expected = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32) / 255
    np.testing.assert_allclose(gray[0].numpy(), expected, atol=0.501 / 255)
    white = apply_colour(torch.ones(1, 3, 2, 2), row(gray=1))
    torch.testing.assert_close(white, torch.ones(1, 3, 2, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size_px", [8, 32, 96, 224])
@pytest.mark.parametrize("sigma", [0.02, 0.6, 2.0])
def test_blur_is_that_of_torchvision(size_px: int, sigma: float) -> None:
    kernel = 2 * max(1, round(size_px / 20)) + 1
    expected = reference.gaussian_blur(views(0, size_px=size_px), [kernel, kernel], [sigma, sigma])
    actual = apply_colour(views(0, size_px=size_px), row(sigma=sigma))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def strong_rows(num: int) -> Tensor:
    drawn = augmentation(jitter_prob=0.8, gray_prob=0.3, blur_prob=0.5)
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([drawn.draw_colour(rng) for _ in range(num)]))


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch splits large sums among threads; results must not depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("size_px", "num"), [(33, 8), (224, 4)])
def test_a_view_does_not_depend_on_the_others_in_its_batch(size_px: int, num: int, two_threads: None) -> None:
    rows, batch = strong_rows(num), views(*range(num), size_px=size_px)
    rows[:, 6] *= size_px < 224  # Great views are for great sums, and slow to blur.
    alone = [apply_colour(views(each, size_px=size_px), rows[each : each + 1]) for each in range(num)]
    together = apply_colour(batch, rows)
    assert torch.equal(together, torch.cat(alone))
    torch.set_num_threads(1)
    backwards = apply_colour(views(*reversed(range(num)), size_px=size_px), rows.flip(0))
    assert torch.equal(together, backwards.flip(0))


@given(
    factors=st.tuples(*[st.floats(0, 4, width=32)] * 3),
    hue=st.floats(-0.5, 0.5, width=32),
    order=st.integers(0, 23),
    gray=st.booleans(),
    sigma=st.just(0.0) | st.floats(0.0625, 8, width=32),
)
def test_views_stay_in_range(
    factors: tuple[float, float, float], hue: float, order: int, gray: bool, sigma: float
) -> None:
    coloured = apply_colour(views(0, size_px=8), row(*factors, hue, order, gray, sigma))
    assert coloured.min() >= 0 and coloured.max() <= 1 + 1e-6


def test_pixels_become_channels_last_numbers_from_0_to_1() -> None:
    pixels = torch.from_numpy(noise(5, 7)).unsqueeze(0)
    unit = to_unit_range(pixels)
    assert torch.equal(unit, pixels.permute(0, 3, 1, 2) / 255)
    assert unit.is_contiguous(memory_format=torch.channels_last)


@given(
    height=st.integers(4, 90),
    width=st.integers(4, 90),
    size_px=st.integers(1, 40),
    crop_pct=st.sampled_from([0.5, 0.875, 0.9, 0.95, 1.0]),
)
def test_the_evaluation_view_is_that_of_torchvision(height: int, width: int, size_px: int, crop_pct: float) -> None:
    pixels = noise(height, width)
    oracle = Compose([Resize(int(size_px / crop_pct), InterpolationMode.BICUBIC), CenterCrop(size_px)])
    expected = np.asarray(oracle(Image.fromarray(pixels)))
    np.testing.assert_array_equal(evaluation_view(pixels, size_px, crop_pct), expected)


def test_the_evaluation_view_is_that_of_timm() -> None:
    for size_px, crop_pct in [(224, 0.875), (224, 0.95), (64, 0.875), (64, 1.0)]:
        oracle = create_transform((3, size_px, size_px), interpolation="bicubic", crop_pct=crop_pct, normalize=False)
        expected = oracle(Image.fromarray(noise(97, 131))).permute(1, 2, 0)
        np.testing.assert_array_equal(evaluation_view(noise(97, 131), size_px, crop_pct), expected)


def test_the_evaluation_view_of_an_image_of_its_own_size_is_that_image() -> None:
    np.testing.assert_array_equal(evaluation_view(noise(28, 28), 28, 1.0), noise(28, 28))
