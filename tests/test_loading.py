"""Batches of pixels: functions of (seed, sample) alone, and what happens to images that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ukd.data import ArrayImages, FolderImages, Pixels
from ukd.errors import DataError
from ukd.loading import EvaluationViews, PixelBatch, TrainingViews, Unreadable, loader, read_or_next
from ukd.samplers import BatchOrder, RankBatches, Sample
from ukd.views import Augmentation, evaluation_view

CPU = torch.device("cpu")
STRONG = Augmentation(
    size_px=20,
    crop_scale=(0.2, 1.0),
    flip_prob=0.5,
    jitter_prob=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    gray_prob=0.2,
    blur_prob=0.5,
    blur_sigma=(0.1, 20.0),
)
IMAGES = ArrayImages("noise", np.random.default_rng(0).integers(0, 256, (30, 24, 28, 3), dtype=np.uint8))


def training(num_workers: int = 0, apply_colour: bool = True, seed: int = 5, num_views: int = 2) -> list[PixelBatch]:
    order = BatchOrder(len(IMAGES), 8, seed)
    views = TrainingViews(IMAGES, STRONG, num_views, seed, apply_colour)
    return list(loader(views, RankBatches(order, 2, 6, 0, 1), num_workers, CPU))


def pixels(batches: list[PixelBatch]) -> torch.Tensor:
    return torch.stack([torch.stack(batch.to_views(CPU, torch.float32)) for batch in batches])


@pytest.mark.parametrize(("num_workers", "apply_colour"), [(0, False), (2, True), (2, False)])
def test_pixels_do_not_depend_on_who_makes_them(num_workers: int, apply_colour: bool) -> None:
    expected, actual = training(), training(num_workers, apply_colour)
    assert torch.equal(pixels(actual), pixels(expected))
    assert [batch.index.tolist() for batch in actual] == [batch.index.tolist() for batch in expected]
    assert (actual[0].colour is None) == apply_colour


def test_views_have_the_shape_dtype_and_range_promised() -> None:
    views = training()[0].to_views(CPU, torch.float64)
    assert [(view.shape, view.dtype) for view in views] == [((8, 3, 20, 20), torch.float64)] * 2
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)
    assert not torch.equal(views[0], views[1])


@pytest.mark.parametrize("changed", [{"seed": 6}, {"sample": Sample(3, 3, 1)}, {"sample": Sample(3, 4, 0)}])
def test_pixels_are_a_function_of_seed_and_sample(changed: dict[str, int | Sample]) -> None:
    def made(sample: Sample = Sample(3, 3, 0), seed: int = 5, beside: int = 7) -> torch.Tensor:  # noqa: B008
        views = TrainingViews(IMAGES, STRONG, 1, seed, True)
        return views.__getitems__([Sample(beside, beside, 0), sample]).views[0, 1]

    assert torch.equal(made(), made(beside=8))
    assert not torch.equal(made(), made(**changed))  # type: ignore[arg-type]


def test_evaluation_views_come_in_order_whoever_makes_them() -> None:
    batches = [[0, 1, 2, 3], [4, 5, 6], [9]]
    for num_workers in (0, 2):
        made = list(loader(EvaluationViews(IMAGES, 16, 0.9), batches, num_workers, CPU))
        assert [batch.index.tolist() for batch in made] == batches
        (views,) = made[1].to_views(CPU, torch.float32)
        expected = torch.from_numpy(evaluation_view(IMAGES.read(5), 16, 0.9).copy()).permute(2, 0, 1) / 255
        assert torch.equal(views[1], expected)


class Damaged:
    """Numbered images of which some cannot be read; image i is of colour i."""

    name, labels, class_names = "photos", None, None

    def __init__(self, num: int, damaged: set[int]) -> None:
        self._num, self._damaged = num, damaged

    def __len__(self) -> int:
        return self._num

    def read(self, index: int) -> Pixels:
        if index in self._damaged:
            raise OSError("damaged")
        return np.full((8, 8, 3), index, dtype=np.uint8)

    def id(self, index: int) -> str:
        return f"{index}.jpg"

    def fingerprint(self) -> str:
        return ""


def test_the_next_readable_image_stands_in() -> None:
    images = Damaged(200, {7, 199})
    for asked, given, unreadable in [(6, 6, []), (7, 8, [7]), (199, 0, [199])]:
        found, missing = read_or_next(images, asked)
        assert found[0, 0, 0] == given and missing == unreadable


def test_a_truncated_jpeg_is_replaced_counted_and_named(tmp_path: Path) -> None:
    for number in range(200):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number:03d}.jpg", quality=100)
    victim = tmp_path / "041.jpg"
    victim.write_bytes(victim.read_bytes()[:-60])
    images = FolderImages(tmp_path)
    made = list(loader(EvaluationViews(images, 8, 1.0), [[40, 41], [42, 43]], 2, CPU))
    assert made[0].unreadable == [41] and made[1].unreadable == []
    assert made[0].index.tolist() == [40, 41]
    (views,) = made[0].to_views(CPU, torch.float32)
    assert views[1].mul(255).round().unique().tolist() == [42]
    report = Unreadable(images)
    assert report.report(made[0].unreadable) == ["unreadable image skipped: 041.jpg (1 so far)"]
    assert report.report([41]) == []  # Said once.


def test_more_than_one_in_a_hundred_stops_with_the_names() -> None:
    report = Unreadable(Damaged(200, set()))
    assert len(report.report([5, 3])) == 2
    report.report([3, 5])
    message = r"3 of 200 images in photos cannot be read \(at most 1% may\): 3\.jpg, 5\.jpg, 9\.jpg; remove or repair"
    with pytest.raises(DataError, match=message):
        report.report([9])


@pytest.mark.parametrize("num", [1, 50, 300])
def test_unreadable_everywhere_stops_soon(num: int) -> None:
    images = Damaged(num, set(range(num)))
    _, missing = read_or_next(images, num - 1)
    assert len(missing) <= 0.01 * num + 1
    with pytest.raises(DataError, match=f"of {num} images in photos cannot be read"):
        Unreadable(images).report(missing)


def test_training_goes_on_around_an_unreadable_image() -> None:
    views = TrainingViews(Damaged(200, {7}), STRONG, 1, 0, True)
    batch = views.__getitems__([Sample(7, 7, 0), Sample(8, 8, 0)])
    assert batch.unreadable == [7] and batch.index.tolist() == [7, 8]
