"""The corruptions: their amounts where these are known in closed form, their order, and that they never change."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_image

from ukd.data import ArrayImages, Pixels
from ukd.eval import corruptions, image_filters
from ukd.eval.corrupted import CorruptedImages
from ukd.eval.corruptions import KINDS, corrupt

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

RANDOM = {
    *("gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog"),
    "elastic_transform",
}


@pytest.fixture(scope="module")
def view() -> Pixels:
    image = Image.fromarray(load_sample_image("china.jpg")).crop((100, 50, 420, 370))
    return np.asarray(image.resize((96, 96), Image.Resampling.BICUBIC))


def grey(level: int, side: int = 64) -> Pixels:
    return np.full((side, side, 3), level, dtype=np.uint8)


def corrupted(view: Pixels, kind: str, severity: int, seed: int = 0) -> Pixels:
    return corrupt(view, kind, severity, np.random.default_rng(seed))


def test_there_are_the_fifteen_of_the_paper() -> None:
    noise, blur = ["gaussian", "shot", "impulse"], ["defocus", "glass", "motion", "zoom"]
    weather, digital = ["snow", "frost", "fog", "brightness"], ["contrast", "elastic", "pixelate", "jpeg"]
    assert [kind.split("_")[0] for kind in KINDS] == [*noise, *blur, *weather, *digital]


@pytest.mark.parametrize("kind", KINDS)
def test_every_corruption_is_a_view_that_depends_on_its_generator_alone(view: Pixels, kind: str) -> None:
    for side in (96, 8, 1):
        cut = view[:side, :side]
        for severity in (1, 5):
            once = corrupted(cut, kind, severity)
            assert once.shape == cut.shape and once.dtype == np.uint8
            np.testing.assert_array_equal(once, corrupted(cut, kind, severity))
    other = corrupted(view, kind, 3, seed=1)
    assert (other != corrupted(view, kind, 3)).any() == (kind in RANDOM)
    assert (corrupted(view, kind, 1) != view).any()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("elastic_transform", "frost", "fog", "snow")])
def test_a_severity_takes_the_view_further_away(view: Pixels, kind: str) -> None:
    far = [np.abs(corrupted(view, kind, severity).astype(float) - view).mean() for severity in (1, 3, 5)]
    assert far[0] < far[1] < far[2]


@pytest.mark.parametrize(("severity", "std"), [(1, 0.08), (2, 0.12)])
def test_gaussian_noise_has_its_deviation(severity: int, std: float) -> None:
    noisy = corrupted(grey(128), "gaussian_noise", severity) / 255
    assert noisy.mean() == pytest.approx(128 / 255, abs=0.005) and noisy.std() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (3, 12)])
def test_shot_noise_varies_with_the_light(severity: int, photons: int) -> None:
    for level in (51, 102):
        noisy = corrupted(grey(level), "shot_noise", severity) / 255
        assert noisy.mean() == pytest.approx(level / 255, rel=0.02)
        assert noisy.var() == pytest.approx(level / 255 / photons, rel=0.08)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.03), (5, 0.27)])
def test_impulse_noise_is_black_and_white_in_equal_shares(severity: int, share: float) -> None:
    noisy = corrupted(grey(128, 128), "impulse_noise", severity)
    assert set(np.unique(noisy)) == {0, 128, 255}
    for level in (0, 255):
        assert (noisy == level).mean() == pytest.approx(share / 2, rel=0.1)


def test_brightness_is_added_to_the_value_alone() -> None:
    view = np.zeros((2, 2, 3), dtype=np.uint8)
    view[0, 0], view[0, 1], view[1, 0] = (100, 50, 0), (250, 0, 0), (40, 40, 40)
    lit = corrupted(view, "brightness", 2)
    factor = (100 + 0.2 * 255) / 100
    assert lit[0, 0].tolist() == [151, round(50 * factor), 0]
    assert lit[0, 1].tolist() == [255, 0, 0]
    assert lit[1, 0].tolist() == [91] * 3 and lit[1, 1].tolist() == [51] * 3


def test_contrast_shrinks_towards_each_channels_mean(view: Pixels) -> None:
    pale = corrupted(view, "contrast", 3)
    mean = view.mean(axis=(0, 1))
    np.testing.assert_allclose(pale, mean + 0.2 * (view - mean), atol=0.5 + 1e-9)


def test_jpeg_and_pixelate_are_pillows(view: Pixels) -> None:
    stored = io.BytesIO()
    Image.fromarray(view).save(stored, "JPEG", quality=10)
    np.testing.assert_array_equal(corrupted(view, "jpeg_compression", 4), np.asarray(Image.open(stored)))
    coarse = corrupted(view, "pixelate", 5)
    np.testing.assert_array_equal(coarse[::4, ::4], coarse[3::4, 3::4])
    np.testing.assert_allclose(coarse[0, 0], view[:4, :4].mean(axis=(0, 1)), atol=1)


def test_blurs_spread_a_point_as_far_as_the_paper_says() -> None:
    point = np.zeros((224, 224, 3), dtype=np.uint8)
    point[111:114, 111:114] = 255
    disk = corruptions._defocus_blur(point / 255.0, 4, np.random.default_rng(0))[..., 0]
    rows, _ = np.nonzero(disk > 1e-6)
    assert (rows.max() - rows.min()) == pytest.approx(2 * 10 + 2, abs=3)
    assert disk.sum() == pytest.approx(9, rel=1e-6)
    assert disk[112, 112] == pytest.approx(9 / (np.pi * 100), rel=0.02)
    trace = corruptions._motion_blur(point / 255.0, 4, np.random.default_rng(0))[..., 0]
    middle = ndimage.center_of_mass(trace)
    assert trace.sum() == pytest.approx(9, rel=1e-6)
    # Behind what moves, not before it: the mean of half a Gaussian of deviation 15, cut at 40.
    assert np.hypot(middle[0] - 112, middle[1] - 112) == pytest.approx(15 * np.sqrt(2 / np.pi), rel=0.05)
    assert abs(np.degrees(np.arctan2(middle[0] - 112, middle[1] - 112))) <= 45


def test_a_plain_view_stays_plain_where_nothing_is_laid_over_it() -> None:
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate", "contrast"):
        np.testing.assert_array_equal(corrupted(grey(90), kind, 5), grey(90))


def test_zoom_is_about_the_centre() -> None:
    ramp = np.repeat(np.linspace(0.25, 0.75, 65)[None, :, None], 65, axis=0)
    np.testing.assert_allclose(image_filters.zoomed(ramp, 2.0), 0.5 + (ramp - 0.5) / 2, atol=1e-12)
    np.testing.assert_allclose(image_filters.zoomed(ramp, 1.0), ramp, atol=1e-15)


def test_elastic_maps_move_by_no_more_than_their_lengths() -> None:
    rng = np.random.default_rng(3)
    places = np.stack([*np.mgrid[:224, :224], np.zeros((224, 224))], axis=-1) / 224.0
    moved = corruptions._elastic_transform(places, 2, rng)
    inner = np.abs(moved - places)[60:-60, 60:-60, :2] * 224
    assert 1 < inner.max() < 4 * 0.02 * 244 + 0.05 * 244


def test_an_image_is_corrupted_alike_whenever_it_is_read(view: Pixels, tmp_path: Path) -> None:
    images = ArrayImages("x", np.stack([view, view, view[::-1]]))

    def make(kind: str = "gaussian_noise", severity: int = 2, size_px: int = 48, seed: int = 0) -> CorruptedImages:
        return CorruptedImages(images, kind, severity, size_px, 0.875, seed)

    first = make()
    assert len(first) == 3 and first.id(1) == "#1" and first.read(0).shape == (48, 48, 3)
    np.testing.assert_array_equal(first.read(1), make().read(1))
    assert (first.read(0) != first.read(1)).any()  # The same picture twice, but two images.
    clean = np.asarray(Image.fromarray(view).resize((54, 54), Image.Resampling.BICUBIC).crop((3, 3, 51, 51)))
    noise = first.read(0) / 255 - clean / 255
    again = make(severity=3).read(0) / 255 - clean / 255
    inside = (clean > 100) & (clean < 150)
    assert abs(np.corrcoef(noise[inside], again[inside])[0, 1]) < 0.2
    others = [make("shot_noise"), make(severity=3), make(size_px=32), make(seed=1)]
    assert len({each.fingerprint() for each in [first, make(), *others]}) == 5
    assert first.fingerprint() != images.fingerprint()
