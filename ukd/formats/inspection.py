"""What can be said of a file of weights before anything is built from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from ukd.formats.fitting import without_zero_biases
from ukd.formats.heads import sequential
from ukd.formats.layouts import layout_of, to_timm
from ukd.formats.matching import Match, match
from ukd.formats.reading import find_weights, read
from ukd.formats.table import PLAIN

ARCHS = {
    "layer1.0.conv1.weight": (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d"),
    ),
    "blocks.0.attn.qkv.weight": (
        *(f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
        *(f"vit_{size}_patch8_224" for size in ("small", "base")),
        *("vit_small_patch32_224", "vit_base_patch32_224", "vit_large_patch14_224", "vit_huge_patch14_224"),
        *(f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large", "giant")),
        *(f"vit_{size}_patch14_reg4_dinov2" for size in ("small", "base", "large", "giant")),
        *(f"vit_{size}_patch16_dinov3_qkvb" for size in ("small", "small_plus", "base", "large", "huge_plus")),
        *(f"vit_{size}_patch16_dinov3" for size in ("small", "small_plus", "base", "large", "huge_plus", "7b")),
    ),
    "stages.0.blocks.0.conv_dw.weight": tuple(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    "conv_stem.weight": (
        *("mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100"),
        *("efficientnet_b0", "efficientnet_b1"),
    ),
}
"""Architectures that a guess is made among, by a name that each of their kind has."""


def describe(path: str, format: str | None = None) -> dict[str, str]:
    """Describes a file of weights in a few words each.

    Raises:
        WeightsError: It is not safe to load, damaged, or not of that format.
    """
    found = match(read(find_weights(path)), format)
    layout = layout_of(found.backbone)
    arch = found.stored.info.get("arch") or guess_arch(to_timm(found.backbone))
    size = found.stored.path.stat().st_size
    names = ", ".join(list(found.backbone)[:2])
    return {
        "file": f"{found.stored.path}, {size / 1e6:,.1f} MB",
        "safe": "yes, tensors and plain values alone; no code was run",
        "format": _format(found) + (f", in the names of {layout.title}" if layout else ""),
        **_training(found),
        "arch": arch or f"none that is known by its shapes ({names}, ...); say timm's name yourself",
        "parameters": f"{num_parameters(found.backbone):,} in the backbone",
        "pixels": _pixels(found),
        "head": _head(found),
        "dtype": ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in _learnt(found.backbone)})),
        "recipe": f"teacher: {{arch: {arch or 'NAME'}, weights: {Path(path)}, format: {found.row.name}}}",
    }


def guess_arch(given: Mapping[str, Tensor]) -> str | None:
    """The timm architecture whose tensors have these names and shapes, position embeddings of any grid; None for none.

    Heads of attention, strides and activations leave no trace in shapes, so that it is a guess.
    """
    for mark, archs in ARCHS.items():
        if mark in given:
            return next((arch for arch in archs if _has_shapes(arch, given)), None)
    return None


def num_parameters(tensors: Mapping[str, Tensor]) -> int:
    """Parameters among tensors: statistics of batch norm are none."""
    return sum(value.numel() for value in _learnt(tensors))


def _learnt(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return [value for name, value in tensors.items() if not name.endswith(statistics)]


def _has_shapes(arch: str, given: Mapping[str, Tensor]) -> bool:
    with torch.device("meta"):
        model = timm.create_model(arch, num_classes=0)
    classifier = f"{cast(Any, model.pretrained_cfg)['classifier']}."
    wanted = {name: value.shape for name, value in model.state_dict().items() if _counts(name)}
    shapes = {
        name: value.shape
        for name, value in without_zero_biases(given, wanted).items()
        if _counts(name) and (name in wanted or not name.startswith(classifier))
    }
    for each in (wanted, shapes):
        if "pos_embed" in each:
            each["pos_embed"] = each["pos_embed"][::2]
    return wanted == shapes


def _counts(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


def _format(found: Match) -> str:
    if found.row is PLAIN and not any(mark in found.backbone for mark in ARCHS):
        return f"none that is known; taken for {PLAIN.title} ({PLAIN.name})"
    return f"{found.row.title} ({found.row.name})"


def _training(found: Match) -> dict[str, str]:
    """How a run of ours came by it."""
    facts = found.stored.info.get("provenance", {})
    if not {"objective", "data", "step"} <= facts.keys():
        return {}
    objective = " + ".join(each["name"] for each in facts["objective"])
    return {"trained": f"{facts['step']:,} steps of {objective} on {facts['data']['train']}"}


def _pixels(found: Match) -> str:
    """How pixels are normalised."""
    info = found.stored.info
    mean, std = info.get("mean") or found.mean, info.get("std") or found.std
    if not (mean and std):
        return "normalised as timm does for the architecture; the file does not say"
    return f"normalised by mean {', '.join(f'{x:g}' for x in mean)} and std {', '.join(f'{x:g}' for x in std)}"


def _head(found: Match) -> str:
    if found.head is None:
        return "none"
    try:
        layers = sequential(found.head_tensors, found.head)
    except (ValueError, KeyError, RuntimeError):
        return f"{found.head.prefix}*, which is no plain MLP"
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    widths = [linear[0].in_features, *(layer.out_features for layer in linear)] if linear else []
    return f"{found.head.prefix}*, {' to '.join(map(str, widths))} (features: head)"
