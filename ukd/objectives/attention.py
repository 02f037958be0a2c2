"""Attention: where the teacher's class token looks, beside what it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ukd.errors import UserError
from ukd.features import Shape, Wanted
from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.grids import Grid
from ukd.projection import Projection
from ukd.similarity import result_dtype

LEAST, MOST = 1e-5, 0.996
"""Bounds of an attention weight, for a finite divergence; as in the released code."""


class Attention(Objective):
    """Squared error of the class token, and divergence of the last block's attention of the class token; ViT to ViT.

    Wang et al., "Attention Distillation: self-supervised vision transformer students need more guidance", BMVC 2022,
    arXiv:2210.00944. With the pooled features t, s [B, D], which are a ViT's class token, and for each of H heads the
    weights a [1 + N] that the class token gives itself and the N patches:

        loss = mean of (head(s) - t)^2, over images and dimensions
             + attention_weight * mean over images of the sum over heads of KL(a_t || a_s)

    Where the numbers of heads differ, the heads of each model are joined into one: softmax(sum over heads of log a /
    temp). Where the grids differ, the teacher's weights of patches are interpolated to the student's, bicubically,
    and scaled so that their sum is again what the class token leaves them. Weights are clamped to [1e-5, 0.996] and
    scaled to the sum 1.

    The head is that of the released code with four layers, the norm of the teacher's width at its end included. That
    code applies it in the place of the student's last norm, which here comes before it, as in the exported student.
    Interpolation may take weights below 0, which there turns joined heads into NaN; here they count as 1e-5 before
    the scaling.

    Args:
        attention_weight: Weight of the divergence; the default is that of the released scripts.
        temp: Temperature at which heads are joined, where their numbers differ.
    """

    # The tokens tell the grid.
    needs = Needs(student=Wanted(tokens=True, attention=True), of_teacher=Wanted(tokens=True, attention=True))

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        attention_weight: Annotated[float, Field(ge=0)] = 0.1,
        temp: Annotated[float, Field(gt=0)] = 10.0,
    ) -> None:
        super().__init__()
        self.attention_weight = attention_weight
        self.temp = temp
        self.head = class_token_head(student_dim, teacher_dim)

    @classmethod
    def for_models(cls, student: Shape, teachers: Sequence[Shape], **options: Any) -> Attention:
        """Builds the objective.

        Raises:
            UserError: One of the models has no class token that attends to patches.
        """
        for role, shape in (("teacher", teachers[0]), ("student", student)):
            if shape.heads is None:
                raise UserError(
                    f"{role}: no class token attends to patches in the last block of {shape.arch}; choose a plain ViT, "
                    "such as vit_small_patch16_224, or another objective, such as tokens with terms: {map: 1.0}"
                )
        return cls(student.pooled, teachers[0].pooled, **options)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms `class_token` and `attention`, at least 0."""
        student, teacher = batch.student[0], batch.teacher[0]
        dtype = result_dtype(student.pooled, teacher.pooled)
        error = self.head(student.pooled).to(dtype) - teacher.pooled.detach().to(dtype)
        target, attention = (cast(Tensor, features.attention).to(dtype) for features in (teacher, student))
        target = regridded(target.detach(), cast(Grid, teacher.grid), cast(Grid, student.grid))
        if target.shape[1] != attention.shape[1]:
            target, attention = joined(target, self.temp), joined(attention, self.temp)
        divergence = attention_divergence(target, attention)
        return {"class_token": error.square().mean(), "attention": self.attention_weight * divergence.mean()}

    def projector(self) -> Projection | None:
        """The head, which leads to the teacher's own space."""
        return Projection.of(self.head)


def class_token_head(in_dim: int, out_dim: int) -> nn.Module:
    """LayerNorm, four linear layers of widths 2 in_dim, in_dim, 2 in_dim and out_dim with GELU between, LayerNorm."""
    layers: list[nn.Module] = [nn.LayerNorm(in_dim, eps=1e-6)]
    for before, after in pairwise([in_dim, 2 * in_dim, in_dim, 2 * in_dim, out_dim]):
        layers += [nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1], nn.LayerNorm(out_dim, eps=1e-6))


def regridded(attention: Tensor, grid: Grid, to_grid: Grid) -> Tensor:
    """Attention to the patches of one grid as attention to those of another.

    Args:
        attention: [B, H, 1 + h * w], that to the class token first, summing to 1.
        grid: Its (h, w).
        to_grid: The other (h', w').

    Returns:
        [B, H, 1 + h' * w'], the same to the class token, summing to 1.
    """
    if grid == to_grid:
        return attention
    to_itself, patches = attention[..., :1], attention[..., 1:].reshape(*attention.shape[:2], *grid)
    patches = interpolate(patches, to_grid, mode="bicubic").flatten(2).clamp(min=LEAST)
    return torch.cat([to_itself, patches * ((1 - to_itself) / patches.sum(-1, keepdim=True))], dim=-1)


def joined(attention: Tensor, temp: float) -> Tensor:
    """One attention of all heads: the product of their weights, tempered.

    Args:
        attention: [B, H, 1 + N].
        temp: Temperature.

    Returns:
        [B, 1, 1 + N], summing to 1.
    """
    logs = attention.clamp(min=torch.finfo(attention.dtype).tiny).log()
    return (logs.sum(1, keepdim=True) / temp).softmax(-1)


def attention_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's attention from the teacher's, summed over heads.

    Args:
        teacher: [B, H, 1 + N].
        student: As teacher.

    Returns:
        [B], at least 0.
    """
    teacher, student = bounded(teacher), bounded(student)
    return (teacher * (teacher.log() - student.log())).sum((1, 2))


def bounded(attention: Tensor) -> Tensor:
    """Weights [..., 1 + N] clamped from both sides, then scaled to the sum 1."""
    attention = attention.clamp(LEAST, MOST)
    return attention / attention.sum(-1, keepdim=True)
