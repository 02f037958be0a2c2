"""Projectors: heads that take the student's feature to the teacher's width, dropped after training."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ukd.errors import UserError

Projector = Literal["none", "linear", "mlp2", "simreg4"]


def projector(kind: Projector, in_dim: int, out_dim: int, hidden_dim: int = 2048) -> nn.Module:
    """A head from [B, in_dim] to [B, out_dim].

    Args:
        kind: `none`, the feature itself; `linear`; `mlp2`, Linear-ReLU-Linear without normalisation, the head
            of CoSS (Singh & Wang, ECCV 2024); `simreg4`, the head of SimReg (Navaneet et al., BMVC 2021),
            four linear layers of widths 2 in_dim, in_dim, 2 in_dim and out_dim with batch norm and ReLU after
            the first and the third.
        in_dim: Width of the student's feature.
        out_dim: Width of the teacher's feature.
        hidden_dim: Width of the hidden layer of `mlp2`.

    Raises:
        UserError: `none` with two different widths.
    """
    if kind == "linear":
        return nn.Linear(in_dim, out_dim)
    if kind == "mlp2":
        return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, out_dim))
    if kind == "simreg4":
        return nn.Sequential(
            *_linear_norm_relu(in_dim, 2 * in_dim),
            nn.Linear(2 * in_dim, in_dim),
            *_linear_norm_relu(in_dim, 2 * in_dim),
            nn.Linear(2 * in_dim, out_dim),
        )
    if in_dim != out_dim:
        raise UserError(
            f"head: none needs equal widths, but the student's feature has {in_dim} dimensions and the "
            f"teacher's {out_dim}; choose head: simreg4, mlp2 or linear"
        )
    return nn.Identity()


def _linear_norm_relu(in_dim: int, out_dim: int) -> list[nn.Module]:
    return [nn.Linear(in_dim, out_dim), nn.BatchNorm1d(out_dim), nn.ReLU()]
