"""Inside a timm model: its tokens, its class token's attention, its blocks, and patches hidden from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from ukd.errors import UserError
from ukd.features import NOTHING_MORE, Block, Features, Masking, Shape, Wanted


def shape_of(model: nn.Module, arch: str) -> Shape:
    """The widths of what a timm model gives, without running it."""
    num_features = cast(int, model.num_features)
    attn = _last_attention(model)
    return Shape(
        arch=arch,
        # timm counts a head's hidden layer apart.
        pooled=int(cast(int, getattr(model, "head_hidden_size", None) or num_features)),
        tokens=int(num_features),
        heads=attn.num_heads if attn is not None and _has_class_token(model) else None,
        blocks=tuple(int(info["num_chs"]) for info in cast(Any, getattr(model, "feature_info", None)) or ()),
        maskable=_is_maskable(model),
    )


def run(model: nn.Module, arch: str, x: Tensor, wanted: Wanted, masking: Masking | None = None) -> Features:
    """Runs a timm model once for all that is wanted of it.

    Args:
        model: A timm model without a classifier.
        arch: Its name, for messages.
        x: [B, 3, H, W], normalised views.
        wanted: What to give beside the pooled feature.
        masking: Hide patches.

    Raises:
        UserError: The model has no such thing to give.
    """
    if wanted == NOTHING_MORE and masking is None:
        return Features(pooled=model(x))
    attention: list[Tensor] = []
    masks: list[Tensor] = []
    with _watch_attention(model, arch, wanted.attention, attention), _hide_patches(model, arch, masking, masks):
        final, blocks = _forward(model, arch, x, wanted.blocks)
    tokens, grid = _tokens(model, arch, final, x) if wanted.tokens else (None, None)
    pooled = cast(Any, model).forward_head(final)
    return Features(
        pooled=pooled,
        tokens=tokens,
        grid=grid,
        attention=attention[0] if attention else None,
        blocks=blocks,
        mask=masks[0] if masks else None,
    )


def _forward(model: Any, arch: str, x: Tensor, num_blocks: int) -> tuple[Tensor, tuple[Block, ...]]:
    """What `forward_features` gives, and the last blocks on the way to it."""
    if num_blocks == 0:
        return model.forward_features(x), ()
    if not hasattr(model, "forward_intermediates"):
        raise UserError(f"{arch}: timm does not give this model's blocks; choose a ResNet, a ConvNeXt or a ViT")
    num_blocks = min(num_blocks, len(model.feature_info))
    if not hasattr(model, "num_prefix_tokens"):
        final, maps = model.forward_intermediates(x, indices=num_blocks, output_fmt="NCHW")
        return final, tuple(Block(cls=None, mean=each.mean((2, 3))) for each in maps)
    final, found = model.forward_intermediates(
        x, indices=num_blocks, norm=True, output_fmt="NLC", return_prefix_tokens=model.num_prefix_tokens > 0
    )
    if model.num_prefix_tokens == 0:
        return final, tuple(Block(cls=None, mean=patches.mean(1)) for patches in found)
    has_class_token = _has_class_token(model)
    return final, tuple(
        Block(cls=prefix[:, 0] if has_class_token else None, mean=patches.mean(1)) for patches, prefix in found
    )


def _tokens(model: nn.Module, arch: str, final: Tensor, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Patch tokens or map cells [B, h * w, D] of the last layer, and (h, w)."""
    if final.ndim == 4:
        if getattr(model, "output_fmt", "NCHW") == "NCHW":
            final = final.permute(0, 2, 3, 1)
        return final.flatten(1, 2), (final.shape[1], final.shape[2])
    patches = final[:, getattr(model, "num_prefix_tokens", 0) :] if final.ndim == 3 else final[:, :0]
    aspect = x.shape[-2] / x.shape[-1]
    height = round((patches.shape[1] * aspect) ** 0.5) if final.ndim == 3 else 0
    if height == 0 or patches.shape[1] % height:
        raise UserError(f"{arch}: the last layer has no grid of tokens or map cells; choose a CNN or a ViT")
    return patches, (height, patches.shape[1] // height)


def _has_class_token(model: nn.Module) -> bool:
    return getattr(model, "cls_token", None) is not None


def _is_maskable(model: nn.Module) -> bool:
    """Whether it embeds patches and mixes them only afterwards."""
    return hasattr(model, "num_prefix_tokens") and isinstance(getattr(model, "patch_embed", None), nn.Module)


def _last_attention(model: nn.Module) -> Attention | None:
    """The last block's attention, if it is timm's plain one, whose weights follow from its input alone."""
    blocks = getattr(model, "blocks", None)
    attn = getattr(blocks[-1], "attn", None) if isinstance(blocks, nn.Sequential | nn.ModuleList) else None
    return attn if type(attn) is Attention else None


@contextmanager
def _watch_attention(model: nn.Module, arch: str, wanted: bool, found: list[Tensor]) -> Iterator[None]:
    """Puts the class token's attention in the last block into `found` while the model runs."""
    if not wanted:
        yield
        return
    attn = _last_attention(model)
    if attn is None or not _has_class_token(model):
        raise UserError(
            f"{arch}: no class token attends to patches in its last block; choose a plain ViT, such as "
            "vit_small_patch16_224"
        )
    num_special = cast(int, model.num_prefix_tokens) - 1

    def watch(module: Attention, inputs: tuple[Tensor, ...]) -> None:
        found.append(_class_attention(module, inputs[0], num_special))

    handle = attn.register_forward_pre_hook(watch)
    try:
        yield
    finally:
        handle.remove()


def _class_attention(attn: Attention, x: Tensor, num_special: int) -> Tensor:
    """Attention weights of the class token, [B, H, 1 + N]; one row, so that the block itself may stay fused.

    Args:
        attn: The attention.
        x: [B, 1 + num_special + N, D], its input.
        num_special: Tokens between the class token and the patches, such as registers.
    """
    batch, num_tokens, _ = x.shape
    qkv = attn.qkv(x).reshape(batch, num_tokens, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    query, key = attn.q_norm(qkv[0][:, :, :1]), attn.k_norm(qkv[1])
    key = torch.cat([key[:, :, :1], key[:, :, 1 + num_special :]], dim=2)
    with torch.autocast(x.device.type, enabled=False):
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        logits = query.to(dtype) @ key.to(dtype).transpose(-2, -1) * attn.scale
        weights: Tensor = logits.softmax(-1)
    return weights[:, :, 0]


@contextmanager
def _hide_patches(model: nn.Module, arch: str, masking: Masking | None, masks: list[Tensor]) -> Iterator[None]:
    """Replaces the embeddings of random patches while the model runs, and puts which ones into `masks`."""
    if masking is None:
        yield
        return
    if not _is_maskable(model):
        raise UserError(f"{arch}: patches can be hidden from a ViT only; choose one, or leave the masked term out")

    def hide(module: nn.Module, inputs: tuple[Tensor, ...], patches: Tensor) -> Tensor:
        flat = patches.flatten(1, -2)  # [B, N, D], or [B, h, w, D] where the model takes any size.
        mask = draw_mask(len(flat), flat.shape[1], masking.prob, masking.share, flat.device)
        masks.append(mask)
        hidden = torch.where(mask[..., None], masking.token.to(flat.dtype), flat)
        return hidden.view_as(patches)

    handle = cast(nn.Module, model.patch_embed).register_forward_hook(hide)
    try:
        yield
    finally:
        handle.remove()


def draw_mask(num_images: int, num_patches: int, prob: float, share: float, device: torch.device) -> Tensor:
    """Draws which patches are hidden, from torch's global generator.

    Returns:
        bool [num_images, num_patches]: with probability `prob` round(share * num_patches) of an image's patches,
        else none.
    """
    ranks = torch.rand(num_images, num_patches, device=device).argsort(1)
    chosen = torch.rand(num_images, 1, device=device) < prob
    return (ranks < round(share * num_patches)) & chosen
