"""Loading what a format took out of a file into timm's model: all of it, and nothing else."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from ukd import distributed
from ukd.errors import WeightsError
from ukd.formats.layout import Tensors
from ukd.formats.layouts import to_timm
from ukd.formats.matching import Match, error_of_unknown
from ukd.formats.table import OURS, PLAIN

_log = logging.getLogger(__name__)


def load(match: Match, model: nn.Module, arch: str) -> None:
    """Loads the backbone of a file strictly, and logs how it was read.

    Only the classifier's weights, if there are any, are left behind.

    Args:
        match: The file, read by its format.
        model: timm's model, without a classifier.
        arch: Its name, for messages.

    Raises:
        WeightsError: Names what is missing or unexpected, and shapes or types that differ.
    """
    if match.stored.config.get("downsample_in_bottleneck"):
        raise WeightsError(
            f"weights: {match.stored.path} halves maps in the first convolution of a block; timm does not"
        )
    wanted = model.state_dict()
    try:
        given = to_timm(match.backbone)
    except WeightsError as error:
        raise WeightsError(f"{error} (in {match.stored.path})") from None
    if match.row is PLAIN and not given.keys() & wanted.keys():
        raise WeightsError(error_of_unknown(match.stored))
    given = _resample_position(without_zero_biases(given, wanted), wanted, model)
    given |= _counters_of_old(given, wanted)
    config = cast(Any, getattr(model, "pretrained_cfg", {}))
    classifier = config.get("classifier") or "fc"  # Distilled models have two.
    classifiers = [classifier] if isinstance(classifier, str) else list(classifier)
    load_strictly(model, given, source=str(match.stored.path), arch=arch, classifiers=classifiers)
    if match.row is not OURS and distributed.is_main():
        _log.info("weights: %s read as %s (%s)", match.stored.path, match.row.title, match.row.name)


def kwargs_for(match: Match, model: nn.Module) -> dict[str, Any]:
    """Arguments that timm's model must be made with for this file, though the shape of no weight tells."""
    blocks = getattr(model, "blocks", None)
    attn = getattr(blocks[0], "attn", None) if isinstance(blocks, nn.Sequential | nn.ModuleList) else None
    kwargs: dict[str, Any] = {}
    if attn is not None and match.num_heads not in (None, attn.num_heads):
        kwargs["num_heads"] = match.num_heads
    if match.row.pools_token and isinstance(getattr(model, "cls_token", None), Tensor):
        kwargs |= {} if cast(Any, model).global_pool == "token" else {"global_pool": "token"}
    return kwargs


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], *, source: str, arch: str, classifiers: Sequence[str]
) -> None:
    """Loads a backbone's weights, every one of them; only the classifier's own are left behind.

    Args:
        model: The backbone, without a classifier.
        state: Named tensors.
        source: The file, for the message.
        arch: The architecture, for the message.
        classifiers: Names of the classifier modules whose weights the file may have beyond the backbone's.

    Raises:
        WeightsError: Names the missing and unexpected keys, and the shapes and types that differ.
    """
    wanted = model.state_dict()
    left_behind = tuple(f"{name}." for name in classifiers)
    given = {key: value for key, value in state.items() if key in wanted or not key.startswith(left_behind)}
    both = [key for key in wanted if key in given]
    problems = {
        "missing": [key for key in wanted if key not in given],
        "unexpected": [key for key in given if key not in wanted],
        "other shapes": [
            f"{key} is {list(given[key].shape)} where {list(wanted[key].shape)} is wanted"
            for key in both
            if given[key].shape != wanted[key].shape
        ],
        "other types": [
            f"{key} is {given[key].dtype}"
            for key in both
            if given[key].is_floating_point() != wanted[key].is_floating_point()
        ],
    }
    found = [f"{problem} {_some(names)}" for problem, names in problems.items() if names]
    if found:
        raise WeightsError(f"weights: {source} does not fit {arch}:\n  " + "\n  ".join(found))
    model.load_state_dict(given, strict=True)


def without_zero_biases(given: Mapping[str, Tensor], wanted: Collection[str]) -> Tensors:
    """Leaves out DINOv3's biases where they are zero and timm's model has none."""
    biases = (".attn.q_bias", ".attn.v_bias")
    return {
        name: value
        for name, value in given.items()
        if name in wanted or not name.endswith(biases) or torch.count_nonzero(value)
    }


def _counters_of_old(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensors:
    """The counters of batch norm for a file that has none: those of torch < 0.4.1 or converted from elsewhere."""
    counters = {name: value for name, value in wanted.items() if name.endswith(".num_batches_tracked")}
    return {} if given.keys() & counters.keys() else counters


def _resample_position(given: Tensors, wanted: Mapping[str, Tensor], model: nn.Module) -> Tensors:
    """Resamples the position embeddings of a ViT where its grid is another one."""
    here, there = wanted.get("pos_embed"), given.get("pos_embed")
    if here is None or there is None or here.shape == there.shape or there.ndim != 3:
        return given
    in_prefix = 0 if getattr(model, "no_embed_class", False) else int(cast(Any, getattr(model, "num_prefix_tokens", 1)))
    side = math.isqrt(max(there.shape[1] - in_prefix, 0))
    if side * side != there.shape[1] - in_prefix or side == 0 or there.shape[::2] != here.shape[::2]:
        return given  # No square grid, or another width: loading says so.
    grid: tuple[int, int] = cast(Any, model.patch_embed).grid_size
    if distributed.is_main():
        _log.info("weights: position embeddings resampled from %dx%d to %dx%d patches", side, side, *grid)
    resampled = resample_abs_pos_embed(there, list(grid), [side, side], num_prefix_tokens=in_prefix)
    return {**given, "pos_embed": resampled}


def _some(names: list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"({len(names)}): {shown}" + (", ..." if len(names) > most else "")
