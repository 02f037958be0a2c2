"""What a backbone gives for a batch of views, and what can be asked of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """What is asked of a backbone beside its pooled feature.

    Attributes:
        tokens: The patch tokens, or the cells of a map.
        attention: The last block's attention of the class token.
        blocks: How many of the last blocks, or stages, are asked for; more than there are means all.
    """

    tokens: bool = False
    attention: bool = False
    blocks: int = 0

    def __or__(self, other: Wanted) -> Wanted:
        """What serves both."""
        return Wanted(self.tokens or other.tokens, self.attention or other.attention, max(self.blocks, other.blocks))


NOTHING_MORE = Wanted()


@dataclass(frozen=True)
class Masking:
    """How patches are hidden from a student: their embeddings are replaced before the first block.

    Attributes:
        token: [D], the embedding that stands in their place.
        prob: Probability that an image is masked at all.
        share: Share of a masked image's patches that are hidden.
    """

    token: Tensor
    prob: float
    share: float


class Block(NamedTuple):
    """What one block of a ViT, or one stage of a CNN, gives."""

    cls: Tensor | None
    """[B, D], the class token; None for a model without one."""
    mean: Tensor
    """[B, D], the mean over patch tokens or map cells."""


@dataclass(frozen=True)
class Features:
    """The output of one backbone for one view of B images; nothing here is normalised to length 1.

    Attributes:
        pooled: [B, D], what `timm.create_model(arch, num_classes=0)` returns.
        tokens: [B, h * w, D'], patch tokens or map cells, row by row, after the model's last norm; if asked for.
        grid: (h, w), how the tokens lie in the view; with tokens.
        attention: [B, H, 1 + h * w], by head the last block's attention of the class token to itself and to every
            patch, summing to 1; other special tokens are left out. If asked for.
        blocks: The last blocks, the last one last; those of a ViT after its last norm. As many as asked for.
        mask: bool [B, h * w], which patches were hidden; with `Masking`.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    grid: tuple[int, int] | None = None
    attention: Tensor | None = None
    blocks: tuple[Block, ...] = ()
    mask: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Features:
        """The same on another device, a GPU without waiting for it, and in another dtype if one is given."""
        waits = device.type == "cpu"  # Else the numbers are read before they are there.

        def moved(found: list[Tensor]) -> Tensor:
            (x,) = found
            return x.to(device, dtype if x.is_floating_point() else None, non_blocking=not waits)

        return _made_of([self], moved)


@dataclass(frozen=True)
class Shape:
    """The widths of a backbone's features.

    Attributes:
        arch: Its timm name.
        pooled: Width of the pooled feature.
        tokens: Width of a token, or of a map's cell.
        heads: Heads of the last block's attention; None where no class token attends to patches.
        blocks: Width of each block or stage, the last one last.
        maskable: Whether patches can be hidden from it.
    """

    arch: str
    pooled: int
    tokens: int
    heads: int | None = None
    blocks: tuple[int, ...] = ()
    maskable: bool = False


def split(features: Features, sizes: Sequence[int]) -> list[Features]:
    """Cuts the features of several views that passed a backbone together, each of so many images, apart again."""
    ends = itertools.accumulate(sizes)
    return [_rows(features, slice(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


def join(parts: Sequence[Features]) -> Features:
    """Puts the features of parts of a batch, each of the same kinds, one after the other."""
    return parts[0] if len(parts) == 1 else _made_of(parts, torch.cat)


def _rows(features: Features, rows: slice) -> Features:
    return _made_of([features], lambda x: x[0][rows])


def _made_of(parts: Sequence[Features], make: Callable[[list[Tensor]], Tensor]) -> Features:
    """Features each of whose tensors is made of those that stand in its place in the given ones."""

    def made(found: list[Tensor | None]) -> Tensor | None:
        there = [each for each in found if each is not None]
        return make(there) if there else None

    first = parts[0]
    return Features(
        pooled=make([each.pooled for each in parts]),
        tokens=made([each.tokens for each in parts]),
        grid=first.grid,
        attention=made([each.attention for each in parts]),
        blocks=tuple(
            Block(made([block.cls for block in blocks]), make([block.mean for block in blocks]))
            for blocks in zip(*(each.blocks for each in parts), strict=True)
        ),
        mask=made([each.mask for each in parts]),
    )
