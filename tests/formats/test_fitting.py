"""Loading into timm's model: all of a file, or a message that names what is the matter."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from tests.formats.files import save
from tests.formats.originals import ORIGINALS, Original, State
from ukd.backbones import build_backbone
from ukd.errors import WeightsError
from ukd.formats.fitting import load_strictly
from ukd.formats.reading import read

SMALL: dict[str, Any] = {"channels": [8, 8, 16, 32], "stem_width": 8}


def file_of(folder: Path, **changes: Tensor | None) -> str:
    """A file of a small resnet10t's weights with its classifier, some of them changed or left out."""
    model = timm.create_model("resnet10t", num_classes=10, **SMALL)
    state = {**model.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
    torch.save({name: value for name, value in state.items() if value is not None}, folder / "x.pth")
    return str(folder / "x.pth")


def test_the_classifier_is_left_behind(tmp_path: Path) -> None:
    weights = file_of(tmp_path)
    state = build_backbone(arch="resnet10t", kwargs=SMALL, weights=weights).model.state_dict()
    stored = read(Path(weights)).tensors("") or {}
    assert {"fc.weight", "fc.bias"} == stored.keys() - state.keys()
    assert all(torch.equal(value, stored[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bn1__weight": None}, r"missing \(1\): bn1\.weight$"),
        ({"head__weight": torch.zeros(1)}, r"unexpected \(1\): head\.weight$"),
        ({"fc2__weight": torch.zeros(1)}, r"unexpected \(1\): fc2\.weight$"),
        ({"bn1__bias": torch.zeros(9)}, r"other shapes \(1\): bn1\.bias is \[9\] where \[16\] is wanted$"),
        ({"bn1__bias": torch.ones(16).to(torch.int8)}, r"other types \(1\): bn1\.bias is torch\.int8$"),
        ({"bn1__num_batches_tracked": None}, r"missing \(1\): bn1\.num_batches_tracked$"),
        (
            {"bn1__weight": None, "x": torch.zeros(1)},
            r"does not fit resnet10t:\n  missing \(1\): bn1\.weight\n  unexpected \(1\): x$",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Tensor | None], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        build_backbone(arch="resnet10t", kwargs=SMALL, weights=file_of(tmp_path, **changes))


def test_a_file_of_another_architecture(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"x\.pth fits no known format; its names begin conv1\.0\.weight, "):
        build_backbone(arch="test_vit", weights=file_of(tmp_path))


def test_a_distilled_model_has_two_classifiers(tmp_path: Path) -> None:
    arch, kwargs = "deit_tiny_distilled_patch16_224", {"depth": 1, "img_size": 32}
    torch.save(timm.create_model(arch, num_classes=10, **kwargs).state_dict(), tmp_path / "x.pth")
    assert build_backbone(arch=arch, kwargs=kwargs, weights=str(tmp_path / "x.pth")).dim == 192


def test_nothing_is_loaded_where_something_is_wrong() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(WeightsError, match=r"missing \(1\): bias"):
        load_strictly(model, {"weight": torch.zeros(2, 2)}, source="x", arch="linear", classifiers=["fc"])
    assert torch.equal(model.weight, before)


def test_half_precision_is_read_as_fp32(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=0, **SMALL)
    torch.save(
        {
            name: value.to(torch.bfloat16) if value.is_floating_point() else value
            for name, value in model.state_dict().items()
        },
        tmp_path / "x.pth",
    )
    state = build_backbone(arch="resnet10t", kwargs=SMALL, weights=str(tmp_path / "x.pth")).model.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert all(
        torch.equal(state[name], value.to(torch.bfloat16).to(value.dtype)) for name, value in model.state_dict().items()
    )


@pytest.mark.parametrize(("arch", "num_prefix"), [("vit_tiny_patch16_224", 1), ("vit_small_patch14_reg4_dinov2", 0)])
def test_positions_are_resampled_to_another_grid_and_it_is_said(
    arch: str, num_prefix: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    side = 4 * int(arch.partition("patch")[2][:2])
    model = timm.create_model(arch, num_classes=0, depth=1, img_size=side)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    kwargs = {"depth": 1, "img_size": 2 * side}
    with caplog.at_level(logging.INFO, "ukd.formats"):
        backbone = build_backbone(arch=arch, kwargs=kwargs, weights=str(tmp_path / "x.pth"))
    assert caplog.messages[0] == "weights: position embeddings resampled from 4x4 to 8x8 patches"
    expected = resample_abs_pos_embed(model.pos_embed, [8, 8], num_prefix_tokens=num_prefix)
    assert torch.equal(backbone.model.get_parameter("pos_embed"), expected)
    assert torch.equal(backbone.model.get_parameter("cls_token"), model.cls_token)


def test_positions_that_are_no_square_grid_are_not_guessed(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, img_size=(32, 64))
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"pos_embed is \[1, 9, 192\] where \[1, 17, 192\] is wanted"):
        build_backbone(
            arch="vit_tiny_patch16_224", kwargs={"depth": 1, "img_size": 64}, weights=str(tmp_path / "x.pth")
        )


def refused(file: Original, folder: Path, **asked: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        build_backbone(arch=file.arch, kwargs=file.kwargs, weights=str(save(file, folder)), **asked)
    return str(caught.value)


def test_biases_for_which_timm_has_no_place_are_refused(tmp_path: Path) -> None:
    file = ORIGINALS["dinov3"]()
    file.arch = "vit_small_patch16_dinov3"
    assert "unexpected (4): blocks.0.attn.q_bias" in refused(file, tmp_path)
    file.tree["blocks.1.attn.qkv.bias"][384] = 1.0
    assert "blocks.1.attn.qkv.bias has a bias of keys that is not zero" in refused(file, tmp_path)


def test_a_resnet_that_halves_maps_elsewhere_is_refused(tmp_path: Path) -> None:
    file = ORIGINALS["transformers:ResNet"]()
    file.config["downsample_in_bottleneck"] = True
    assert "halves maps in the first convolution of a block" in refused(file, tmp_path)


def test_two_models_in_one_file_are_refused(tmp_path: Path) -> None:
    file = ORIGINALS["dinov2"]()
    file.tree["blocks.0.0.norm1.weight"] = file.tree["blocks.0.norm1.weight"]
    assert "two tensors of the file are timm's blocks.0.norm1.weight; is it one model's? (in " in refused(
        file, tmp_path
    )


KINDS = {
    name: ORIGINALS[name]
    for name in (
        "dino",
        "dinov2:training",
        "dinov3",
        "mmselfsup:vit",
        "transformers:ViT",
        "torchvision",
        "mobilenet_v2",
    )
}
FILES = {name: make() for name, make in KINDS.items()}
WHERE = {"dino": "teacher", "dinov2:training": "teacher", "mmselfsup:vit": "state_dict"}


def tensors_of(name: str) -> State:
    tree = FILES[name].tree
    state: State = tree[WHERE[name]] if name in WHERE else tree
    return state


def in_backbone(name: str) -> list[str]:
    """Names of the file without which the model would not be whole."""
    ignored = ("head", "dino_head", "ibot_head", "neck", "pooler", "heads", "classifier", "mask_token", "rope_embed")
    return [key for key in tensors_of(name) if not key.startswith(ignored) and "mask" not in key]


def in_timm(file: Original, value: Tensor) -> list[str]:
    """Names in timm of a tensor, all of which are random: those whose tensors begin alike."""
    flat = value.flatten()
    there = {name: each.flatten() for name, each in file.state.items()}
    return [name for name, each in there.items() if torch.equal(each[: len(flat)], flat[: len(each)])]


@given(data=st.data(), rename=st.booleans(), named=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_name_lost_or_changed_is_refused_and_named(
    data: st.DataObject, rename: bool, named: bool, tmp_path: Path
) -> None:
    name = data.draw(st.sampled_from(sorted(FILES)))
    lost = data.draw(st.sampled_from(in_backbone(name)))
    file, state = FILES[name], dict(tensors_of(name))
    value = state.pop(lost)
    if rename:
        state[f"{lost}_0"] = value
    tree = {**file.tree, WHERE[name]: state} if name in WHERE else state
    said = refused(
        Original(tree, file.state, file.arch, file.kwargs, config=file.config),
        tmp_path,
        format=name.split(":")[0] if named else None,
    )
    assert any(each in said for each in (lost.removeprefix("backbone."), *in_timm(file, value))), said
