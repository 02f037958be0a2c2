"""From samples to batches of pixels: reading, cropping, and what happens to an image that cannot be read."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any, cast

import numpy as np
import torch
from PIL import UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ukd import distributed
from ukd.data import Images, Pixels, Subset
from ukd.errors import DataError
from ukd.rng import Purpose, stream
from ukd.samplers import RankBatches, Sample
from ukd.views import NUM_COLOUR, Augmentation, apply_colour, evaluation_view, to_unit_range

MAX_UNREADABLE_SHARE = 0.01
"""More unreadable images than this share of the data set stop a run."""


@dataclass(frozen=True)
class PixelBatch:
    """Pixels of one rank's batch.

    Attributes:
        views: [V, B, S, S, 3] uint8 crops or, where the loader has coloured them, [V, B, 3, S, S] float in [0, 1].
        colour: [V, B, NUM_COLOUR] colour rows still to be applied; None where there are none.
        index: int64 [B], numbers of the images asked for.
        unreadable: Numbers of the images that could not be read; a readable one stands in their place.
        small: The small crops of the same images, if there are any.
        passes: int64 [B], the pass whose view of it each image shows; None where there is no such thing.
    """

    views: Tensor
    colour: Tensor | None
    index: Tensor
    unreadable: list[int]
    small: PixelBatch | None = None
    passes: Tensor | None = None

    def pin_memory(self) -> PixelBatch:
        """Called by the DataLoader when it feeds a GPU."""
        colour = None if self.colour is None else self.colour.pin_memory()
        small = None if self.small is None else self.small.pin_memory()
        return replace(self, views=self.views.pin_memory(), colour=colour, index=self.index.pin_memory(), small=small)

    def split(self, num_parts: int) -> Iterator[PixelBatch]:
        """Cuts the batch into equal parts, in order; what could not be read stays with the first."""
        size = len(self.index) // num_parts
        small_parts = self.small.split(num_parts) if self.small else repeat(None, num_parts)
        for part, small in enumerate(small_parts):
            rows = slice(part * size, (part + 1) * size)
            colour = None if self.colour is None else self.colour[:, rows]
            passes = None if self.passes is None else self.passes[rows]
            unreadable = [] if part else self.unreadable
            yield PixelBatch(self.views[:, rows], colour, self.index[rows], unreadable, small, passes)

    def to_views(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Brings the views to the device, coloured: V tensors [B, 3, S, S] of `dtype` in [0, 1]."""
        views = self.views.to(device, non_blocking=True)
        if self.colour is not None:
            views = _colour(views, self.colour.to(device, non_blocking=True))
        elif views.dtype == torch.uint8:
            views = to_unit_range(views)
        return list(views.to(dtype).unbind(0))


def _colour(crops: Tensor, colour: Tensor) -> Tensor:
    """uint8 [V, B, S, S, 3] to coloured float [V, B, 3, S, S] in [0, 1]."""
    flat = apply_colour(to_unit_range(crops.flatten(0, 1)), colour.flatten(0, 1))
    return flat.view(*crops.shape[:2], *flat.shape[1:])


class Unreadable:
    """Counts the images that could not be read, and stops the run when they are more than one in a hundred."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._seen: set[int] = set()

    def report(self, indices: Sequence[int]) -> list[str]:
        """Returns a line for each image not reported before.

        Raises:
            DataError: More than MAX_UNREADABLE_SHARE of the data set is unreadable.
        """
        new = sorted(set(indices) - self._seen)
        self._seen.update(new)
        if len(self._seen) > _max_unreadable(self._images):
            named = ", ".join(self._images.id(index) for index in sorted(self._seen)[:5])
            raise DataError(
                f"data: {len(self._seen)} of {_num_whole(self._images)} images in {self._images.name} cannot be read "
                f"(at most {MAX_UNREADABLE_SHARE:.0%} may): {named}; remove or repair them"
            )
        return [f"unreadable image skipped: {self._images.id(index)} ({len(self._seen)} so far)" for index in new]


def _num_whole(images: Images) -> int:
    """Images in the data set of which these may be a part."""
    return len(images.whole if isinstance(images, Subset) else images)


def _max_unreadable(images: Images) -> int:
    return int(MAX_UNREADABLE_SHARE * _num_whole(images))


def read_or_next(images: Images, index: int) -> tuple[Pixels, list[int]]:
    """Reads an image or, where it cannot be decoded, the next one that can; a function of the data set alone.

    Returns:
        The pixels, and the numbers of the images found unreadable on the way. Where too many follow one another,
        the pixels are black and the list is long enough for `Unreadable` to stop the run.
    """
    unreadable: list[int] = []
    while len(unreadable) <= _max_unreadable(images):
        candidate = (index + len(unreadable)) % len(images)
        try:
            return images.read(candidate), unreadable
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
            unreadable.append(candidate)
    return np.zeros((8, 8, 3), dtype=np.uint8), unreadable


class TrainingViews(Dataset[PixelBatch]):
    """Random views of samples; the DataLoader asks it for whole batches.

    Args:
        images: The training set.
        augmentation: How a view is made.
        num_views: Views of each sample.
        seed: The recipe's seed.
        apply_colour: Colour the views here, in the loader's process, rather than on the device.
        small: How a small crop is made, and how many of each sample; None makes none.
        num_passes: Passes after which the views of an image repeat, whatever it accompanies; None for never.
    """

    def __init__(
        self,
        images: Images,
        augmentation: Augmentation,
        num_views: int,
        seed: int,
        apply_colour: bool,
        small: tuple[Augmentation, int] | None = None,
        num_passes: int | None = None,
    ) -> None:
        self._images = images
        self._kinds = [(augmentation, range(num_views))]
        if small:
            self._kinds.append((small[0], range(num_views, num_views + small[1])))
        self._seed = seed
        self._apply_colour = apply_colour
        self._num_passes = num_passes

    def __getitems__(self, samples: Sequence[Sample]) -> PixelBatch:
        if self._num_passes:
            samples = [Sample(each.image, each.image, each.epoch % self._num_passes) for each in samples]
        unreadable: list[int] = []
        kinds = [_Crops(augmentation, views, len(samples)) for augmentation, views in self._kinds]
        for place, sample in enumerate(samples):
            pixels, missing = read_or_next(self._images, sample.image)
            unreadable += missing
            for crops in kinds:
                for row, view in enumerate(crops.views):
                    rng = stream(Purpose.AUGMENTATION, self._seed, sample.epoch, sample.image, sample.anchor, view)
                    crops.draw(row, place, pixels, rng)
        index = torch.tensor([sample.image for sample in samples])
        full, *small = (crops.batch(index, self._apply_colour) for crops in kinds)
        passes = torch.tensor([sample.epoch for sample in samples])
        return replace(full, unreadable=unreadable, small=small[0] if small else None, passes=passes)


class _Crops:
    """The views of one size that a batch is going to hold."""

    def __init__(self, augmentation: Augmentation, views: range, num_samples: int) -> None:
        size_px = augmentation.size_px
        self.views = views
        self._augmentation = augmentation
        self._pixels = np.empty((len(views), num_samples, size_px, size_px, 3), dtype=np.uint8)
        self._colour = np.empty((len(views), num_samples, NUM_COLOUR), dtype=np.float32)

    def draw(self, row: int, place: int, pixels: Pixels, rng: np.random.Generator) -> None:
        """Draws one view of one image."""
        self._pixels[row, place] = self._augmentation.crop(pixels, rng)
        self._colour[row, place] = self._augmentation.draw_colour(rng)

    def batch(self, index: Tensor, apply_colour: bool) -> PixelBatch:
        """The views, coloured or with the colour rows still to be applied."""
        views, colour = torch.from_numpy(self._pixels), torch.from_numpy(self._colour)
        if apply_colour:
            return PixelBatch(_colour(views, colour), None, index, [])
        return PixelBatch(views, colour, index, [])


class EvaluationViews(Dataset[PixelBatch]):
    """The evaluation view of images by number; the DataLoader asks it for whole batches."""

    def __init__(self, images: Images, size_px: int, crop_pct: float) -> None:
        self._images = images
        self._size_px = size_px
        self._crop_pct = crop_pct

    def __getitems__(self, indices: Sequence[int]) -> PixelBatch:
        crops = np.empty((1, len(indices), self._size_px, self._size_px, 3), dtype=np.uint8)
        unreadable: list[int] = []
        for place, index in enumerate(indices):
            pixels, missing = read_or_next(self._images, index)
            unreadable += missing
            crops[0, place] = evaluation_view(pixels, self._size_px, self._crop_pct)
        return PixelBatch(torch.from_numpy(crops), None, torch.tensor(list(indices)), unreadable)


def loader(
    dataset: Dataset[PixelBatch],
    batches: RankBatches | list[list[int]],
    num_workers: int | None,
    device: torch.device,
) -> DataLoader[PixelBatch]:
    """A DataLoader over whole batches; num_workers None takes this process's share of the cores, 8 at most."""
    if num_workers is None:
        num_workers = min(8, max(1, _num_cores() // distributed.num_local_processes()))
    num_workers = min(num_workers, len(batches))
    return DataLoader(
        dataset,
        batch_sampler=cast(Iterable[list[Any]], batches),
        num_workers=num_workers,
        collate_fn=cast(Callable[[list[Any]], PixelBatch], _as_is),
        worker_init_fn=_leave_signals_to_the_trainer,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if num_workers else None,
    )


def _num_cores() -> int:
    """Cores this process may run on; a job's share of a node is often less than the node has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _leave_signals_to_the_trainer(_: int) -> None:
    """A signal to stop reaches every process of the job; the loader must live until the last step is done."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _as_is(batch: PixelBatch) -> PixelBatch:
    return batch
