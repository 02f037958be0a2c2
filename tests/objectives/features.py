"""Features for the tests of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from ukd.features import Features
from ukd.objectives import Batch, Objective
from ukd.objectives.base import CutMixed


def batch(student: Tensor, teacher: Tensor) -> Batch:
    """A batch with a second view, an EMA student, rotations, bags of two and mixtures, all made of one view."""
    # For a derivative by the student's features the EMA student's are constant.
    ema = torch.cos(teacher.detach()[:, :1] * torch.arange(1, student.shape[1] + 1)).to(student)
    return Batch(
        student={0: Features(student), 1: Features(student.flip(1))},
        teacher={0: Features(teacher), 1: Features(teacher.flip(1))},
        index=torch.arange(len(student)),
        ema={0: Features(ema), 1: Features(ema.flip(1))},
        rotated=Batch(
            student={turns: Features(student.roll(turns + 1, 1)) for turns in range(3)},
            teacher={turns: Features(teacher.roll(turns + 1, 1)) for turns in range(3)},
            index=torch.arange(len(student)),
        ),
        cutmix=CutMixed(Features(student[::2] - student[::2].flip(1)), 0.7),
        bag_size=2,
        progress=0.5,
    )


def pair(seed: int, n: int, student_dim: int, teacher_dim: int) -> tuple[Tensor, Tensor]:
    """Random fp64 features of n images."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(n, student_dim, generator=generator, dtype=torch.float64)
    return student, torch.randn(n, teacher_dim, generator=generator, dtype=torch.float64)


def total(objective: Objective, student: Tensor, teacher: Tensor) -> Tensor:
    """The loss."""
    terms: dict[str, Tensor] = objective(batch(student, teacher))
    return torch.stack(list(terms.values())).sum()


def rotation(dim: int) -> Tensor:
    """A random fp64 rotation or reflection."""
    q: Tensor = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64))[0]
    return q
