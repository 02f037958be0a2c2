"""When heads are measured, and what share of their learning rates a step takes: functions of the step alone."""

from __future__ import annotations

import math
from fractions import Fraction

from ukd.eval.linear.presets import Preset


class Schedule:
    """The steps of a probe. A step may reach from one pass over the images into the next; no image is left out.

    Args:
        preset: The protocol.
        num_images: Training images.
    """

    def __init__(self, preset: Preset, num_images: int) -> None:
        self._preset = preset
        in_all = Fraction(preset.epochs * num_images, preset.batch_size)
        self._epoch_steps = (in_all if preset.steps is None else Fraction(preset.steps)) / preset.epochs
        self.epoch_ending_at = {math.ceil(epoch * self._epoch_steps): epoch for epoch in range(1, preset.epochs + 1)}
        """Epoch by the number of steps after which it is over; of several that one step ends, the last."""
        self.num_steps = math.ceil(preset.epochs * self._epoch_steps)

    def factor(self, step: int) -> float:
        """Share of the learning rates that a step takes; steps and epochs count from 0."""
        epoch = int(step / self._epoch_steps)
        if self._preset.decay == "steps":
            return float(0.1 ** sum(epoch >= milestone for milestone in self._preset.milestones))
        progress = step / self.num_steps if self._preset.decay == "cosine" else epoch / self._preset.epochs
        return 0.5 * (1 + math.cos(math.pi * progress))
