"""Projection heads, rebuilt from their tensors: SEED, DisCo and BINGO distil the space that these map to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from ukd.errors import WeightsError
from ukd.formats.matching import Match
from ukd.formats.row import Head


def build_head(match: Match, dim: int, arch: str) -> nn.Sequential:
    """Rebuilds the projection head of a file: pooled features [B, dim] to projections [B, D], not normalised.

    What comes after the last of its layers in the official code, a normalisation or prototypes, is not part of it.

    Args:
        match: The file, read by its format.
        dim: Width of what the backbone gives.
        arch: Its name, for messages.

    Raises:
        WeightsError: The file has no head, one that is no MLP, or one that takes something else.
    """
    where = f"{match.stored.path} ({match.row.name})"
    if match.head is None or not match.head_tensors:
        kept = " or ".join(head.prefix for head in match.row.heads)
        said = f"; the format keeps it under {kept}" if kept else ""
        raise WeightsError(f"features: {where} has no projection head{said}; choose features: pooled")
    try:
        head = sequential(match.head_tensors, match.head)
    except (ValueError, KeyError, RuntimeError) as error:
        name = match.head.prefix.rstrip(".")
        raise WeightsError(f"features: the head {name} of {where} is no plain MLP ({error})") from None
    taken = int(cast(Any, head[0]).in_features if isinstance(head[0], nn.Linear) else cast(Any, head[0]).num_features)
    if taken != dim:
        raise WeightsError(f"features: the head of {where} takes {taken} numbers, and {arch} gives {dim}")
    return head


def output_dim(head: nn.Sequential) -> int:
    """Width of its projections: that of its last layer which has one."""
    widths = (getattr(layer, "out_features", getattr(layer, "num_features", None)) for layer in reversed(head))
    return next(int(width) for width in widths if width is not None)


def sequential(tensors: Mapping[str, Tensor], head: Head) -> nn.Sequential:
    """Builds the layers that the numbers and shapes of tensors tell, with an activation in each gap, and loads them.

    Raises:
        ValueError: A name or shape that no linear layer or batch norm has.
    """
    by_layer: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        layer, _, what = name.rpartition(".")
        by_layer.setdefault(_number(layer, head), {})[what] = value
    layers: list[nn.Module] = []
    before = -1
    for number, own in sorted(by_layer.items()):
        if layers and number > before + 1:
            layers.append(head.activation())
        layers.append(_layer(own))
        before = number
    return nn.Sequential(*layers).requires_grad_(False)


def _number(layer: str, head: Head) -> int:
    if head.order:
        return head.order.index(layer)
    return int(layer or 0)  # A single linear layer has no number.


def _layer(own: Mapping[str, Tensor]) -> nn.Module:
    layer: nn.Module
    if "running_mean" in own:
        layer = nn.BatchNorm1d(len(own["running_mean"]), affine="weight" in own)
    else:
        out_features, in_features = own["weight"].shape
        layer = nn.Linear(in_features, out_features, bias="bias" in own)
    layer.load_state_dict({**layer.state_dict(), **own}, strict=True)
    return layer
