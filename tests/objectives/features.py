"""Features for the tests of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from ukd.features import Features
from ukd.objectives import Batch, Objective


def batch(student: Tensor, teacher: Tensor) -> Batch:
    return Batch([Features(student)], [Features(teacher)], torch.arange(len(student)))


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
