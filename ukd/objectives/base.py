"""What every objective is: a module that turns a batch of features into the terms of a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from ukd.features import Features


@dataclass(frozen=True)
class Needs:
    """What an objective asks of the training loop.

    Attributes:
        teacher: The teacher's features.
        num_views: Views of each image; of a batch that has more, the objective uses the first.
        batch_coupled: The loss is no mean over images: cutting a batch into smaller ones changes it.
    """

    teacher: bool = True
    num_views: int = 1
    batch_coupled: bool = False

    def __or__(self, other: Needs) -> Needs:
        """What serves both."""
        return Needs(
            teacher=self.teacher or other.teacher,
            num_views=max(self.num_views, other.num_views),
            batch_coupled=self.batch_coupled or other.batch_coupled,
        )


@dataclass(frozen=True)
class Batch:
    """The features of the B images of this process; nothing is normalised.

    Attributes:
        student: One entry a view.
        teacher: One entry a view, of the same pixels; empty if no objective needs a teacher.
        index: int64 [B], the images' places in the data set.
    """

    student: list[Features]
    teacher: list[Features]
    index: Tensor


class Objective(nn.Module):
    """Base of all objectives.

    The constructor is `__init__(self, student_dim, teacher_dim, *, <options with defaults>)`. The options,
    with their types and ranges, are what a recipe may say of the objective; the Args of the class docstring
    explain them. Heads, queues and running statistics are the objective's own parameters and buffers. With
    many processes, each passes its share of the global batch, all shares being equally large; the mean of the
    processes' gradients is then the gradient of the global batch.
    """

    needs: Needs

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss by terms.

        Returns:
            Scalars by name, fp32 or fp64, already weighted: the loss is their sum.
        """
        raise NotImplementedError

    def teacher_cosine(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """Mean cosine of student and teacher as the terms of `forward` tell it; None where they do not."""
        return None


class WeightedSum(Objective):
    """A weighted sum of objectives; the term `feature` of the objective `coss` becomes `coss/feature`."""

    def __init__(self, summands: Sequence[tuple[str, float, Objective]]) -> None:
        """Takes the name, weight and objective of each summand; a repeated name gets a number from 2 on."""
        super().__init__()
        self.objectives = nn.ModuleDict()
        self.weights: dict[str, float] = {}
        self.needs = Needs(teacher=False)
        names = [name for name, _, _ in summands]
        for i, (name, weight, objective) in enumerate(summands):
            num_before = names[:i].count(name)
            key = f"{name}_{num_before + 1}" if num_before else name
            self.objectives[key] = objective
            self.weights[key] = weight
            self.needs |= objective.needs

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of all summands."""
        return {
            f"{key}/{term}": self.weights[key] * value
            for key, objective in self.objectives.items()
            for term, value in objective(batch).items()
        }

    def teacher_cosine(self, terms: Mapping[str, Tensor]) -> Tensor | None:
        """That of the first summand that tells it."""
        for key, objective in self.objectives.items():
            own = {
                term.removeprefix(f"{key}/"): value / self.weights[key]
                for term, value in terms.items()
                if term.startswith(f"{key}/")
            }
            cosine = cast(Objective, objective).teacher_cosine(own)
            if cosine is not None:
                return cosine
        return None
