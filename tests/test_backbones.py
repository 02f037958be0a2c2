"""Backbones: fed as their weights want, of the width they say, and teachers that nothing moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from ukd.backbones import Backbone, BackboneInfo, Teacher, build_backbone, open_backbone
from ukd.checkpoint import export_backbone
from ukd.errors import WeightsError

TINY: dict[str, Any] = {"arch": "resnet10t", "kwargs": {"channels": [8, 8, 16, 32], "stem_width": 8}}


def views(num: int = 4, size_px: int = 32) -> Tensor:
    return torch.rand(num, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))


class Echo(nn.Module):
    """A model that returns the mean of what reaches it, channel by channel."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.seen = torch.empty(0)

    def forward(self, views: Tensor) -> Tensor:
        self.seen = views
        return views.mean((2, 3))


@pytest.mark.parametrize(
    "arch", ["resnet18", "mobilenetv3_small_050", "efficientnet_b0", "vit_tiny_patch16_224", "convnext_atto"]
)
def test_the_width_told_is_the_width_given(arch: str) -> None:
    backbone = build_backbone(arch=arch).eval()
    with torch.no_grad():
        assert backbone(views(2, 64)).pooled.shape == (2, backbone.dim)


@given(
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.1, 1)] * 3),
    value=st.tuples(*[st.floats(0, 1)] * 3),
)
def test_normalisation_by_hand(
    mean: tuple[float, float, float], std: tuple[float, float, float], value: tuple[float, float, float]
) -> None:
    backbone = Backbone(Echo(), BackboneInfo("echo", mean=mean, std=std)).double()
    pooled = backbone(torch.tensor(value, dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 4, 4)).pooled
    expected = [(value[c] - mean[c]) / std[c] for c in range(3)]
    assert pooled[0].tolist() == pytest.approx(expected, abs=1e-5)  # Statistics are kept in fp32.


def test_views_are_resized_where_the_model_wants_one_size() -> None:
    backbone = Backbone(Echo(), BackboneInfo("echo", input_px=48, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    pooled = backbone(torch.full((1, 3, 16, 16), 0.25)).pooled
    assert backbone.model.seen.shape == (1, 3, 48, 48)
    torch.testing.assert_close(pooled, torch.full((1, 3), 0.25))
    backbone((views() > 0.5).float())
    assert backbone.model.seen.min() >= 0 and backbone.model.seen.max() <= 1  # Bicubic overshoots; colours cannot.
    backbone(same := views(1, 48))
    assert torch.equal(backbone.model.seen, same)


def test_a_model_of_one_size_takes_any_view() -> None:
    vit = build_backbone(arch="vit_tiny_patch16_224", kwargs={"depth": 1}).eval()
    small = build_backbone(arch="test_vit", kwargs={"img_size": 32, "patch_size": 8}).eval()
    assert (vit.info.input_px, small.info.input_px, build_backbone(**TINY).info.input_px) == (224, 32, None)
    with torch.no_grad():
        assert vit(views(1, 64)).pooled.shape == (1, 192) and small(views(1, 64)).pooled.shape == (1, 64)


def test_what_is_told_stands_above_what_timm_says() -> None:
    assert build_backbone(arch="test_vit").info.mean == (0.5, 0.5, 0.5)
    told = build_backbone(arch="test_vit", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0), input_px=80).info
    assert (told.mean, told.std, told.input_px) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), 80)
    assert (told.size_px, told.crop_pct, told.kwargs) == (224, 0.875, {})


def test_a_seed_is_its_weights_and_nobody_else_s_random_numbers() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build_backbone(**TINY, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert one.weights_hash() == build_backbone(**TINY, seed=3).weights_hash()
    assert one.weights_hash() != build_backbone(**TINY, seed=4).weights_hash()


def test_the_hash_sees_every_weight_and_statistic() -> None:
    backbone = build_backbone(**TINY)
    hashes = {backbone.weights_hash()}
    for value in backbone.model.state_dict().values():
        value.view(-1)[-1] += 1
        hashes.add(backbone.weights_hash())
    assert len(hashes) == 1 + len(backbone.model.state_dict())
    assert backbone.weights_hash() == backbone.to(memory_format=torch.channels_last).weights_hash()


def test_fp64_throughout() -> None:
    backbone = build_backbone(**TINY).double().eval()
    single = build_backbone(**TINY).eval()
    pooled = backbone(views().double()).pooled
    assert pooled.dtype == torch.float64
    torch.testing.assert_close(pooled.float(), single(views()).pooled, rtol=1e-4, atol=1e-5)


def test_num_parameters_are_those_of_the_model() -> None:
    assert build_backbone(arch="resnet18").num_parameters == 11_176_512  # 11,689,512 less the classifier's 513,000.


def test_nothing_moves_a_teacher() -> None:
    teacher = build_backbone(**TINY, frozen=True)
    assert isinstance(teacher, Teacher)
    before, expected = teacher.weights_hash(), teacher(views()).pooled
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    x = views().requires_grad_()
    pooled = teacher(x).pooled
    assert not pooled.requires_grad and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert torch.equal(pooled, expected) and teacher.weights_hash() == before


def test_a_student_moves() -> None:
    student = build_backbone(**TINY)
    before = student.weights_hash()
    assert student.training and student(views()).pooled.requires_grad
    assert student.weights_hash() != before  # Batch norm's statistics.


def test_an_export_is_rebuilt_from_its_folder_alone(tmp_path: Path) -> None:
    made = build_backbone(**TINY, mean=(0.1, 0.2, 0.3), input_px=40, size_px=36, crop_pct=1.0, seed=9)
    made(views())  # Statistics that are not those of the start.
    export_backbone(tmp_path, "student", made, {"step": 3})
    for opened in (open_backbone(str(tmp_path)), build_backbone(weights=str(tmp_path / "student.safetensors"))):
        assert opened.weights_hash() == made.weights_hash() and opened.info == made.info
        assert torch.equal(opened.eval()(views()).pooled, made.eval()(views()).pooled)
    assert isinstance(open_backbone(str(tmp_path)), Teacher)
    assert build_backbone(weights=str(tmp_path), mean=(0.0, 0.0, 0.0)).info.mean == (0.0, 0.0, 0.0)


def test_an_export_is_a_bare_timm_model(tmp_path: Path) -> None:
    made = build_backbone(**TINY, seed=9)
    export_backbone(tmp_path, "student", made, {})
    plain = timm.create_model(TINY["arch"], num_classes=0, **TINY["kwargs"])
    plain.load_state_dict(load_file(tmp_path / "student.safetensors"), strict=True)
    normalised = (views() - torch.tensor(made.info.mean).view(3, 1, 1)) / torch.tensor(made.info.std).view(3, 1, 1)
    assert torch.equal(plain.eval()(normalised), made.eval()(views()).pooled)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"arch": "resnet19"}, r"arch: timm .* has no model 'resnet19'; did you mean resnet18, "),
        ({"arch": "qqqqqqqq"}, r"arch: timm .* has no model 'qqqqqqqq'$"),
        (
            {"arch": "resnet18", "kwargs": {"chanels": [1]}},
            r"cannot build resnet18 with {'chanels': \[1\]}: .*'chanels'",
        ),
        ({"arch": "resnet18", "kwargs": {"num_classes": 5}}, "cannot build resnet18 with .*num_classes"),
        (
            {"arch": "test_vit", "kwargs": {"embed_dim": 65}},
            "cannot build test_vit with {'embed_dim': 65}: dim should be",
        ),
        ({"arch": "resnet18.nonsense"}, r"cannot build resnet18\.nonsense: Invalid pretrained tag \(nonsense\)"),
        ({"arch": "local-dir:/nowhere"}, "cannot build local-dir:/nowhere: Config file not found"),
    ],
)
def test_models_that_timm_does_not_have(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        build_backbone(**asked)


def test_weights_that_do_not_say_what_they_are(tmp_path: Path) -> None:
    torch.save(build_backbone(**TINY).model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"x\.pth does not say its architecture; give `arch`, a timm name"):
        build_backbone(weights=str(tmp_path / "x.pth"))
