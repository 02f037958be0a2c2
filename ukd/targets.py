"""Targets from before the first step: what the teacher once made of every image, looked up by number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ukd.blocks import Rows
from ukd.features import Features
from ukd.learner import Taught
from ukd.loading import PixelBatch


class CachedTargets:
    """The teacher's pooled features of one view of every image, or of the views of k passes.

    Args:
        passes: One entry a pass; the targets of pass p are entry p mod k.
        replayed: The student's views repeat with the targets, so that both are of the same pixels; else the
            student's views are its own, and the targets those of another view of the image.
    """

    def __init__(self, passes: Sequence[Rows], replayed: bool) -> None:
        self._passes = passes
        self.num_passes = len(passes) if replayed else None

    def look_up(self, batch: PixelBatch, device: torch.device, dtype: torch.dtype) -> Taught:
        """The targets of the images of a batch."""
        assert batch.passes is not None
        index, which = batch.index.numpy(), batch.passes.numpy() % len(self._passes)
        rows = np.empty((len(index), self._passes[0].shape[1]), dtype=np.float32)
        for number in np.unique(which):
            chosen = np.flatnonzero(which == number)
            rows[chosen] = self._passes[number][index[chosen]]
        pooled = torch.from_numpy(rows).to(device, dtype, non_blocking=True)
        return Taught({0: Features(pooled)})
