"""What a backbone gives for a batch of views, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
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
    parts = []
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        parts.append(
            Features(
                pooled=features.pooled[rows],
                tokens=None if features.tokens is None else features.tokens[rows],
                grid=features.grid,
                attention=None if features.attention is None else features.attention[rows],
                blocks=tuple(
                    Block(None if block.cls is None else block.cls[rows], block.mean[rows]) for block in features.blocks
                ),
                mask=None if features.mask is None else features.mask[rows],
            )
        )
        start += size
    return parts
