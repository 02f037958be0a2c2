"""Whole images: their proportions, their scales, whole patches, generalised means, and models made to take them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ukd.backbones import Backbone, BackboneInfo, Teacher, build_backbone
from ukd.bank import in_memory
from ukd.data import ArrayImages
from ukd.errors import WeightsError
from ukd.eval.retrieval.views import WholeImages, WholeView, any_size, describe

VIT = {"arch": "test_vit3", "kwargs": {"img_size": 32, "patch_size": 8}, "frozen": True}
"""A ViT that refuses any size but its own."""


class Watched(nn.Module):
    """Gives the mean colour of a view, and remembers the sizes it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 3
        self.seen: list[tuple[int, int]] = []

    def forward(self, views: Tensor) -> Tensor:
        self.seen.append((views.shape[-2], views.shape[-1]))
        return views.mean((2, 3))


def watched(patch_px: int = 1) -> tuple[Backbone, Watched]:
    model = Watched()
    if patch_px > 1:
        model.patch_embed = nn.Module()
        model.patch_embed.patch_size = (patch_px, patch_px)  # type: ignore[assignment]
    return Teacher(model, BackboneInfo("watched", mean=(0, 0, 0), std=(1, 1, 1))), model


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(100, 200, (32, 64)), (200, 100, (64, 32)), (30, 40, (30, 40)), (2, 200, (1, 64))]
)
def test_images_keep_their_proportions_and_are_never_enlarged(height: int, width: int, shown: tuple[int, int]) -> None:
    assert WholeView(64).of(noise(height, width)).shape == (*shown, 3)


def test_squashed_images_are_square_whatever_they_were() -> None:
    assert WholeView(64, squash=True).of(noise(10, 200)).shape == (64, 64, 3)


def test_each_scale_shows_whole_patches_and_features_are_averaged() -> None:
    backbone, model = watched(patch_px=8)
    views = torch.rand(1, 3, 50, 70)
    row = describe(backbone, views, WholeView(70, scales=(1.0, 0.5, 0.1)))
    assert model.seen == [(48, 64), (24, 32), (8, 8)]
    first = views[..., :48, :64].mean((2, 3))
    half = nn.functional.interpolate(views, (25, 35), mode="bilinear")[..., :24, :32].mean((2, 3))
    least = nn.functional.interpolate(views, (8, 8), mode="bilinear").mean((2, 3))
    torch.testing.assert_close(row, (first + half + least) / 3)


def test_a_model_without_patches_sees_every_pixel() -> None:
    backbone, model = watched()
    describe(backbone, torch.rand(1, 3, 51, 71), WholeView(71))
    assert model.seen == [(51, 71)]


def test_the_generalised_mean_is_joined_to_the_pooled_feature() -> None:
    backbone = any_size(build_backbone(**VIT))
    views = torch.rand(2, 3, 32, 48)
    row = describe(backbone, views, WholeView(48, gem=4.0))
    sequence = backbone.model.forward_features((views - backbone.mean) / backbone.std)  # type: ignore[operator]
    patches = sequence[:, backbone.model.num_prefix_tokens :].detach().numpy().clip(1e-6)
    assert patches.shape[1] == 4 * 6
    torch.testing.assert_close(row[:, : backbone.dim], backbone(views).pooled)
    np.testing.assert_allclose(row[:, backbone.dim :], (patches**4).mean(1) ** 0.25, rtol=1e-4)
    assert WholeView(48, gem=4.0).kind == "pooled+gem4" and WholeView(48).kind == "pooled"


def test_a_vit_of_one_size_takes_any_and_gives_the_same_at_its_own() -> None:
    fixed = build_backbone(**VIT)
    free = any_size(fixed)
    views = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(free(views).pooled, fixed(views).pooled)
    assert free.weights_hash() == fixed.weights_hash()
    wide, square = torch.rand(1, 3, 32, 64), nn.functional.interpolate(torch.rand(1, 3, 32, 64), (32, 32))
    assert not torch.allclose(free(wide).pooled, free(square).pooled)
    assert not free.training and not any(each.requires_grad for each in free.parameters())


def test_a_teachers_head_stays() -> None:
    fixed = build_backbone(**VIT)
    headed = Teacher(fixed.model, fixed.info, nn.Sequential(nn.Linear(fixed.dim, 7)))
    views = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(any_size(headed)(views).pooled, headed(views).pooled)
    assert any_size(headed).dim == 7


def test_a_cnn_is_fed_what_it_is_shown_and_not_its_recipes_size() -> None:
    fixed = build_backbone(arch="test_resnet", input_px=16, frozen=True)
    views = torch.rand(1, 3, 48, 64)
    free = any_size(fixed)
    assert free.model is fixed.model and free.info.input_px is None
    assert not torch.allclose(free(views).pooled, fixed(views).pooled)


def test_a_model_of_one_size_is_refused() -> None:
    with pytest.raises(WeightsError, match="test_vit_relpos takes images of one size only"):
        any_size(build_backbone(arch="test_vit_relpos", frozen=True))


@pytest.mark.parametrize("squash", [True, False])
def test_an_extractor_gives_every_image_what_it_would_get_alone(squash: bool) -> None:
    images = ArrayImages("many", np.stack([noise(20, 30) // (each + 1) for each in range(5)]))
    whole = WholeView(24, squash=squash, gem=3.0)
    backbone = any_size(build_backbone(arch="test_resnet", frozen=True))
    extractor = WholeImages(backbone, images, 24, 1.0, torch.device("cpu"), batch_size=2, num_workers=0, whole=whole)
    rows = in_memory(extractor)
    for row, index in zip(rows, range(5), strict=True):
        pixels = torch.tensor(whole.of(images.read(index))).permute(2, 0, 1)[None] / 255
        np.testing.assert_allclose(row, describe(backbone, pixels, whole)[0], rtol=1e-3, atol=1e-5)
    assert extractor.width() == rows.shape[1] == 192
    assert extractor.key()["view"]["squash"] == squash and extractor.key()["features"] == "pooled+gem3"
