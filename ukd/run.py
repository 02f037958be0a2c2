"""The parts of one run, put together by `ukd.distill` and `ukd.pretrain` for the loop of `ukd.train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ukd.backbones import Teacher
from ukd.data import Images
from ukd.learner import Learner
from ukd.monitor import Monitor
from ukd.recipe import RunRecipe
from ukd.samplers import BatchOrder
from ukd.targets import CachedTargets


@dataclass
class Run:
    """The parts of one run, put together.

    Attributes:
        recipe: The recipe.
        folder: The run folder.
        device: Where this process computes.
        learner: What is trained.
        teachers: The frozen teachers; none when pretraining.
        images: The training images.
        order: Which of them make up each step.
        monitor: What is measured on the way.
        role: What the export is called, `student` or `teacher`.
        provenance: What the export says of where it comes from.
        fixed: Tensors that were computed once for the run, such as neighbour lists; kept in every checkpoint.
        targets: What the teacher made of the images before the first step; None lets it see every view.
    """

    recipe: RunRecipe
    folder: Path
    device: torch.device
    learner: Learner
    teachers: Sequence[Teacher]
    images: Images
    order: BatchOrder
    monitor: Monitor
    role: str
    provenance: Mapping[str, Any]
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    targets: CachedTargets | None = None

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_in(self.recipe.epochs)

    def steps_in(self, epochs: float) -> int:
        """Steps in which `epochs` times as many images pass the student as the data set holds, at least 1."""
        return max(1, round(epochs * len(self.images) / self.recipe.batch_size))

    @property
    def bag_size(self) -> int:
        """Consecutive images of a batch that belong together: an anchor and its neighbours."""
        return self.order.bag_size

    def is_due(self, step: int, every: int) -> bool:
        """Whether what happens every so many steps, and after the last one, happens after `step` steps."""
        return step % every == 0 or step == self.num_steps

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and views."""
        return torch.float64 if self.recipe.precision == "fp64" else torch.float32

    def autocast(self) -> torch.autocast | nullcontext[None]:
        """bf16 where the recipe and the device say so."""
        wanted = self.recipe.precision == "bf16" or (
            self.recipe.precision == "auto"
            and self.device.type == "cuda"
            and torch.cuda.is_bf16_supported(including_emulation=False)
        )
        return torch.autocast(self.device.type, torch.bfloat16) if wanted else nullcontext()
