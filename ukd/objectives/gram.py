"""Similarity of every image of the batch with every other, taught by the teacher's: SP, PKT and a softmax."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ukd.distributed import gather_rows_with_grad, own_rows
from ukd.objectives.base import Batch, Needs, Objective
from ukd.similarity import dot_products, kl_divergence, normalised

MIN_AFFINITY = 1e-7
"""Least affinity of PKT, that of opposite features, for a finite logarithm; as in its released code."""


class Gram(Objective):
    """Difference of the batch's similarity matrices in teacher and student space; without a head, for any widths.

    For each image i of the n in the batch, from features F [n, D] (teacher: t, student: s):

        sp       g[i, :] = F[i].F[:] scaled to length 1        loss = mean_ij (g_s[i, j] - g_t[i, j])^2
        pkt      p[i, j] ~ (1 + cos(F[i], F[j])) / 2, j != i   loss = mean_i KL(p_t[i, :] || p_s[i, :])
        softmax  p[i, j] ~ exp(cos(F[i], F[j]) / temp), j != i loss as in pkt

    `sp`: Tung & Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv:1907.09682.
    `pkt`: Passalis & Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018,
    arXiv:1803.10837. `softmax` is the batch in the place of a queue (see `seed`). The n images are those of all
    processes, so any number of them gives the same gradient.

    Args:
        kernel: What becomes of the similarities: `sp`, `pkt` or `softmax`.
        temp: Temperature of `softmax`.
    """

    needs = Needs(batch_coupled=True)

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        kernel: Literal["sp", "pkt", "softmax"] = "sp",
        temp: Annotated[float, Field(gt=0)] = 0.07,
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.temp = temp

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """One term, named after the kernel: mean over this process's images of what they are to all images."""
        student, teacher = batch.student[0].pooled, batch.teacher[0].pooled.detach()
        if self.kernel == "sp":
            loss = (unit_rows(student) - unit_rows(teacher)).square().mean()
        else:
            loss = kl_divergence(self._logits(teacher), self._logits(student)).mean()
        return {self.kernel: loss}

    def _logits(self, features: Tensor) -> Tensor:
        similarity = similarity_to_others(features)
        return similarity / self.temp if self.kernel == "softmax" else ((1 + similarity) / 2).clamp(MIN_AFFINITY).log()


def unit_rows(features: Tensor) -> Tensor:
    """Dot products of this process's images with all images, each row scaled to length 1.

    Args:
        features: [B, D], this process's, not normalised.

    Returns:
        [B, n] for n images in all processes.
    """
    # The length of the image's own feature drops out of its row; without it, no product leaves the range of fp32.
    return normalised(dot_products(normalised(features), gather_rows_with_grad(features)))


def similarity_to_others(features: Tensor) -> Tensor:
    """Cosine of this process's images with all images but themselves.

    Args:
        features: [B, D], this process's, not normalised.

    Returns:
        [B, n - 1] in [-1, 1] for n images in all processes.
    """
    unit = normalised(features)
    similarity = dot_products(unit, gather_rows_with_grad(unit))
    num_images = similarity.shape[1]
    is_other = ~torch.eye(num_images, dtype=torch.bool, device=features.device)[own_rows(len(features))]
    return similarity[is_other].view(len(features), num_images - 1)
