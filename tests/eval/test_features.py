"""The cache of features: equal numbers cold, warm and uncached, and no trust in damaged files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ukd.backbones import Backbone, build_backbone
from ukd.data import ArrayImages, Pixels
from ukd.eval.features import cache_entry, cached_features, default_cache
from ukd.extractor import Extractor
from ukd.store import MANIFEST


class Noise(ArrayImages):
    """Counts how often it is looked at."""

    def __init__(self, blank: bool = False) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
        super().__init__("noise", 0 * pixels if blank else pixels)
        self.num_read = 0

    def read(self, index: int) -> Pixels:
        self.num_read += 1
        return super().read(index)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone(arch="test_resnet", frozen=True)


def extractor(backbone: Backbone, images: ArrayImages, **changes: Any) -> Extractor:
    options = {"size_px": 16, "crop_pct": 1.0, "num_workers": 0, **changes}
    return Extractor(backbone, images, device=torch.device("cpu"), **options)


def test_cold_warm_and_uncached_are_equal(backbone: Backbone, tmp_path: Path) -> None:
    images = Noise()
    each = extractor(backbone, images)
    cold, warm = cached_features(each, tmp_path), cached_features(each, tmp_path)
    assert images.num_read == 20
    np.testing.assert_array_equal(cold, warm)
    np.testing.assert_array_equal(cold, cached_features(each, None))
    assert cold.dtype == np.float32 and cold.shape == (20, backbone.dim)
    (entry,) = tmp_path.iterdir()
    assert entry == cache_entry(each, tmp_path)
    manifest = json.loads((entry / MANIFEST).read_text())
    assert (manifest["num_rows"], manifest["dim"], manifest["dtype"]) == (20, backbone.dim, "float16")
    assert manifest["key"]["weights"] == backbone.weights_hash()


def test_whatever_the_rows_depend_on_makes_another_entry(backbone: Backbone, tmp_path: Path) -> None:
    images = Noise()
    different = [
        extractor(backbone, images),
        extractor(backbone, images, size_px=12),
        extractor(backbone, images, crop_pct=0.5),
        extractor(backbone, images, kind="avg"),
        extractor(backbone, Noise(blank=True)),
        extractor(build_backbone(arch="test_resnet", frozen=True, seed=1), images),
        extractor(build_backbone(arch="test_resnet", frozen=True, mean=(0.0, 0.0, 0.0)), images),
    ]
    for each in different:
        cached_features(each, tmp_path)
    assert len(different) == len(list(tmp_path.iterdir()))
    cached_features(extractor(backbone, images, batch_size=3), tmp_path)
    assert len(different) == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize("pattern", ["rows-*", MANIFEST])
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_entry_is_made_anew_with_a_note(
    pattern: str, damage: str, backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = Noise()
    each = extractor(backbone, images)
    cold = cached_features(each, tmp_path)
    path = next(cache_entry(each, tmp_path).glob(pattern))
    whole = path.read_bytes()
    flipped = bytes(byte ^ 0x80 for byte in whole[-20:])
    path.write_bytes({"truncate": whole[: len(whole) // 2], "flip": whole[:-20] + flipped, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(cached_features(each, tmp_path), cold)
    assert f"{path} is damaged and {'written' if pattern == MANIFEST else 'extracted'} anew" in caplog.text
    assert path.read_bytes() == whole
    assert images.num_read == (20 if pattern == MANIFEST else 40)


def test_an_unwritable_cache_is_done_without(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    each = extractor(backbone, Noise())
    np.testing.assert_array_equal(cached_features(each, tmp_path / "file" / "cache"), cached_features(each, None))
    assert "could not be cached" in caplog.text


def test_progress_counts_every_image_cold_and_warm(backbone: Backbone, tmp_path: Path) -> None:
    for _ in range(2):
        counts: list[int] = []
        cached_features(extractor(backbone, Noise(), batch_size=8, advance=counts.append), tmp_path)
        assert sum(counts) == 20


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UKD_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "features"
    monkeypatch.delenv("UKD_CACHE")
    assert default_cache() == Path.home() / ".cache" / "ukd" / "features"


@pytest.mark.parametrize("kind", ["pooled", "avg"])
def test_no_statistic_of_the_backbone_moves(kind: str) -> None:
    model = build_backbone(arch="test_resnet")
    model.train()
    before = model.weights_hash()
    cached_features(extractor(model, Noise(), kind=kind), None)
    assert model.weights_hash() == before and model.training
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
