"""Feature kinds, each taken apart by hand from timm's own outputs."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from ukd.backbones import Backbone, build_backbone
from ukd.errors import UserError
from ukd.kinds import KINDS, embed_views, width_of

VIT: dict[str, Any] = {"arch": "test_vit", "kwargs": {"img_size": 32, "patch_size": 8}}
VIEWS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def backbone(**spec: Any) -> Backbone:
    return build_backbone(**spec, frozen=True, seed=1)


def last_blocks(vit: Any, x: Tensor) -> list[Tensor]:
    """Tokens [B, 1 + N, D] after each block and the last norm, as `get_intermediate_layers` of DINO gives them."""
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(x)))
    outputs = []
    for block in vit.blocks:
        x = block(x)
        outputs.append(vit.norm(x))
    return outputs


def by_hand(model: Backbone, num_special: int = 1) -> dict[str, Tensor]:
    vit: Any = model.model
    x = (VIEWS - model.mean) / model.std
    tokens = vit.forward_features(x)
    cls, avg = tokens[:, 0], tokens[:, num_special:].mean(1)
    last4 = torch.cat([each[:, 0] for each in last_blocks(vit, x)[-4:]], dim=1)
    return {
        "pooled": vit.forward_head(tokens),
        "cls": cls,
        "avg": avg,
        "cls+avg": torch.cat([cls, avg], 1),
        "last4": last4,
        "last4+avg": torch.cat([last4, avg], 1),
    }


@pytest.mark.parametrize("num_registers", [0, 2])
@torch.no_grad()
def test_every_kind_of_a_vit(num_registers: int) -> None:
    model = backbone(arch="test_vit", kwargs={**VIT["kwargs"], "reg_tokens": num_registers})
    expected = by_hand(model, 1 + num_registers)
    assert expected.keys() == KINDS.keys()
    for kind, rows in expected.items():
        got = embed_views(model, VIEWS, kind)
        assert got.shape == (3, width_of(model, kind, 32)) and got.dtype == torch.float32
        torch.testing.assert_close(got, rows, rtol=1e-5, atol=1e-6)
    assert [width_of(model, kind, 32) for kind in KINDS] == [64, 64, 64, 128, 256, 320]


@torch.no_grad()
def test_kinds_of_a_resnet() -> None:
    model = backbone(arch="test_resnet")
    cells = model.model.forward_features((VIEWS - model.mean) / model.std)  # type: ignore[operator]
    for kind in ("pooled", "avg"):
        torch.testing.assert_close(embed_views(model, VIEWS, kind), cells.mean((2, 3)), rtol=1e-5, atol=1e-6)
        assert width_of(model, kind, 32) == cells.shape[1]


@pytest.mark.parametrize(
    ("spec", "kind", "has"),
    [
        ({"arch": "test_resnet"}, "cls", "pooled, avg"),
        ({"arch": "test_resnet"}, "last4+avg", "pooled, avg"),
        ({**VIT, "kwargs": {**VIT["kwargs"], "depth": 3}}, "last4", "pooled, cls, avg, cls+avg"),
        ({**VIT, "kwargs": {**VIT["kwargs"], "class_token": False, "global_pool": "avg"}}, "cls+avg", "pooled, avg"),
    ],
)
def test_a_kind_that_a_model_lacks_is_refused_with_those_it_has(spec: dict[str, Any], kind: str, has: str) -> None:
    message = f"features: {spec['arch']} has no {kind}; it has {has}"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        width_of(backbone(**spec), kind, 32)


def test_rows_of_fp64_backbones_are_fp32() -> None:
    assert embed_views(backbone(**VIT).double(), VIEWS.double(), "cls").dtype == torch.float32
    assert width_of(backbone(**VIT).double(), "cls", 32) == 64
