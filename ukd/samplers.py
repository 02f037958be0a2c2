"""Which images make up step number s: a pure function of the seed and s, so that one integer resumes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ukd.rng import Purpose, stream


class Sample(NamedTuple):
    """One image of a batch. Its pixels are a function of (seed, this), and of nothing else."""

    image: int
    anchor: int
    """The image this one accompanies; an anchor names itself."""
    epoch: int
    """Pass over the anchors."""


class BatchOrder:
    """The order of training: anchors in an endless chain of permutations, each followed by its neighbours if asked.

    Every anchor comes up once before any comes up again; no image is dropped at the end of a pass, so a batch may
    reach from one pass into the next. With `neighbours`, each anchor brings k of its nearest images, drawn without
    replacement (CoSS, Singh & Wang, ECCV 2024, arXiv:2409.13939: k = 15 of 31): a batch of B has B / (k + 1) anchors.

    Args:
        num_images: Images in the training set.
        batch_size: Images in a step over all processes; a multiple of k + 1.
        seed: The recipe's seed.
        neighbours: int32 [num_images, N], each image's nearest ones in teacher space, or None.
        k: Neighbours that follow each anchor; ignored without `neighbours`.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        neighbours: npt.NDArray[np.int32] | None = None,
        k: int = 0,
    ) -> None:
        self._num_images = num_images
        self._k = 0 if neighbours is None else k
        self._num_anchors = batch_size // (self._k + 1)
        self._seed = seed
        self._neighbours = neighbours
        self._permutation: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, dtype=np.int64))

    @property
    def bag_size(self) -> int:
        """Consecutive images that belong together: an anchor and its neighbours."""
        return self._k + 1

    def batch(self, step: int) -> list[Sample]:
        """Returns the samples of the global batch of `step`, which counts from 0."""
        first = step * self._num_anchors
        return [sample for place in range(first, first + self._num_anchors) for sample in self._bag(place)]

    def _bag(self, place: int) -> Iterator[Sample]:
        epoch, position = divmod(place, self._num_images)
        anchor = int(self._order(epoch)[position])
        yield Sample(anchor, anchor, epoch)
        if self._neighbours is not None:
            nearest = self._neighbours[anchor]
            rng = stream(Purpose.NEIGHBOURS, self._seed, epoch, anchor)
            for neighbour in rng.choice(nearest, self._k, replace=False):
                yield Sample(int(neighbour), anchor, epoch)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._permutation[0] != epoch:
            self._permutation = (
                epoch,
                stream(Purpose.ORDER, self._seed, epoch).permutation(self._num_images),
            )
        return self._permutation[1]


class RankBatches:
    """One rank's share of each global batch, from one step to another; what a DataLoader takes as `batch_sampler`.

    Rank r of W takes the r-th contiguous W-th, so that concatenating the ranks gives the global batch in its order.
    """

    def __init__(self, order: BatchOrder, first_step: int, last_step: int, rank: int, world_size: int) -> None:
        self._order = order
        self._steps = range(first_step, last_step)
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Sample]]:
        for step in self._steps:
            batch = self._order.batch(step)
            share = len(batch) // self._world_size
            yield batch[self._rank * share : (self._rank + 1) * share]
