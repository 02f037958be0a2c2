"""Extraction and its cache: one computation, equal numbers cold and warm, and no trust in damaged files."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ukd.backbones import Backbone, build_backbone
from ukd.data import ArrayImages
from ukd.eval import features
from ukd.eval.features import cached_features, compact, default_cache
from ukd.neighbours import nearest_others, shared_share

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_backbone(arch="test_resnet", frozen=True)


@pytest.fixture
def images() -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    return ArrayImages("noise", pixels)


def extract(backbone: Backbone, images: ArrayImages, cache: Path | None, size_px: int = 16) -> np.ndarray:
    return cached_features(backbone, images, size_px=size_px, crop_pct=1.0, device=CPU, num_workers=0, cache=cache)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names every extraction that is really computed."""
    calls: list[str] = []
    embed = features.embed

    def counted(backbone: Backbone, images: ArrayImages, **options: object) -> np.ndarray:
        calls.append(images.name)
        return embed(backbone, images, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "embed", counted)
    return calls


def test_cold_warm_and_uncached_are_equal(
    backbone: Backbone, images: ArrayImages, tmp_path: Path, computed: list[str]
) -> None:
    cold, warm = extract(backbone, images, tmp_path), extract(backbone, images, tmp_path)
    assert computed == ["noise"]
    np.testing.assert_array_equal(cold, warm)
    np.testing.assert_array_equal(cold, extract(backbone, images, None))
    assert cold.dtype == np.float32 and cold.shape == (20, backbone.dim)
    manifest = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert manifest["shape"] == [20, backbone.dim]
    assert manifest["key"]["weights"] == backbone.weights_hash()


def test_whatever_the_rows_depend_on_makes_another_entry(
    backbone: Backbone, images: ArrayImages, tmp_path: Path, computed: list[str]
) -> None:
    extract(backbone, images, tmp_path)
    extract(backbone, images, tmp_path, size_px=12)
    extract(backbone, ArrayImages("noise", np.zeros((20, 16, 16, 3), dtype=np.uint8)), tmp_path)
    extract(build_backbone(arch="test_resnet", frozen=True, seed=1), images, tmp_path)
    extract(build_backbone(arch="test_resnet", frozen=True, mean=(0.0, 0.0, 0.0)), images, tmp_path)
    assert len(computed) == 5 == len(list(tmp_path.glob("*.safetensors")))


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_entry_is_made_anew_with_a_note(
    suffix: str,
    damage: str,
    backbone: Backbone,
    images: ArrayImages,
    tmp_path: Path,
    computed: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    cold = extract(backbone, images, tmp_path)
    path = next(tmp_path.glob(f"*{suffix}"))
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-20] ^= 1
    path.write_bytes({"truncate": data[: len(data) // 2], "flip": data, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(extract(backbone, images, tmp_path), cold)
    assert "damaged and extracted anew" in caplog.text
    np.testing.assert_array_equal(extract(backbone, images, tmp_path), cold)
    assert len(computed) == 2


def test_rows_without_a_manifest_are_not_trusted(
    backbone: Backbone, images: ArrayImages, tmp_path: Path, computed: list[str]
) -> None:
    extract(backbone, images, tmp_path)
    next(tmp_path.glob("*.json")).unlink()
    extract(backbone, images, tmp_path)
    assert len(computed) == 2


def test_an_unwritable_cache_is_done_without(
    backbone: Backbone, images: ArrayImages, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert len(extract(backbone, images, tmp_path / "file" / "cache")) == 20
    assert "could not be cached" in caplog.text


def test_progress_counts_every_image_cold_and_warm(backbone: Backbone, images: ArrayImages, tmp_path: Path) -> None:
    for _ in range(2):
        counts: list[int] = []
        cached_features(
            backbone,
            images,
            size_px=16,
            crop_pct=1.0,
            device=CPU,
            batch_size=8,
            num_workers=0,
            cache=tmp_path,
            advance=counts.append,
        )
        assert sum(counts) == 20


def test_ordinary_features_are_halved_and_keep_their_neighbours() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32) + 0.5
    stored = compact(rows)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(compact(stored.astype(np.float32)), stored)
    lists = [nearest_others(each.astype(np.float32), 20) for each in (rows, stored)]
    assert shared_share(*lists) > 0.999


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(lambda noise: 1e5 * noise, id="overflow"),
        pytest.param(lambda noise: 1e-7 * noise, id="too small"),
        pytest.param(lambda noise: 1 + 1e-3 * noise, id="all alike"),
        pytest.param(lambda noise: np.where(noise > 2, np.nan, noise), id="NaN"),
        pytest.param(lambda noise: noise[:1], id="one row"),
    ],
)
def test_what_half_precision_would_spoil_stays_whole(rows) -> None:  # type: ignore[no-untyped-def]
    wide = rows(np.random.default_rng(0).standard_normal((500, 64))).astype(np.float32)
    np.testing.assert_array_equal(compact(wide), wide)
    assert compact(wide).dtype == np.float32


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UKD_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "features"
    monkeypatch.delenv("UKD_CACHE")
    assert default_cache() == Path.home() / ".cache" / "ukd" / "features"


def test_no_statistic_of_the_backbone_moves(images: ArrayImages) -> None:
    model = build_backbone(arch="test_resnet")
    model.train()
    before = model.weights_hash()
    extract(model, images, None)
    assert model.weights_hash() == before
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
