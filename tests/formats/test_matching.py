"""Which format a file is: found and said, or an error that names what is near, or what is the matter."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.formats.files import save
from tests.formats.originals import ORIGINALS
from ukd.backbones import build_backbone
from ukd.errors import WeightsError
from ukd.formats import match, read
from ukd.formats.matching import Match
from ukd.formats.table import FORMATS, OURS, PLAIN

CONV, TWO = torch.zeros(8, 3, 7, 7), torch.zeros(2, 2)
MOCO = {"module.encoder_q.conv1.weight": CONV, "module.encoder_q.fc.0.weight": TWO, "module.encoder_q.fc.2.weight": TWO}


def found(folder: Path, tree: Any, name: str | None = None) -> Match:
    torch.save(tree, folder / "x.pth")
    return match(read(folder / "x.pth"), name)


def test_the_table_is_in_order_and_says_its_sources() -> None:
    assert next(iter(FORMATS.values())) is OURS and list(FORMATS.values())[-1] is PLAIN
    assert all(name == row.name and ":" in row.source and row.file for name, row in FORMATS.items())
    assert all(row.mean is None or len(row.mean) == 3 for row in FORMATS.values())
    assert FORMATS["moco_v3"].num_heads == {384: 12}


def test_what_a_row_takes_out_of_a_file(tmp_path: Path) -> None:
    taken = found(tmp_path, {"state_dict": {**MOCO, "module.queue": TWO, "module.encoder_k.conv1.weight": CONV}})
    assert (taken.row.name, taken.container, taken.prefix) == ("moco_v2", "state_dict", "encoder_q.")
    assert set(taken.backbone) == {"conv1.weight"} and set(taken.head_tensors) == {"0.weight", "2.weight"}


def test_a_file_that_fits_nothing_names_its_first_keys_and_the_nearest_format(tmp_path: Path) -> None:
    tree = {"state_dict": {**MOCO, "module.encoder_x": TWO}, "epoch": 3}
    del tree["state_dict"]["module.encoder_q.fc.2.weight"]  # type: ignore[attr-defined]
    torch.save(tree, tmp_path / "x.pth")
    with pytest.raises(WeightsError) as caught:
        build_backbone(arch="resnet18", weights=str(tmp_path / "x.pth"))
    assert "x.pth fits no known format; its names begin encoder_q.conv1.weight, encoder_q.fc.0.weight," in str(
        caught.value
    )
    assert "nearest is MoCo v2 (moco_v2), which also has encoder_q.fc.2.weight" in str(caught.value)


def test_names_that_are_near_nothing(tmp_path: Path) -> None:
    torch.save({"x.weight": TWO}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"fits no known format; its names begin x\.weight\. Save the backbone's"):
        build_backbone(arch="resnet18", weights=str(tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("stored", "held"), [({"epoch": 3, "note": "x"}, "epoch, note"), ({"a": TWO, "step": 3}, "step"), ({}, "dict")]
)
def test_other_things_than_named_tensors(tmp_path: Path, stored: Any, held: str) -> None:
    with pytest.raises(WeightsError, match=rf"holds no plain set of named tensors under .* \(found {held}\)"):
        found(tmp_path, stored)


def test_formats_that_would_read_different_tensors_are_named(tmp_path: Path) -> None:
    siblings = {"student": {}, "teacher": {"backbone.x": TWO, "head.last_layer.weight_v": TWO}}
    with pytest.raises(WeightsError, match=r"fits several .*: dino \(DINO\), moco_v2 \(MoCo v2\), bingo .*; name one"):
        found(tmp_path, {**siblings, "state_dict": {**MOCO, "module.encoder_k.conv1.weight": CONV}})


@pytest.mark.parametrize(
    ("tree", "name", "message"),
    [
        ({"a": TWO}, "moco2", r"format: there is no 'moco2'; there are ukd, dinov3, "),
        (
            {"a": TWO},
            "moco_v2",
            r"x\.pth is not MoCo v2 \(moco_v2\): it holds no plain set .* under state_dict \(found dict",
        ),
        ({"state_dict": {"a": TWO}}, "moco_v2", r"it has no names that begin with encoder_q\.; they begin a$"),
        ({"state_dict": {**MOCO, "strange": TWO}}, "moco_v2", r"has names beside encoder_q\.\* of which .*: strange$"),
    ],
)
def test_a_format_that_is_named_and_does_not_fit(tmp_path: Path, tree: Any, name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        found(tmp_path, tree, name)


def test_the_choice_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = build_backbone(arch="resnet10t")
    prefixed = {f"encoder_q.{name}": value for name, value in net.model.state_dict().items()}
    heads = {f"encoder_q.fc.{i}.{what}": TWO for i in (0, 2) for what in ("weight", "bias")}
    extra: dict[str, Tensor] = {"encoder_q.conv1.weight": CONV}
    torch.save({"state_dict": {**prefixed, **heads, "encoder_k.x": TWO}}, tmp_path / "x.pth")
    with caplog.at_level(logging.INFO, "ukd.formats"), pytest.raises(WeightsError):
        build_backbone(arch="resnet10t", weights=str(tmp_path / "x.pth"))  # Its stem is no single convolution.
    assert caplog.messages == []
    torch.save({"state_dict": {f"backbone.{name}": value for name, value in extra.items()}}, tmp_path / "y.pth")
    torch.save(net.model.state_dict(), tmp_path / "z.pth")
    with caplog.at_level(logging.INFO, "ukd.formats"):
        build_backbone(arch="resnet10t", weights=str(tmp_path / "z.pth"))
    assert caplog.messages == [
        f"weights: {tmp_path}/z.pth read as plain names, timm's or a torchvision ResNet's (timm)"
    ]


def test_a_format_says_how_pixels_are_normalised(tmp_path: Path) -> None:
    """Timm's ViT was trained on other pixels than DINO's of the same architecture."""
    kwargs = {"depth": 1, "img_size": 32}
    torch.save(build_backbone(arch="vit_tiny_patch16_224", kwargs=kwargs).model.state_dict(), tmp_path / "x.pth")
    asked = {"arch": "vit_tiny_patch16_224", "kwargs": kwargs, "weights": str(tmp_path / "x.pth")}
    assert build_backbone(**asked).info.mean == (0.5, 0.5, 0.5)
    assert build_backbone(**asked, format="dino").info.mean == (0.485, 0.456, 0.406)
    assert build_backbone(**asked, format="dino", mean=(0.1, 0.2, 0.3)).info.mean == (0.1, 0.2, 0.3)


def test_the_feature_of_dinov3_is_its_class_token(tmp_path: Path) -> None:
    """Timm's is the mean over patches, which no head of DINOv3's was trained on."""
    file = ORIGINALS["dinov3"]()
    asked = {"arch": file.arch, "weights": str(save(file, tmp_path))}
    backbone = build_backbone(**asked, kwargs=file.kwargs, frozen=True)
    assert backbone.info.kwargs == {"global_pool": "token", **file.kwargs}
    views = torch.rand(1, 3, 256, 256)
    tokens = backbone.model.forward_features((views - backbone.mean) / backbone.std)  # type: ignore[operator]
    assert torch.equal(backbone(views).pooled, tokens[:, 0])
    assert build_backbone(**asked, kwargs={**file.kwargs, "global_pool": "avg"}).model.global_pool == "avg"


def test_heads_of_attention_are_those_of_the_format(tmp_path: Path) -> None:
    """No shape tells how many there are, and MoCo v3's small ViT has twice those of timm's."""
    arch, kwargs = "vit_small_patch16_224", {"depth": 1, "img_size": 32}
    torch.save({"model": build_backbone(arch=arch, kwargs=kwargs).model.state_dict()}, tmp_path / "x.pth")
    asked = {"arch": arch, "weights": str(tmp_path / "x.pth")}
    assert build_backbone(**asked, kwargs=kwargs).shape.heads == 6
    found = build_backbone(**asked, kwargs=kwargs, format="moco_v3")
    assert found.shape.heads == 12 and found.info.kwargs == {"num_heads": 12, **kwargs}
    assert build_backbone(**asked, kwargs={**kwargs, "num_heads": 3}, format="moco_v3").shape.heads == 3
