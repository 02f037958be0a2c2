"""Feature kinds: what of a backbone's output one row of features is made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ukd.backbones import Backbone
from ukd.errors import UserError
from ukd.features import Features, Wanted


class _Parts(NamedTuple):
    """Class tokens of the last `num_cls` blocks, oldest first, then perhaps the mean over the last block's patches."""

    num_cls: int
    mean: bool


POOLED = "pooled"
KINDS: dict[str, _Parts] = {
    POOLED: _Parts(0, False),  # Has no parts: it is the model's own choice.
    "cls": _Parts(1, False),
    "avg": _Parts(0, True),
    "cls+avg": _Parts(1, True),
    "last4": _Parts(4, False),
    "last4+avg": _Parts(4, True),
}
"""`last4` is DINO's linear probe of a ViT-S (facebookresearch/dino:eval_linear.py); `cls+avg` and `last4+avg` are
DINOv2's (facebookresearch/dinov2:dinov2/eval/linear.py, `n_last_blocks` 1 and 4 with `avgpool`)."""


def embed_views(backbone: Backbone, views: Tensor, kind: str) -> Tensor:
    """Turns views into one row of features each.

    Args:
        backbone: One that has this kind; `width_of` makes sure.
        views: [B, 3, H, W], RGB in [0, 1] and not normalised.
        kind: One of KINDS.

    Returns:
        fp32 [B, D], not normalised to length 1.
    """
    rows = _rows(backbone(views, _wanted(kind)), kind)
    assert rows is not None
    return rows.float()


@torch.no_grad()
def width_of(backbone: Backbone, kind: str, size_px: int) -> int:
    """Finds how wide rows of a kind are, by showing the backbone one black view; it must be in evaluation mode.

    Raises:
        UserError: The backbone does not have this kind.
    """
    if kind == POOLED:
        return backbone.dim
    view = torch.zeros(1, 3, size_px, size_px, device=backbone.mean.device, dtype=backbone.mean.dtype)
    features = backbone(view, Wanted(blocks=max(parts.num_cls for parts in KINDS.values())))
    rows = _rows(features, kind)
    if rows is None:
        had = [name for name in KINDS if _rows(features, name) is not None]
        raise UserError(f"features: {backbone.info.arch} has no {kind}; it has {', '.join(had)}")
    return rows.shape[1]


def _wanted(kind: str) -> Wanted:
    return Wanted(blocks=0 if kind == POOLED else max(1, KINDS[kind].num_cls))


def _rows(features: Features, kind: str) -> Tensor | None:
    """Rows of a kind, or None where a class token or a block is missing."""
    if kind == POOLED:
        return features.pooled
    num_cls, mean = KINDS[kind]
    blocks = features.blocks[len(features.blocks) - num_cls :] if num_cls else ()
    tokens = [block.cls for block in blocks if block.cls is not None]
    if len(features.blocks) < max(1, num_cls) or len(tokens) < num_cls:
        return None
    return torch.cat([*tokens, *([features.blocks[-1].mean] if mean else [])], dim=1)
