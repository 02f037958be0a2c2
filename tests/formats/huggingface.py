"""Directories as Hugging Face transformers saves them, name for name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tests.formats.originals import RESNET, VIT, Original, State, features_of, of_vit, original, randomised, resnet, vit

Swaps = Sequence[tuple[str, str]]
VIT_NAMES: Swaps = (
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("reg_token", "embeddings.register_tokens"),
    ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    ("blocks.", "encoder.layer."),
    ("attn.proj", "attention.output.dense"),
)
PLAIN_VIT: Swaps = (
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)
SCALED_VIT: Swaps = (("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1"))


def renamed(state: State, swaps: Swaps) -> State:
    """The state under other names; each name goes through every swap."""
    named: State = {}
    for name, value in state.items():
        for ours, theirs in swaps:
            name = name.replace(ours, theirs)
        if name.startswith("norm."):
            name = name.replace("norm.", "layernorm.")
        named[name] = value
    return named


def split_qkv(state: State, names: Sequence[str], stem: str) -> State:
    """Queries, keys and values as three tensors, called `stem` with each of the names in it."""
    named: State = {}
    for name, value in state.items():
        if ".attn.qkv." not in name:
            named[name] = value
            continue
        for part, chunk in zip(names, value.chunk(3), strict=True):
            named[name.replace("attn.qkv", stem.format(part))] = chunk.clone()
    return named


def _vit_names(model: nn.Module, more: Swaps) -> State:
    named = renamed(dict(model.state_dict()), [*VIT_NAMES, *more])
    return split_qkv(named, ("query", "key", "value"), "attention.attention.{}")


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


@original("transformers:ViT")
def hf_vit() -> Original:
    model = vit()
    pooler = {"pooler.dense.weight": torch.zeros(192, 192), "pooler.dense.bias": torch.zeros(192)}
    config = {"model_type": "vit", "num_attention_heads": 3}
    return of_vit(model, {**_vit_names(model, PLAIN_VIT), **pooler}, config=config)


@original("transformers:heads")
def hf_other_heads() -> Original:
    """Six heads where timm's architecture has three: config.json says so."""
    model = vit(num_heads=6)
    config = {"model_type": "vit_msn", "num_attention_heads": 6}
    return of_vit(model, _vit_names(model, PLAIN_VIT), forward=model, config=config)


@original("transformers:ViTMAE")
def hf_mae() -> Original:
    model = vit()
    decoder = {"decoder.mask_token": torch.zeros(1, 1, 64), "decoder.decoder_pred.weight": torch.zeros(768, 64)}
    tree = {**prefixed(_vit_names(model, PLAIN_VIT), "vit."), **decoder}
    return of_vit(model, tree, config={"model_type": "vit_mae", "num_attention_heads": 3})


@original("transformers:DINOv2")
def hf_dinov2() -> Original:
    arch, kwargs = "vit_small_patch14_reg4_dinov2", {"depth": 2, "img_size": 28}
    model = randomised(timm.create_model(arch, num_classes=0, **kwargs))
    tree = _vit_names(model, SCALED_VIT)
    of_class = torch.full_like(tree["embeddings.cls_token"], 0.25)
    tree["embeddings.cls_token"] = tree["embeddings.cls_token"] - of_class
    tree["embeddings.position_embeddings"] = torch.cat([of_class, tree["embeddings.position_embeddings"]], dim=1)
    tree["embeddings.mask_token"] = torch.zeros(1, 384)
    config = {"model_type": "dinov2_with_registers", "num_attention_heads": 6}
    return Original(tree, dict(model.state_dict()), arch, kwargs, config=config)


def _dinov3(arch: str, mlp: Swaps) -> Original:
    model = randomised(timm.create_model(arch, num_classes=0, depth=2))
    tree: State = {"embeddings.mask_token": torch.zeros(1, 1, 384)}
    swaps: Swaps = (
        ("cls_token", "embeddings.cls_token"),
        ("reg_token", "embeddings.register_tokens"),
        ("patch_embed.proj", "embeddings.patch_embeddings"),
        ("blocks.", "layer."),
        ("attn.q_bias", "attention.q_proj.bias"),
        ("attn.v_bias", "attention.v_proj.bias"),
        ("attn.proj", "attention.o_proj"),
        ("gamma_1", "layer_scale1.lambda1"),
        ("gamma_2", "layer_scale2.lambda1"),
        *mlp,
    )
    for name, value in model.state_dict().items():
        for ours, theirs in swaps:
            name = name.replace(ours, theirs)
        tree[name] = value
    tree = split_qkv(tree, "qkv", "attention.{}_proj")
    config = {"model_type": "dinov3_vit", "num_attention_heads": 6}
    return Original(tree, dict(model.state_dict()), arch, {"depth": 2}, config=config)


@original("transformers:DINOv3")
def hf_dinov3() -> Original:
    return _dinov3("vit_small_patch16_dinov3_qkvb", (("mlp.fc1", "mlp.up_proj"), ("mlp.fc2", "mlp.down_proj")))


@original("transformers:DINOv3 gated")
def hf_dinov3_gated() -> Original:
    mlp = (("mlp.fc1_g", "mlp.gate_proj"), ("mlp.fc1_x", "mlp.up_proj"), ("mlp.fc2", "mlp.down_proj"))
    return _dinov3("vit_small_plus_patch16_dinov3_qkvb", mlp)


def _resnet_name(name: str) -> str:
    if name.startswith(("conv1.", "bn1.")):
        return name.replace("conv1", "embedder.embedder.convolution").replace("bn1", "embedder.embedder.normalization")
    stage, block, rest = name.split(".", 2)
    start = f"encoder.stages.{int(stage[-1]) - 1}.layers.{block}"
    layers: dict[str, str] = {"downsample.0": "shortcut.convolution", "downsample.1": "shortcut.normalization"}
    layers |= {f"conv{i}": f"layer.{i - 1}.convolution" for i in (1, 2, 3)}
    layers |= {f"bn{i}": f"layer.{i - 1}.normalization" for i in (1, 2, 3)}
    layer, what = rest.rsplit(".", 1)
    return f"{start}.{layers[layer]}.{what}"


@original("transformers:ResNet")
def hf_resnet() -> Original:
    net = resnet()
    randomised(net)
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    tree = {f"resnet.{_resnet_name(name)}": value for name, value in state.items()}
    tree |= {"classifier.1.weight": torch.zeros(10, 512), "classifier.1.bias": torch.zeros(10)}
    config = {"model_type": "resnet", "downsample_in_bottleneck": False}
    return Original(tree, state, **RESNET, forward=features_of(net), config=config)


def _convnext(swaps: Swaps, model_type: str) -> Original:
    kwargs = {"depths": [1, 1, 2, 1]}
    model = randomised(timm.create_model("convnext_tiny", num_classes=0, **kwargs))
    tree: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        for ours, theirs in swaps:
            name = name.replace(ours, theirs)
        tree[name] = value
    state: dict[str, Any] = dict(model.state_dict())
    return Original(tree, state, "convnext_tiny", kwargs, config={"model_type": model_type})


@original("transformers:ConvNeXt")
def hf_convnext() -> Original:
    swaps = (
        ("head.norm", "layernorm"),
        (".norm.", ".layernorm."),
        ("stem.0", "embeddings.patch_embeddings"),
        ("stem.1", "embeddings.layernorm"),
        ("stages.", "encoder.stages."),
        ("downsample", "downsampling_layer"),
        ("blocks", "layers"),
        ("conv_dw", "dwconv"),
        ("mlp.fc", "pwconv"),
        ("gamma", "layer_scale_parameter"),
    )
    return _convnext(swaps, "convnext")


@original("transformers:DINOv3 ConvNeXt")
def hf_dinov3_convnext() -> Original:
    swaps = (
        ("head.norm", "layer_norm"),
        (".norm.", ".layer_norm."),
        ("stem.", "stages.0.downsample_layers."),
        ("downsample.", "downsample_layers."),
        ("blocks", "layers"),
        ("conv_dw", "depthwise_conv"),
        ("mlp.fc", "pointwise_conv"),
    )
    return _convnext(swaps, "dinov3_convnext")


__all__ = ["VIT"]
