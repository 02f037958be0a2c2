"""SSKD: how much an image that is turned resembles those that are not, taught by the teacher's similarities."""

from __future__ import annotations

import copy
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from ukd.distributed import gather_rows, gather_rows_with_grad, own_rows
from ukd.objectives.base import Batch, ByView, Needs, Objective
from ukd.objectives.ema import follow
from ukd.objectives.heads import projector
from ukd.similarity import dot_products, kl_divergence, normalised


class SSKD(Objective):
    """Divergence of the similarities of rotated images to the batch's upright ones, in teacher and student space.

    Xu et al., "Knowledge Distillation Meets Self-Supervision", ECCV 2020, arXiv:2006.07114: its term L_SS, whose only
    truth is which upright image a rotated one was. With A [3n, n], the cosines of the features of n images turned by
    90, 180 and 270 degrees with those of the images themselves, each model's after a head of its own:

        loss = temp^2 * mean over kept rows r of KL(softmax(A_t[r] / temp) || softmax(A_s[r] / temp))

    Kept are the rows in which the teacher finds the own image most similar of all, and of the others the share
    `wrong_share` in which it errs least: in which the fewest images come before the own one and, among equals, the
    most similar image is ahead by least. The n images are those of all processes, so any number of them keeps the
    same rows and gives the same gradient. The paper's other terms need labels, and its other transformations, colour
    and crops, are left out, as in the released code; a rotated image here is the same crop as the upright one.

    The paper's teacher is a classifier, whose `teacher_head` first learns to find the own image, by the cross-entropy
    of A_t without temperature: here in the first `head_share` of the run, in which the student learns nothing; then
    it is frozen. A self-supervised teacher tells images apart without it.

    Args:
        temp: Temperature of the similarities.
        wrong_share: Share that is kept of the rows in which the teacher errs.
        head: The student's head, as wide as its feature: `mlp2` is the paper's, `none` the feature itself.
        teacher_head: The same for the teacher: `mlp2` is the paper's.
        head_share: With a `teacher_head`, the share of the run in which it learns; 60 of 300 epochs in the paper.
    """

    needs = Needs(rotations=True, batch_coupled=True)

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        temp: Annotated[float, Field(gt=0)] = 0.5,
        wrong_share: Annotated[float, Field(ge=0, le=1)] = 0.75,
        head: Literal["none", "mlp2"] = "mlp2",
        teacher_head: Literal["none", "mlp2"] = "none",
        head_share: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    ) -> None:
        super().__init__()
        self.temp = temp
        self.wrong_share = wrong_share
        self.head_share = 0.0 if teacher_head == "none" else head_share
        self.head = projector(head, student_dim, student_dim, student_dim)
        self.teacher_head = projector(teacher_head, teacher_dim, teacher_dim, teacher_dim)
        # What the optimizer knows is never quite still, so the target comes from a copy.
        self.frozen_head = copy.deepcopy(self.teacher_head).requires_grad_(False)
        self.head_learns = False

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Term `similarity`, 0 while a teacher's head learns, and with such a head `teacher_head`, 0 afterwards."""
        self.head_learns = batch.progress < self.head_share
        turned = cast(Batch, batch.rotated)
        plain, rotated = batch.teacher[0].pooled.detach(), stacked(turned.teacher).detach()
        own = own_columns(len(plain), plain.device)
        with torch.no_grad():
            target = similarities(self.frozen_head(rotated), self.frozen_head(plain))
            weights = row_weights(target, own, self.wrong_share)
        found = similarities(self.head(stacked(turned.student)), self.head(batch.student[0].pooled))
        divergence = kl_divergence(target / self.temp, found / self.temp)
        terms = {"similarity": self.temp**2 * (divergence * weights).mean() * (not self.head_learns)}
        if self.head_share:
            learning = similarities(self.teacher_head(rotated), self.teacher_head(plain))
            terms["teacher_head"] = cross_entropy(learning, own) * self.head_learns
        return terms

    def after_step(self, progress: float) -> None:
        """Lets the target's head be the one that has learnt so far, as long as it learns."""
        if self.head_learns:
            follow(self.frozen_head, self.teacher_head, momentum=0.0)


def stacked(views: ByView) -> Tensor:
    """The pooled features of several views of B images, [num_views * B, D], view by view."""
    return torch.cat([view.pooled for view in views.values()])


def own_columns(num_images: int, device: torch.device) -> Tensor:
    """int64 [3B], for each rotated image of this process the place of the upright one among those of all."""
    return torch.arange(num_images, device=device).add(own_rows(num_images).start).repeat(3)


def similarities(rotated: Tensor, plain: Tensor) -> Tensor:
    """Cosine of this process's rotated images with all upright ones.

    Args:
        rotated: [3B, D], not normalised.
        plain: [B, D], this process's.

    Returns:
        [3B, n] in [-1, 1] for n images in all processes.
    """
    return dot_products(normalised(rotated), gather_rows_with_grad(normalised(plain)))


def row_weights(similarity: Tensor, own: Tensor, wrong_share: float) -> Tensor:
    """Weights of this process's rows that make a mean over them one over the kept rows of all processes.

    Args:
        similarity: [3B, n], the teacher's, of this process's rotated images.
        own: int64 [3B], the column of the own image.
        wrong_share: Share that is kept of the rows in which another image is more similar.

    Returns:
        [3B], 0 for rows that are left out; rows that err alike are all kept or all left out.
    """
    errors = error_levels(similarity, own)
    everyones = gather_rows(errors)
    num_wrong = (everyones > 0).sum()
    num_kept = len(everyones) - num_wrong + (wrong_share * num_wrong.double()).long()
    ranked = torch.cat([everyones.new_full((1,), -1.0), everyones.sort().values])
    threshold = ranked.gather(0, num_kept[None])
    share_kept = (everyones <= threshold).double().mean()
    return ((errors <= threshold) / share_kept.masked_fill(share_kept == 0, 1.0)).to(similarity.dtype)


def error_levels(similarity: Tensor, own: Tensor) -> Tensor:
    """How far the own image is from the most similar one.

    Args:
        similarity: [R, n] in [-1, 1].
        own: int64 [R], the column of the own image.

    Returns:
        fp64 [R]: how many images are more similar, and less than 1 for by how much the first of them is.
    """
    similarity = similarity.double()
    of_own = similarity.gather(1, own[:, None])
    lead = similarity.amax(1) - of_own[:, 0]
    return (similarity > of_own).sum(1) + lead / 4
