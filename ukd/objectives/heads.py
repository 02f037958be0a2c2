"""Heads that take what the student gives to the teacher's width; the student is used without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ukd.errors import UserError
from ukd.features import NOTHING_MORE, Features, Wanted
from ukd.projection import Projection

Projector = Literal["none", "linear", "mlp2", "simreg4", "ln_linear"]
Head = Literal[Projector, "ladder"]
Norm = Literal["none", "batch", "layer"]

LOWER_RUNGS = 4
"""How many times narrower the hidden layers of a ladder's lower rungs are: 768 beside 3072 in UNIC."""


def projector(kind: Projector, in_dim: int, out_dim: int, hidden_dim: int = 2048, norm: Norm = "none") -> nn.Module:
    """A head from [B, in_dim] to [B, out_dim].

    Args:
        kind: `none`, the feature itself; `linear`; `mlp2`, two linear layers, by default without normalisation the
            head of CoSS (Singh & Wang, ECCV 2024); `simreg4`, the head of SimReg (Navaneet et al., BMVC 2021),
            four linear layers of widths 2 in_dim, in_dim, 2 in_dim and out_dim with batch norm and ReLU after
            the first and the third; `ln_linear`, layer norm and a linear layer, the head of Proteus (Zhang et al.,
            ICLR 2025, arXiv:2407.10366).
        in_dim: Width of the student's feature.
        out_dim: Width of the teacher's feature.
        hidden_dim: Width of the hidden layer of `mlp2`.
        norm: What stands between the layers of `mlp2`: `none`, ReLU alone; `batch`, batch norm and ReLU; `layer`,
            layer norm and GELU, as in AM-RADIO (Ranzinger et al., CVPR 2024, arXiv:2312.06709).

    Raises:
        UserError: `none` with two different widths.
    """
    if kind == "linear":
        return nn.Linear(in_dim, out_dim)
    if kind == "ln_linear":
        return nn.Sequential(nn.LayerNorm(in_dim), nn.Linear(in_dim, out_dim))
    if kind == "mlp2":
        return nn.Sequential(nn.Linear(in_dim, hidden_dim), *_between(norm, hidden_dim), nn.Linear(hidden_dim, out_dim))
    if kind == "simreg4":
        return nn.Sequential(
            nn.Linear(in_dim, 2 * in_dim),
            *_between("batch", 2 * in_dim),
            nn.Linear(2 * in_dim, in_dim),
            nn.Linear(in_dim, 2 * in_dim),
            *_between("batch", 2 * in_dim),
            nn.Linear(2 * in_dim, out_dim),
        )
    if in_dim != out_dim:
        raise UserError(
            f"head: none needs equal widths, but the student's feature has {in_dim} dimensions and the "
            f"teacher's {out_dim}; choose head: simreg4, mlp2 or linear"
        )
    return nn.Identity()


class PooledHead(nn.Module):
    """A head of the pooled feature alone.

    Args:
        head: From [B, in_dim] to [B, out_dim].
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Features) -> Tensor:
        """The projected feature, [B, out_dim]."""
        projected: Tensor = self.head(features.pooled)
        return projected


class Ladder(nn.Module):
    """The sum of an MLP of the pooled feature and one of every block, or stage, before the last.

    The ladder of projectors of UNIC (Sariyildiz et al., ECCV 2024, arXiv:2408.05088), each Linear-GELU-Linear: the
    layers in the middle of the student learn from the teacher without a detour through those above. A block gives its
    class token, or the mean over its map where there is none. The last block speaks through the pooled feature.

    Args:
        in_dim: Width of the pooled feature.
        block_dims: Width of each block, the last one last.
        out_dim: Width of the teacher's feature.
        hidden_dim: Width of the hidden layer of the pooled feature's MLP; those of the blocks are a quarter as wide.

    Raises:
        UserError: The student has no blocks before the last.
    """

    def __init__(self, in_dim: int, block_dims: Sequence[int], out_dim: int, hidden_dim: int) -> None:
        super().__init__()
        if len(block_dims) < 2:
            raise UserError(
                "head: ladder needs a student whose blocks or stages timm can give, such as a ResNet or a ViT; "
                "choose head: mlp2"
            )
        lower_dim = max(1, hidden_dim // LOWER_RUNGS)
        self.rungs = nn.ModuleList(_rung(dim, lower_dim, out_dim) for dim in block_dims[:-1])
        self.top = _rung(in_dim, hidden_dim, out_dim)

    def forward(self, features: Features) -> Tensor:
        """The sum, [B, out_dim]."""
        inputs = [block.mean if block.cls is None else block.cls for block in features.blocks[:-1]]
        projected = [rung(x) for rung, x in zip(self.rungs, inputs, strict=True)]
        return torch.stack([*projected, self.top(features.pooled)]).sum(0)


def student_head(
    kind: Head, in_dim: int, block_dims: Sequence[int], out_dim: int, hidden_dim: int, norm: Norm = "none"
) -> nn.Module:
    """A head from the student's features to [B, out_dim].

    Args:
        kind: `ladder`, or one of the pooled feature as in `projector`.
        in_dim: Width of the pooled feature.
        block_dims: Width of each block, for a ladder.
        out_dim: Width of the teacher's feature.
        hidden_dim: Width of the hidden layer of `mlp2`, and of a ladder's uppermost MLP.
        norm: As in `projector`.

    Raises:
        UserError: The head cannot work with these widths.
    """
    if kind == "ladder":
        return Ladder(in_dim, block_dims, out_dim, hidden_dim)
    return PooledHead(projector(kind, in_dim, out_dim, hidden_dim, norm))


def wanted_by(kind: Head, block_dims: Sequence[int]) -> Wanted:
    """What a head asks of the student beside the pooled feature."""
    return Wanted(blocks=len(block_dims)) if kind == "ladder" else NOTHING_MORE


def projection_of(head: nn.Module, target: Iterable[nn.Module]) -> Projection | None:
    """What brings student and teacher to where a head of `student_head` is compared with a target.

    Args:
        head: The head.
        target: What the teacher's feature passes.
    """
    return Projection.of(head.head, target) if isinstance(head, PooledHead) else None


def _between(norm: Norm, dim: int) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm1d(dim), nn.ReLU()]
    return [nn.LayerNorm(dim), nn.GELU()] if norm == "layer" else [nn.ReLU()]


def _rung(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, out_dim))
