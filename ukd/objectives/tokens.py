"""Tokens: what the teacher makes of every patch, by regression or by the affinity of an image's patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn
from typing_extensions import TypedDict

from ukd.errors import UserError
from ukd.features import Features, Masking, Shape, Wanted
from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.grids import Grid, resized
from ukd.objectives.heads import projector
from ukd.projection import Projection
from ukd.similarity import dot_products, kl_divergence, normalised, result_dtype

Weight = Annotated[float, Field(ge=0)]


@with_config(ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True))
class Terms(TypedDict, total=False):
    """Weights of the terms of `tokens`; what is left out is off."""

    token: Weight
    """Squared error of the pooled feature."""
    feature: Weight
    """Squared error of the pooled feature and all tokens together."""
    patch: Weight
    """Squared error of the tokens of patches that are hidden from the student, a ViT."""
    map: Weight
    """Squared error of all tokens."""
    affinity: Weight
    """Divergence of how much the tokens of an image resemble one another."""


PROTEUS: Terms = {"token": 1.0, "feature": 1.0, "patch": 1.0}


class Tokens(Objective):
    """Dense distillation: the teacher's patch tokens, or the cells of its map, are the targets.

    With the pooled features s, t [B, D] and the tokens S, T [B, N, D] of student and teacher, nothing normalised, the
    tokens S' that the student makes of the same view with patches hidden, and heads g1 to g5:

        token     mean of (g1(s) - t)^2, over images and dimensions
        feature   mean of (g1(s) - t)^2 and (g2(S) - T)^2 together, over images, tokens and dimensions
        patch     mean of (g3(S') - T)^2, over hidden patches and dimensions
        map       mean of (g4(S) - T)^2, over images, tokens and dimensions
        affinity  mean of KL(p(T)[n, :] || p(g5(S))[n, :]), over images and tokens n,
                  with p(X)[n, m] ~ exp(cos(X[n], X[m]) / temp) among the tokens of one image

    `{token: 1, feature: 1, patch: 1}`: Zhang et al., "Accessing Vision Foundation Models via ImageNet-1K", ICLR 2025,
    arXiv:2407.10366 (Proteus). `map` and `affinity` are the dense terms of LightlyTrain's distillation, versions 2 and
    3 (lightly-ai/lightly-train:src/lightly_train/_methods), on the last layer's tokens alone. Only `token` and
    `feature` teach a ViT's class token, which is its pooled feature; that of a CNN is the mean of its map.

    Where the grids differ, the student's tokens are brought onto the teacher's after the head, bilinearly; for `patch`
    the teacher's onto the student's, whose patches are hidden. With probability `mask_prob` an image has the share
    `mask_share` of its patches hidden, and the sum of `patch` is divided by the number expected of these, so that it
    is a mean over images; the released code hides patches from exactly half of a batch, where both are the same.

    Args:
        terms: Weights of the terms: `{map: 1.0}` is that term alone.
        head: The projectors, one a term; `ln_linear` is that of Proteus, `linear` that of LightlyTrain.
        hidden_dim: Width of the hidden layer of `mlp2`.
        temp: Temperature of `affinity`; the default is LightlyTrain's.
        mask_prob: With `patch`: probability that patches of an image are hidden.
        mask_share: With `patch`: share of such an image's patches that are hidden.
    """

    needs = Needs()

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        student_token_dim: int,
        teacher_token_dim: int,
        *,
        terms: Terms = PROTEUS,
        head: Literal["none", "linear", "ln_linear", "mlp2"] = "ln_linear",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
        temp: Annotated[float, Field(gt=0)] = 0.07,
        mask_prob: Annotated[float, Field(gt=0, le=1)] = 0.5,
        mask_share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ) -> None:
        super().__init__()
        self.weights = {term: cast(float, weight) for term, weight in terms.items() if weight}
        if not self.weights:
            raise UserError(f"terms: none is on; give at least one of {', '.join(Terms.__annotations__)} a weight")
        wanted = Wanted(tokens=set(self.weights) != {"token"})
        self.needs = Needs(student=wanted, of_teacher=wanted)
        self.temp = temp
        self.mask_prob = mask_prob
        self.mask_share = mask_share
        self.heads = nn.ModuleDict()
        if "token" in self.weights or "feature" in self.weights:
            self.heads["token"] = projector(head, student_dim, teacher_dim, hidden_dim)
        for term in self.weights:
            if term != "token":
                self.heads[term] = projector(head, student_token_dim, teacher_token_dim, hidden_dim)
        self.mask_token = nn.Parameter(torch.zeros(student_token_dim)) if "patch" in self.weights else None

    @classmethod
    def for_models(cls, student: Shape, teachers: Sequence[Shape], **options: Any) -> Tokens:
        """Builds the objective.

        Raises:
            UserError: Patches cannot be hidden from the student, or widths differ and there is no head.
        """
        teacher = teachers[0]
        objective = cls(student.pooled, teacher.pooled, student.tokens, teacher.tokens, **options)
        if objective.mask_token is not None and not student.maskable:
            raise UserError(
                f"terms.patch: patches can be hidden from a ViT only, not from {student.arch}; choose a ViT as "
                "student, or other terms, such as terms: {map: 1.0}"
            )
        return objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Each term that is on, under its own name: weighted, at least 0."""
        of = {
            "token": self._token,
            "feature": self._feature,
            "patch": self._patch,
            "map": self._map,
            "affinity": self._affinity,
        }
        return {term: weight * of[term](batch) for term, weight in self.weights.items()}

    def masking(self) -> Masking | None:
        """How patches are hidden, if `patch` is on."""
        return None if self.mask_token is None else Masking(self.mask_token, self.mask_prob, self.mask_share)

    def projector(self) -> Projection | None:
        """The head of the pooled feature, where a term has one."""
        return Projection.of(self.heads["token"]) if "token" in self.heads else None

    def _token(self, batch: Batch) -> Tensor:
        return squared_error(self.heads["token"](batch.student[0].pooled), batch.teacher[0].pooled).mean()

    def _feature(self, batch: Batch) -> Tensor:
        pooled = squared_error(self.heads["token"](batch.student[0].pooled), batch.teacher[0].pooled)
        tokens = squared_error(*self._on_teacher_grid("feature", batch))
        return (pooled.sum() + tokens.sum()) / (pooled.numel() + tokens.numel())

    def _patch(self, batch: Batch) -> Tensor:
        masked = cast(Features, batch.masked)
        mask = cast(Tensor, masked.mask)
        tokens, grid = tokens_of(masked)
        targets = resized(*tokens_of(batch.teacher[0]), grid)
        errors = squared_error(self.heads["patch"](tokens[mask]), targets[mask])
        return errors.sum() / (self.mask_prob * self.mask_share * targets.numel())

    def _map(self, batch: Batch) -> Tensor:
        return squared_error(*self._on_teacher_grid("map", batch)).mean()

    def _affinity(self, batch: Batch) -> Tensor:
        student, teacher = (normalised(tokens) for tokens in self._on_teacher_grid("affinity", batch))
        of_teacher, of_student = dot_products(teacher, teacher), dot_products(student, student)
        return kl_divergence(of_teacher.detach() / self.temp, of_student / self.temp).mean()

    def _on_teacher_grid(self, term: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """The student's tokens after the head of a term, on the teacher's grid, and the teacher's."""
        targets, to_grid = tokens_of(batch.teacher[0])
        tokens, grid = tokens_of(batch.student[0])
        return resized(self.heads[term](tokens), grid, to_grid), targets


def tokens_of(features: Features) -> tuple[Tensor, Grid]:
    """The tokens of one view, and their grid."""
    return cast(Tensor, features.tokens), cast(Grid, features.grid)


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference, element by element, in fp32 or fp64; the teacher is a constant."""
    dtype = result_dtype(student, teacher)
    return (student.to(dtype) - teacher.detach().to(dtype)).square()
