"""Building backbones and frozen teachers: an architecture by name, and its weights from anywhere."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from ukd.errors import WeightsError
from ukd.formats import build_head, find_weights, kwargs_for, load, match, read
from ukd.internals import shape_of
from ukd.networks import RGB, Backbone, BackboneInfo
from ukd.teacher import Teacher

__all__ = ["Backbone", "BackboneInfo", "Teacher", "build_backbone", "open_backbone"]


def build_backbone(
    *,
    arch: str | None = None,
    weights: str | None = None,
    format: str | None = None,
    features: Literal["pooled", "head"] = "pooled",
    pretrained: bool = False,
    kwargs: dict[str, Any] | None = None,
    input_px: int | None = None,
    mean: RGB | None = None,
    std: RGB | None = None,
    size_px: int | None = None,
    crop_pct: float | None = None,
    frozen: bool = False,
    seed: int = 0,
) -> Backbone:
    """Builds a timm model and loads its weights; what is left out comes from the weights' own JSON, then from timm.

    Args:
        arch: timm name; `hf-hub:` and `local-dir:` as timm spells them.
        weights: A file of weights, a run folder or a transformers directory.
        format: Which format the file is; found where it is left out.
        features: `head` for what the projection head in the file makes of the pooled feature; teachers only.
        pretrained: Take timm's own weights.
        kwargs: Further arguments of `timm.create_model`.
        input_px: Side the views are resized to.
        mean: Normalisation mean.
        std: Normalisation standard deviation.
        size_px: Side of the evaluation image.
        crop_pct: Its centre crop.
        frozen: Build a Teacher.
        seed: Random weights are those of this seed.

    Raises:
        WeightsError: Unknown architecture, or weights that cannot be had or do not fit.
    """
    found = match(read(find_weights(weights)), format) if weights else None
    stored = found.stored.info if found else {}
    arch = arch or stored.get("arch")
    if arch is None:
        raise WeightsError(
            f"weights: {weights} does not say its architecture; give `arch`, a timm name, in the recipe, or in a file "
            f'beside it with the ending .json: {{"arch": "resnet18"}}; `ukd-teacher inspect` guesses it'
        )
    if features == "head" and not (found and frozen):
        raise WeightsError("features: a projection head is used of a teacher's weights only; choose features: pooled")
    if kwargs is None or (not kwargs and arch == stored.get("arch")):
        kwargs = dict(stored.get("kwargs", {}))
    model = _create(arch, pretrained, kwargs, seed)
    if found:
        asked = kwargs_for(found, model) | kwargs
        if asked != kwargs:
            kwargs, model = asked, _create(arch, pretrained, asked, seed)
        load(found, model, arch)
    config = getattr(model, "pretrained_cfg", {})
    info = BackboneInfo(
        arch=arch,
        kwargs=kwargs,
        input_px=input_px or stored.get("input_px") or _fixed_input_px(model, config),
        mean=_rgb(mean or stored.get("mean") or (found and found.mean) or config.get("mean") or IMAGENET_DEFAULT_MEAN),
        std=_rgb(std or stored.get("std") or (found and found.std) or config.get("std") or IMAGENET_DEFAULT_STD),
        size_px=size_px or stored.get("size_px") or (config["input_size"][-1] if pretrained else 224),
        crop_pct=crop_pct or stored.get("crop_pct") or (config["crop_pct"] if pretrained else 0.875),
    )
    if not frozen:
        return Backbone(model, info)
    head = build_head(found, shape_of(model, arch).pooled, arch) if found and features == "head" else None
    return Teacher(model, info, head)


def open_backbone(checkpoint: str) -> Backbone:
    """Opens a frozen backbone for evaluation: a run folder, a file of ours with its .json, or `timm:NAME`.

    Raises:
        WeightsError: Nothing there, no architecture known, or weights that do not fit.
    """
    if not checkpoint.startswith("timm:"):
        return build_backbone(weights=checkpoint, frozen=True)
    return build_backbone(arch=checkpoint.removeprefix("timm:"), pretrained=True, frozen=True)


def _create(arch: str, pretrained: bool, kwargs: dict[str, Any], seed: int) -> nn.Module:
    bare = arch.split(".")[0]
    if ":" not in arch and not timm.is_model(bare):
        near = difflib.get_close_matches(bare, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise WeightsError(f"arch: timm {timm.__version__} has no model {arch!r}{hint}")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return timm.create_model(arch, pretrained=pretrained, num_classes=0, **kwargs)
    except (TypeError, AssertionError) as error:
        raise WeightsError(f"arch: timm cannot build {arch} with {kwargs}: {error}") from None
    except (RuntimeError, OSError, ValueError) as error:
        hint = "; `weights: FILE` takes a local file instead" if pretrained else ""
        raise WeightsError(f"arch: timm cannot build {arch}: {str(error).splitlines()[0]}{hint}") from None


def _fixed_input_px(model: nn.Module, config: Mapping[str, Any]) -> int | None:
    """Side of the only input that the model takes; None for one that takes any."""
    patch_size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if patch_size:
        return int(patch_size[0])
    return int(config["input_size"][-1]) if config.get("fixed_input_size") else None


def _rgb(values: Any) -> RGB:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
