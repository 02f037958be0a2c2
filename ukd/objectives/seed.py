"""SEED: the student's similarities to past teacher features, taught by the teacher's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ukd.errors import UserError
from ukd.features import Features
from ukd.objectives.base import Batch, Needs, Objective
from ukd.objectives.heads import Projector, projector
from ukd.objectives.queue import Queue
from ukd.projection import Projection
from ukd.similarity import dot_products, kl_divergence, normalised, soft_cross_entropy


class SEED(Objective):
    """Cross-entropy of two distributions over the own image and a queue of past images.

    Fang et al., "SEED: Self-supervised Distillation For Visual Representation", ICLR 2021, arXiv:2101.04731.
    With the teacher's pooled features T [B, D], the student's after its head S [B, D] and the queue Q [K, D] of the
    teacher's features of the images before, all normalised:

        u_s[i] = [S[i].T[i], S[i].Q[0], ..., S[i].Q[K - 1]]        u_t[i] = [T[i].T[i], T[i].Q[0], ...]
        p_t[i] = softmax(u_t[i] / teacher_temp)                    p_s[i] = softmax(u_s[i] / student_temp)
        loss = mean_i cross-entropy(p_t[i], p_s[i])

    The paper takes T after the head of the teacher's own pretraining; here it is the backbone's pooled feature,
    which every teacher has. The queue starts empty, so the loss of the first batch is 0, and holds the images
    of all processes. In eval mode it stays as it is.

    Without the own pair, this is CompRess with one queue (Koohpayegani et al., NeurIPS 2020, arXiv:2010.14713): the
    mean of KL(p_t[i] || p_s[i]) over the queue alone. `decoupled` splits the divergence as DKD splits that of
    classifiers (Zhao et al., CVPR 2022, arXiv:2203.08679), with the own image in the place of the label:

        loss = mean_i ( alpha KL((p_t[i, 0], 1 - p_t[i, 0]) || (p_s[i, 0], 1 - p_s[i, 0]))
                      + beta KL(p_t[i, 1:] / (1 - p_t[i, 0]) || p_s[i, 1:] / (1 - p_s[i, 0])) )

    With alpha 1, and for beta the teacher's mass on the queue, 1 - p_t[i, 0], this would be the cross-entropy less
    p_t's entropy; a beta of its own lets the neighbourhood count where the own image takes all of that mass.

    Args:
        queue_size: Images the queue holds, fewer than the data set has; it takes 4 bytes times D for each.
        student_temp: The student's temperature.
        teacher_temp: The teacher's temperature; the released code's 1e-4 leaves the own image as the only target.
        head: The projector; `mlp2` is the paper's.
        hidden_dim: Width of the hidden layer of `mlp2`; the released code's is as wide as the student's feature.
        own_pair: Whether the own image is among those compared with; CompRess leaves it out.
        decoupled: Weigh the own image and the queue apart, by `alpha` and `beta`.
        alpha: With `decoupled`, weight of the own image against the whole queue.
        beta: With `decoupled`, weight of the distribution within the queue; DKD takes 0.5 to 8 for classifiers.
        small_crops: Add the same loss for the small crops that `views.num_small` makes, of which the paper takes 6:
            the mean over all of them, with a second queue that takes in one crop of each image.
    """

    needs = Needs()

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        queue_size: Annotated[int, Field(gt=0)] = 65536,
        student_temp: Annotated[float, Field(gt=0)] = 0.2,
        teacher_temp: Annotated[float, Field(gt=0)] = 0.01,
        head: Projector = "mlp2",
        hidden_dim: Annotated[int, Field(gt=0)] = 2048,
        own_pair: bool = True,
        decoupled: bool = False,
        alpha: Annotated[float, Field(ge=0)] = 1.0,
        beta: Annotated[float, Field(ge=0)] = 1.0,
        small_crops: bool = False,
    ) -> None:
        super().__init__()
        if decoupled and not own_pair:
            raise UserError("decoupled: true weighs the own pair against the queue; choose own_pair: true")
        self.needs = Needs(small=small_crops)
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.own_pair = own_pair
        self.decoupled = decoupled
        self.alpha = alpha
        self.beta = beta
        self.head = projector(head, student_dim, teacher_dim, hidden_dim)
        self.queue = Queue(queue_size, teacher_dim)
        self.small_queue = Queue(queue_size, teacher_dim) if small_crops else None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Takes the batch into the queue.

        Returns:
            Term `seed`, at least the mean entropy of the teacher's distributions, or without the own pair at least 0;
            with `decoupled` the terms `own` and `queue`, at least 0; the same of small crops after `small_`.

        Raises:
            UserError: The recipe makes no small crops.
        """
        terms = self._terms([batch.student[0]], [batch.teacher[0]], self.queue)
        if self.small_queue is not None:
            if batch.small is None:
                raise UserError("objective seed: small_crops: true finds no small crops; choose views.num_small: 6")
            small = self._terms([*batch.small.student.values()], [*batch.small.teacher.values()], self.small_queue)
            terms |= {f"small_{name}": term for name, term in small.items()}
        return terms

    def projector(self) -> Projection | None:
        """The head, which leads to the teacher's own space."""
        return Projection.of(self.head)

    def _terms(self, student: Sequence[Features], teacher: Sequence[Features], queue: Queue) -> dict[str, Tensor]:
        """The terms of views of one size, which share a queue that takes in the first of them."""
        s = normalised(self.head(torch.cat([view.pooled for view in student])))
        t = normalised(torch.cat([view.pooled for view in teacher]).detach())
        past = queue()
        of_teacher = similarities(t, t, past) / self.teacher_temp
        of_student = similarities(s, t, past) / self.student_temp
        if self.training:
            queue.enqueue(t[: len(teacher[0].pooled)])
        if self.decoupled:
            own = kl_divergence(own_or_not(of_teacher), own_or_not(of_student))
            among_others = kl_divergence(of_teacher[:, 1:], of_student[:, 1:])
            return {"own": self.alpha * own.mean(), "queue": self.beta * among_others.mean()}
        if self.own_pair:
            return {"seed": soft_cross_entropy(of_teacher, of_student).mean()}
        return {"seed": kl_divergence(of_teacher[:, 1:], of_student[:, 1:]).mean()}


def similarities(rows: Tensor, teacher: Tensor, queue: Tensor) -> Tensor:
    """Cosine of each row with the teacher's row of the same image, then with the queue.

    Args:
        rows: [B, D], normalised.
        teacher: [B, D], normalised.
        queue: [K, D], normalised.

    Returns:
        [B, 1 + K] in [-1, 1].
    """
    own = (rows * teacher).sum(1, keepdim=True)
    return torch.cat([own, dot_products(rows, queue)], dim=1)


def own_or_not(logits: Tensor) -> Tensor:
    """Logits of "the own image" and "any other" from those of all images.

    Args:
        logits: [B, 1 + K], the own image first.

    Returns:
        [B, 2].
    """
    # Of an empty queue it is -inf, of which no divergence can be computed.
    others = logits[:, 1:].logsumexp(1).clamp(min=torch.finfo(logits.dtype).min)
    return torch.stack([logits[:, 0], others], dim=1)
