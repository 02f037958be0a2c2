"""The layouts: names of other implementations and what timm calls the same tensors.

A layout is found by names that only it has. Names that no layout knows are taken for timm's, which a torchvision ResNet
and the ViTs of DINO, iBOT, MAE, MSN and MoCo v3 share. What each implementation calls its tensors was read in its own
code, at the places that the rows of the table name.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

from torch import Tensor

from ukd.formats.layout import Layout, Rename, Tensors, add_position_of_class_token, split_bias
from ukd.formats.row import fits

_MOBILENET_STARTS = tuple(accumulate((1, 2, 3, 4, 3, 3, 1), initial=1))
"""Number of the first block of each stage of MobileNetV2 (arXiv:1801.04381, table 2)."""


def to_timm(tensors: Mapping[str, Tensor]) -> Tensors:
    """Gives tensors the names that timm's model has; as `Layout.apply`."""
    layout = layout_of(tensors)
    return layout.apply(tensors) if layout else dict(tensors)


def layout_of(tensors: Mapping[str, Tensor]) -> Layout | None:
    """The layout of these names, None for timm's own."""
    return next((layout for layout in LAYOUTS if any(fits(name, layout.mark) for name in tensors)), None)


def _mobilenet_blocks(first: Mapping[str, str], others: Mapping[str, str]) -> Rename:
    """Renames blocks numbered throughout; `first` and `others` say which layer stands at which place of a block."""

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        stage = bisect_right(_MOBILENET_STARTS, number) - 1
        layer = (first if number == 1 else others).get(match[2], match[2])
        return f"blocks.{stage}.{number - _MOBILENET_STARTS[stage]}.{layer}."

    return r"^features\.(\d+)\.conv\.(\d\.\d|\d)\.", place


def _mobilenet(title: str, mark: str, blocks: Rename) -> Layout:
    ends = (
        (r"^features\.0\.0\.", "conv_stem."),
        (r"^features\.0\.1\.", "bn1."),
        (r"^features\.18\.0\.", "conv_head."),
        (r"^features\.18\.1\.", "bn2."),
    )
    return Layout(title, mark, (blocks, *ends), drops="classifier.*|fc.*")


def _transformers_dinov3(gated: bool) -> Layout:
    up = "fc1_x" if gated else "fc1"
    return Layout(
        "transformers' gated DINOv3 ViT" if gated else "transformers' DINOv3 ViT",
        "layer.*.mlp.gate_proj.weight" if gated else "layer.*.attention.q_proj.weight",
        (
            (r"^embeddings\.(cls_token)", r"\1"),
            (r"^embeddings\.register_tokens", "reg_token"),
            (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
            (r"^layer\.", "blocks."),
            (r"\.attention\.([qv])_proj\.bias$", r".attn.\1_bias"),
            (r"\.attention\.o_proj\.", ".attn.proj."),
            (r"\.layer_scale(\d)\.lambda1$", r".gamma_\1"),
            (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
            (r"\.mlp\.up_proj\.", f".mlp.{up}."),
            (r"\.mlp\.down_proj\.", ".mlp.fc2."),
        ),
        drops="embeddings.mask_token",
        joins=r"layer\.(\d+)\.attention\.(?P<part>[qkv])_proj\.weight",
        joined=r"blocks.\g<1>.attn.qkv.weight",
        parts=("q", "k", "v"),
    )


LAYOUTS = (
    Layout(
        "DINOv3 ViT",
        "storage_tokens|rope_embed.periods",
        (
            (r"^storage_tokens$", "reg_token"),
            (r"\.ls(\d)\.gamma$", r".gamma_\1"),
            (r"\.mlp\.w1\.", ".mlp.fc1_g."),
            (r"\.mlp\.w2\.", ".mlp.fc1_x."),
            (r"\.mlp\.w3\.", ".mlp.fc2."),
        ),
        drops="rope_embed.periods|mask_token|*.bias_mask|local_cls_norm.*",
        convert=split_bias,
    ),
    Layout(
        "DINOv2 ViT",
        "mask_token|register_tokens|blocks.*.mlp.w12.weight",
        (
            (r"^register_tokens$", "reg_token"),
            (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # Blocks in chunks keep their own numbers.
            (r"\.mlp\.w12\.", ".mlp.fc1."),
            (r"\.mlp\.w3\.", ".mlp.fc2."),
        ),
        drops="mask_token",
        convert=add_position_of_class_token,
    ),
    Layout(
        "the first ConvNeXt",
        "downsample_layers.*",
        (
            (r"^downsample_layers\.0\.", "stem."),
            (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
            (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"\.dwconv\.", ".conv_dw."),
            (r"\.pwconv(\d)\.", r".mlp.fc\1."),
            (r"^norm\.", "head.norm."),
        ),
        drops="norms.*|head.*",
    ),
    Layout(
        "the children of a torchvision ResNet",
        "4.*.conv1.weight",
        (
            (r"^0\.", "conv1."),
            (r"^1\.", "bn1."),
            (r"^([4-7])\.", lambda match: f"layer{int(match[1]) - 3}."),
        ),
    ),
    Layout(
        "torchvision's ViT",
        "encoder.layers.encoder_layer_*",
        (
            (r"^class_token$", "cls_token"),
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^encoder\.pos_embedding$", "pos_embed"),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"\.ln_(\d)\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", ".attn.qkv."),
            (r"\.self_attention\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
            (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
            (r"^encoder\.ln\.", "norm."),
        ),
        drops="heads.*",
    ),
    Layout("VISSL's ViT", "pos_embedding", ((r"^class_token$", "cls_token"), (r"^pos_embedding$", "pos_embed"))),
    _mobilenet(
        "the first port of MobileNetV2",
        "features.*.conv.6.weight",
        _mobilenet_blocks(
            {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"},
            {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"},
        ),
    ),
    _mobilenet(
        "torchvision's MobileNetV2",
        "features.*.conv.0.0.weight",
        _mobilenet_blocks(
            {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"},
            {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"},
        ),
    ),
    Layout(
        "MMClassification's ViT",
        "layers.*.ffn.layers.0.0.weight",
        (
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.", "blocks."),
            (r"(^blocks\.\d+)\.ln(\d)\.", r"\1.norm\2."),
            (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
            (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
            (r"^(?:ln1|norm1)\.", "norm."),
        ),
    ),
    Layout(
        "transformers' ViT or DINOv2",
        "encoder.layer.*.attention.attention.*",
        (
            (r"^embeddings\.(cls_token)", r"\1"),
            (r"^embeddings\.position_embeddings", "pos_embed"),
            (r"^embeddings\.register_tokens", "reg_token"),
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^encoder\.layer\.", "blocks."),
            (r"\.attention\.output\.dense\.", ".attn.proj."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"\.output\.dense\.", ".mlp.fc2."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
            (r"\.mlp\.weights_in\.", ".mlp.fc1."),
            (r"\.mlp\.weights_out\.", ".mlp.fc2."),
            (r"^layernorm\.", "norm."),
        ),
        drops="embeddings.mask_token",
        joins=r"encoder\.layer\.(\d+)\.attention\.attention\.(?P<part>query|key|value)\.(weight|bias)",
        joined=r"blocks.\g<1>.attn.qkv.\g<3>",
        parts=("query", "key", "value"),
        convert=add_position_of_class_token,
    ),
    _transformers_dinov3(gated=True),
    _transformers_dinov3(gated=False),
    Layout(
        "transformers' ResNet",
        "encoder.stages.*.layers.*.layer.*.convolution.weight",
        (
            (r"^embedder\.embedder\.convolution\.", "conv1."),
            (r"^embedder\.embedder\.normalization\.", "bn1."),
            (r"^encoder\.stages\.(\d)\.layers\.", lambda match: f"layer{int(match[1]) + 1}."),
            (r"\.layer\.(\d)\.convolution\.", lambda match: f".conv{int(match[1]) + 1}."),
            (r"\.layer\.(\d)\.normalization\.", lambda match: f".bn{int(match[1]) + 1}."),
            (r"\.shortcut\.convolution\.", ".downsample.0."),
            (r"\.shortcut\.normalization\.", ".downsample.1."),
        ),
    ),
    Layout(
        "transformers' ConvNeXt",
        "encoder.stages.*.layers.*.dwconv.weight",
        (
            (r"^embeddings\.patch_embeddings\.", "stem.0."),
            (r"^embeddings\.layernorm\.", "stem.1."),
            (r"^encoder\.stages\.(\d)\.downsampling_layer\.", r"stages.\1.downsample."),
            (r"^encoder\.stages\.(\d)\.layers\.", r"stages.\1.blocks."),
            (r"\.dwconv\.", ".conv_dw."),
            (r"\.pwconv(\d)\.", r".mlp.fc\1."),
            (r"\.layer_scale_parameter$", ".gamma"),
            (r"\.layernorm\.", ".norm."),
            (r"^layernorm\.", "head.norm."),
        ),
    ),
    Layout(
        "transformers' DINOv3 ConvNeXt",
        "stages.*.layers.*.depthwise_conv.weight",
        (
            (r"^stages\.0\.downsample_layers\.", "stem."),
            (r"^stages\.(\d)\.downsample_layers\.", r"stages.\1.downsample."),
            (r"^stages\.(\d)\.layers\.", r"stages.\1.blocks."),
            (r"\.depthwise_conv\.", ".conv_dw."),
            (r"\.pointwise_conv(\d)\.", r".mlp.fc\1."),
            (r"\.layer_norm\.", ".norm."),
            (r"^layer_norm\.", "head.norm."),
        ),
    ),
)
"""In the order in which they are looked for."""
