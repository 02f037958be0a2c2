"""DINO, and iBOT: self-supervised pretraining by self-distillation with no labels."""

from __future__ import annotations

import warnings
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ukd.features import Features, Masking, Wanted
from ukd.objectives.base import BOTH, EMA, NONE, Batch, Needs, Objective
from ukd.objectives.ema import follow
from ukd.similarity import dot_products, normalised

MOMENTUM = 0.996


class DINO(Objective):
    """Cross-entropy of prototype assignments by the backbone and by its EMA, on lightly's head and losses.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294,
    algorithm 1. With the logits of view v by the EMA of backbone and head t[v], their moving mean c and those of the
    backbone s[v], the EMA seeing the two full views and the backbone also the small crops (`views.num_small`):

        loss = mean over v of 2 and w != v of mean_i -sum_k softmax((t[v] - c) / teacher_temp)[k]
                                                             * log softmax(s[w] / student_temp)[k]

    With `patch_weight` above 0, the masked prediction of iBOT (Zhou et al., ICLR 2022, arXiv:2111.07832, equation 2)
    is added: for the first view's hidden patches, the same cross-entropy of the patch's own logits, one head serving
    the class token and the patches, as in the paper. There the first term too sees hidden patches; here it does not.

    Args:
        num_prototypes: Outputs of the head.
        student_temp: The backbone's temperature.
        teacher_temp: The EMA's temperature after the warm-up.
        warmup_teacher_temp: The EMA's temperature at the start.
        warmup: Share of the run in which it rises, linearly.
        freeze: Share of the run in which the last layer stays as it is; the released code's is one epoch.
        ema_momentum: Share of itself that the EMA keeps at a step at the start of the run; a half cosine leads to 1.
        hidden_dim: Width of the head's hidden layers.
        bottleneck_dim: Width of what the prototypes are compared with.
        patch_weight: Weight of the masked prediction; ViTs only.
        mask_prob: Probability that an image has hidden patches.
        mask_share: Share of its patches that are hidden then.
    """

    needs = Needs(BOTH, NONE, BOTH, small=True, ema=EMA(MOMENTUM, 1.0))

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        num_prototypes: Annotated[int, Field(gt=1)] = 65536,
        student_temp: Annotated[float, Field(gt=0)] = 0.1,
        teacher_temp: Annotated[float, Field(gt=0)] = 0.04,
        warmup_teacher_temp: Annotated[float, Field(gt=0)] = 0.04,
        warmup: Annotated[float, Field(ge=0, le=1)] = 0.3,
        freeze: Annotated[float, Field(ge=0, le=1)] = 0.01,
        ema_momentum: Annotated[float, Field(ge=0, le=1)] = MOMENTUM,
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
        bottleneck_dim: Annotated[int, Field(gt=0)] = 256,
        patch_weight: Annotated[float, Field(ge=0)] = 0.0,
        mask_prob: Annotated[float, Field(gt=0, le=1)] = 0.5,
        mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.3,
    ) -> None:
        super().__init__()
        # lightly takes seconds to import, and few objectives need it.
        from lightly.loss import DINOLoss, IBOTPatchLoss
        from lightly.models.modules.heads import DINOProjectionHead

        self.ema = EMA(ema_momentum, 1.0)
        wanted = Wanted(tokens=patch_weight > 0)
        self.needs = Needs(BOTH, NONE, BOTH, small=True, ema=self.ema, student=wanted)
        self.teacher_temps = (warmup_teacher_temp, teacher_temp)
        self.warmup, self.freeze = warmup, freeze
        widths = (student_dim, hidden_dim, bottleneck_dim, num_prototypes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # lightly builds its last layer with an older function.
            self.head, self.ema_head = DINOProjectionHead(*widths), DINOProjectionHead(*widths)
        self.ema_head.load_state_dict(self.head.state_dict())
        self.ema_head.requires_grad_(False)
        self.loss = DINOLoss(num_prototypes, teacher_temp=teacher_temp, student_temp=student_temp)
        self.patch_weight = patch_weight
        if patch_weight > 0:
            self.mask_prob, self.mask_share = mask_prob, mask_share
            self.mask_token = nn.Parameter(torch.zeros(student_dim))
            self.patch_loss = IBOTPatchLoss(num_prototypes, teacher_temp=teacher_temp, student_temp=student_temp)

    def masking(self) -> Masking | None:
        """iBOT's, if its term is wanted."""
        return Masking(self.mask_token, self.mask_prob, self.mask_share) if self.patch_weight > 0 else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Terms `dino` and, if wanted, `ibot`, each at least the entropy of the EMA's assignments."""
        crops = [batch.student[0], batch.student[1], *(batch.small.student.values() if batch.small else [])]
        frozen = batch.progress < self.freeze
        student = [prototype_logits(self.head, crop.pooled, frozen) for crop in crops]
        teacher = [prototype_logits(self.ema_head, batch.ema[view].pooled).detach() for view in (0, 1)]
        with torch.autocast(student[0].device.type, enabled=False):
            terms = {"dino": self.loss(teacher, student, teacher_temp=self._teacher_temp(batch.progress))}
        if self.patch_weight > 0 and batch.masked is not None:
            terms["ibot"] = self.patch_weight * self._patch_term(batch.masked, batch.ema[0], batch.progress)
        return terms

    def after_step(self, progress: float) -> None:
        """Lets the EMA head follow the head."""
        follow(self.ema_head, self.head, self.ema.at(progress))

    def _patch_term(self, masked: Features, seen: Features, progress: float) -> Tensor:
        assert masked.tokens is not None and masked.mask is not None and masked.grid is not None
        assert seen.tokens is not None
        student = prototype_logits(self.head, masked.tokens[masked.mask], progress < self.freeze)
        teacher = prototype_logits(self.ema_head, seen.tokens[masked.mask]).detach()
        mask = masked.mask.view(-1, *masked.grid)
        with torch.autocast(student.device.type, enabled=False):
            term: Tensor = self.patch_loss(teacher, student, mask, teacher_temp=self._teacher_temp(progress))
        return term

    def _teacher_temp(self, progress: float) -> float:
        start, end = self.teacher_temps
        return end if progress >= self.warmup else start + (end - start) * progress / self.warmup


def prototype_logits(head: nn.Module, x: Tensor, frozen: bool = False) -> Tensor:
    """Logits of lightly's DINO head, whose last layer has rows of length 1.

    Args:
        head: A `DINOProjectionHead`.
        x: [n, D].
        frozen: Give the last layer a gradient of zero: it stays a part of the graph, which many processes need.

    Returns:
        [n, K] in [-1, 1], fp32 or better.
    """
    bottleneck = normalised(head.layers(x))  # type: ignore[operator]
    prototypes = normalised(head.last_layer.weight_v)  # type: ignore[union-attr, arg-type]
    if frozen:
        prototypes = prototypes.detach() + 0 * prototypes
    return dot_products(bottleneck, prototypes)
