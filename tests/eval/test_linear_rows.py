"""What heads are trained on: the columns of a row, its normalisation, the order of rows, and random views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ukd import distributed
from ukd.backbones import Backbone, build_backbone
from ukd.data import ArrayImages
from ukd.errors import DataError
from ukd.eval.linear import rows as rows_module
from ukd.eval.linear.presets import PRESETS
from ukd.eval.linear.rows import CachedBatches, Standardiser, ViewBatches, layout_of
from ukd.kinds import embed_views
from ukd.samplers import BatchOrder

CPU = torch.device("cpu")
DIM = 64
SIZE_PX = 16


@pytest.fixture(scope="module")
def vit() -> Backbone:
    return build_backbone(
        arch="test_vit", kwargs={"img_size": SIZE_PX, "patch_size": 4, "depth": 4}, size_px=SIZE_PX, frozen=True, seed=1
    )


@pytest.fixture(scope="module")
def images() -> ArrayImages:
    rng = np.random.default_rng(0)
    return ArrayImages("noise", rng.integers(0, 256, (20, 20, 20, 3), dtype=np.uint8))


def view_batches(backbone: Backbone, images: ArrayImages, batch_size: int = 8, forward_size: int = 8) -> ViewBatches:
    preset = replace(PRESETS["dino"], batch_size=batch_size)
    return ViewBatches(backbone, "last4", images, SIZE_PX, preset, 5, forward_size, 0, None)


def test_dinov2_heads_look_at_four_kinds_of_one_row(vit: Backbone) -> None:
    layout = layout_of(vit, PRESETS["dinov2"], SIZE_PX)
    assert list(layout.columns) == ["cls", "cls+avg", "last4", "last4+avg"] and layout.class_token
    views = torch.rand(3, 3, SIZE_PX, SIZE_PX)
    row = embed_views(vit, views, layout.kind)
    for kind, part in layout.columns.items():
        assert torch.equal(row[:, part], embed_views(vit, views, kind)), kind


def test_dino_heads_look_at_four_blocks_of_a_small_vit_and_one_of_a_larger(
    vit: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert layout_of(vit, PRESETS["dino"], SIZE_PX)[:2] == ("last4", {"last4": slice(0, 4 * DIM)})
    monkeypatch.setattr(rows_module, "SMALL_VIT_DIM", DIM - 1)
    assert layout_of(vit, PRESETS["dino"], SIZE_PX)[:2] == ("cls+avg", {"cls+avg": slice(0, 2 * DIM)})


@pytest.mark.parametrize("name", ["dino", "dinov2", "moco"])
def test_without_a_class_token_heads_look_at_pooled_features(name: str) -> None:
    resnet = build_backbone(arch="test_resnet", frozen=True)
    layout = layout_of(resnet, PRESETS[name], 32)
    assert layout == ("pooled", {"pooled": slice(0, resnet.dim)}, False)


def test_other_protocols_look_at_pooled_features_of_a_vit(vit: Backbone) -> None:
    assert layout_of(vit, PRESETS["mocov3"], SIZE_PX) == ("pooled", {"pooled": slice(0, DIM)}, True)


def test_simreg_normalises_by_the_training_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    train, other = rng.normal(2, 3, (50, 6)), rng.normal(size=(4, 6))
    unit = train / np.sqrt((train**2).sum(1, keepdims=True))
    mean, variance = unit.mean(0), ((unit - unit.mean(0)) ** 2).sum(0) / 49
    expected = (other / np.sqrt((other**2).sum(1, keepdims=True)) - mean) / np.sqrt(variance + 1e-5)
    for tile in (1000, 7):
        monkeypatch.setattr(rows_module, "TILE_ROWS", tile)
        standardise = Standardiser(torch.from_numpy(train), CPU)
        np.testing.assert_allclose(standardise(torch.from_numpy(other)), expected, rtol=1e-10)


@pytest.mark.parametrize("batch_size", [6, 50])
def test_cached_rows_come_in_the_order_of_training(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(20.0)[:, None]
    order = BatchOrder(20, batch_size, 7)
    batches = list(CachedBatches(rows, batch_size, 7, CPU)(2, 9))
    assert len(batches) == 7
    for step, (some, index) in enumerate(batches, start=2):
        assert index.tolist() == [sample.image for sample in order.batch(step)]
        assert torch.equal(some, rows[index])
    ((doubled, _),) = CachedBatches(rows, batch_size, 7, CPU, lambda some: 2 * some)(2, 3)  # type: ignore[arg-type]
    assert torch.equal(doubled, 2 * batches[0][0])
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    shares: list[list[Tensor]] = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append([index for _, index in CachedBatches(rows, batch_size, 7, CPU)(2, 9)])
    for first, second, (_, whole) in zip(*shares, batches, strict=True):
        assert len(first) == len(second) and torch.equal(torch.cat([first, second]), whole)


def test_random_views_change_from_pass_to_pass_and_with_nothing_else(vit: Backbone, images: ArrayImages) -> None:
    rows = {}
    order = BatchOrder(20, 8, 5)
    for step, (some, index) in enumerate(view_batches(vit, images)(0, 5)):
        samples = order.batch(step)
        assert index.tolist() == [sample.image for sample in samples]
        rows |= {(sample.epoch, sample.image): row for sample, row in zip(samples, some, strict=True)}
    assert len(rows) == 40
    assert all((rows[0, image] - rows[1, image]).abs().max() > 1e-3 for image in range(20))
    (late,) = (some for some, _ in view_batches(vit, images)(4, 5))
    (one_by_one,) = (some for some, _ in view_batches(vit, images, forward_size=3)(4, 5))
    assert torch.equal(late, torch.stack([rows[sample.epoch, sample.image] for sample in order.batch(4)]))
    torch.testing.assert_close(one_by_one, late, rtol=0, atol=1e-5)


def test_random_views_keep_colours(vit: Backbone) -> None:
    plain = np.broadcast_to(np.array([10, 200, 90], dtype=np.uint8), (4, 20, 20, 3))
    view = torch.tensor([10, 200, 90]).view(1, 3, 1, 1).expand(1, 3, SIZE_PX, SIZE_PX) / 255
    ((some, _),) = view_batches(vit, ArrayImages("plain", plain.copy()), batch_size=4)(0, 1)
    torch.testing.assert_close(some, embed_views(vit, view, "last4").expand(4, -1), rtol=0, atol=1e-5)


def test_an_image_that_cannot_be_read_is_refused_for_another_would_have_its_label(vit: Backbone) -> None:
    class Torn(ArrayImages):
        def read(self, index: int) -> np.ndarray:  # type: ignore[type-arg]
            if index == 3:
                raise OSError("torn")
            return super().read(index)

    torn = Torn("torn", np.zeros((200, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="cannot read #3 in torn"):
        list(view_batches(vit, torn, batch_size=200)(0, 1))
