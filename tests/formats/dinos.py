"""Files of DINOv2 and DINOv3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import nn

from tests.formats.originals import DINOHead, Original, State, original, randomised


def _dinov2(arch: str) -> tuple[nn.Module, State]:
    model = randomised(timm.create_model(arch, num_classes=0, depth=2, img_size=28))
    state = dict(model.state_dict())
    named = {
        name.replace("reg_token", "register_tokens").replace("fc1", "w12").replace("fc2", "w3")
        if "swiglu" in arch or "giant" in arch
        else name.replace("reg_token", "register_tokens"): value
        for name, value in state.items()
    }
    named["mask_token"] = torch.zeros(1, state["cls_token"].shape[-1])
    if "register_tokens" in named:
        of_class = torch.full_like(state["cls_token"], 0.25)
        named["pos_embed"] = torch.cat([of_class, state["pos_embed"]], dim=1)
        named["cls_token"] = state["cls_token"] - of_class
    return model, named


def _of_dinov2(arch: str, tree: Callable[[State], dict[str, Any]], **more: Any) -> Original:
    model, named = _dinov2(arch)
    return Original(tree(named), dict(model.state_dict()), arch, {"depth": 2, "img_size": 28}, **more)


@original("dinov2")
def dinov2() -> Original:
    return _of_dinov2("vit_small_patch14_dinov2", dict)


@original("dinov2:registers")
def dinov2_registers() -> Original:
    return _of_dinov2("vit_small_patch14_reg4_dinov2", dict)


@original("dinov2:training")
def dinov2_training() -> Original:
    """A run's checkpoint: blocks in chunks for FSDP, and both heads."""
    heads = [randomised(DINOHead(384)) for _ in range(2)]

    def tree(named: State) -> dict[str, Any]:
        chunked = {
            name.replace("blocks.", f"blocks.{name[7]}.") if "blocks." in name else name: value
            for name, value in named.items()
        }
        return {
            "teacher": module_state(backbone=chunked, dino_head=heads[0].state_dict(), ibot_head=heads[1].state_dict())
        }

    return _of_dinov2("vit_small_patch14_dinov2", tree, head=heads[0].mlp)


def module_state(**parts: State) -> State:
    """The state of a module with these children."""
    return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}


def _dinov3(arch: str, gated: bool = False) -> tuple[nn.Module, State]:
    model = randomised(timm.create_model(arch, num_classes=0, depth=2))
    named: State = {"rope_embed.periods": torch.ones(16), "mask_token": torch.zeros(1, model.num_features)}
    swaps = {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}
    swaps |= {"mlp.fc1_g": "mlp.w1", "mlp.fc1_x": "mlp.w2", "mlp.fc2": "mlp.w3"} if gated else {}
    for name, value in model.state_dict().items():
        for ours, theirs in swaps.items():
            name = name.replace(ours, theirs)
        named[name] = value
    for i in range(2):
        query, values = (named.pop(f"blocks.{i}.attn.{each}_bias") for each in "qv")
        named[f"blocks.{i}.attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query), values])
        named[f"blocks.{i}.attn.qkv.bias_mask"] = torch.ones(3 * len(query))
    return model, named


@original("dinov3")
def dinov3() -> Original:
    arch = "vit_small_patch16_dinov3_qkvb"
    model, named = _dinov3(arch)
    return Original(named, dict(model.state_dict()), arch, {"depth": 2})


@original("dinov3:gated")
def dinov3_gated() -> Original:
    arch = "vit_small_plus_patch16_dinov3_qkvb"
    model, named = _dinov3(arch, gated=True)
    return Original(named, dict(model.state_dict()), arch, {"depth": 2})


@original("dinov3:zero biases")
def dinov3_zero() -> Original:
    """Distilled models whose biases are all zero; timm has an architecture without them too."""
    model, named = _dinov3("vit_small_patch16_dinov3_qkvb")
    for name in named:
        if name.endswith("qkv.bias"):
            named[name] = torch.zeros_like(named[name])
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(("q_bias", "v_bias"))}
    return Original(named, state, "vit_small_patch16_dinov3", {"depth": 2})


@original("dinov3:training")
def dinov3_training() -> Original:
    model, named = _dinov3("vit_small_patch16_dinov3_qkvb")
    heads = [randomised(DINOHead(384)) for _ in range(2)]
    parts = {"backbone": named, "dino_head": heads[0].state_dict(), "ibot_head": heads[1].state_dict()}
    tree = {"teacher": module_state(**parts)}
    return Original(tree, dict(model.state_dict()), "vit_small_patch16_dinov3_qkvb", {"depth": 2}, head=heads[0].mlp)


@original("dinov3:convnext")
def dinov3_convnext() -> Original:
    kwargs = {"depths": [1, 1, 2, 1]}
    model = randomised(timm.create_model("convnext_tiny", num_classes=0, **kwargs))
    named: State = {}
    for name, value in model.state_dict().items():
        name = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv").replace("head.norm", "norm")
        if ".downsample." in name:
            name = name.replace("stages.", "downsample_layers.").replace(".downsample.", ".")
        named[name] = value
    named |= {f"norms.3.{each}": named[f"norm.{each}"] for each in ("weight", "bias")}
    return Original(named, dict(model.state_dict()), "convnext_tiny", kwargs)
