"""What a run needs to know of the teacher's space before its first step: neighbour lists, statistics, targets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ukd import distributed
from ukd.backbones import Teacher
from ukd.bank import in_memory, on_disk
from ukd.blocks import Rows
from ukd.data import Images
from ukd.errors import UserError
from ukd.extractor import Extractor, PassExtractor
from ukd.log import progress
from ukd.neighbours import nearest_others
from ukd.objectives import Needs, Objective
from ukd.recipe import DistillRecipe
from ukd.targets import CachedTargets
from ukd.views import Augmentation

CENTRE = "centre"


class TeacherSpace:
    """The teacher's features of all training images, each extracted once, when it is first asked for.

    Args:
        recipe: The recipe; its `bank` is where the features are kept.
        teacher: The first teacher.
        images: The training images.
        device: Where the teacher is.
    """

    def __init__(self, recipe: DistillRecipe, teacher: Teacher, images: Images, device: torch.device) -> None:
        self._recipe = recipe
        self._teacher = teacher
        self._images = images
        self._device = device

    @cached_property
    def centre(self) -> Rows:
        """Features [n, D] of the evaluation views."""
        views = self._recipe.views
        workers = self._recipe.data.num_workers
        with progress("teacher features", len(self._images)) as advance:
            # The loop names the images that cannot be read when it meets them.
            extractor = Extractor(
                self._teacher,
                self._images,
                views.size_px,
                views.crop_pct,
                self._device,
                num_workers=workers,
                on_unreadable=lambda line: None,
                advance=advance,
            )
            return self._extract(extractor, CENTRE)

    def neighbours(self, nearest: int) -> Tensor:
        """Each image's nearest others by cosine similarity, int32 [n, nearest], the same in all processes."""
        lists = torch.from_numpy(nearest_others(self.centre, nearest)).to(self._device)
        distributed.broadcast_from_main([lists])  # Another processor may order near-ties another way.
        return lists.cpu()

    def fit(self, objective: Objective) -> None:
        """Lets an objective learn what it needs of the space; the same in all processes."""
        objective.fit(torch.from_numpy(self.centre[np.arange(len(self._images))]))
        distributed.broadcast_from_main(objective.buffers())

    def targets(self) -> CachedTargets | None:
        """What `teacher_cache` asks for."""
        if self._recipe.teacher_cache == "none":
            return None
        if self._recipe.teacher_cache == "fixed_view":
            return CachedTargets([self.centre], replayed=False)
        return CachedTargets([self._of_pass(number) for number in range(self._recipe.cached_views)], replayed=True)

    def extract_all(self) -> list[str]:
        """Extracts the evaluation views and, if `teacher_cache` repeats views, these; a line about each store."""
        stores = {CENTRE: self.centre}
        if self._recipe.teacher_cache == "k_views":
            stores |= {_name(number): self._of_pass(number) for number in range(self._recipe.cached_views)}
        folder = Path(str(self._recipe.bank))
        return [f"{folder / name}  {rows.shape[0]:,} x {rows.shape[1]}  {_megabytes(folder / name):,.1f} MB"
                for name, rows in stores.items()]  # fmt: skip

    def _of_pass(self, number: int) -> Rows:
        """Features [n, D] of the random views of one pass."""
        views = self._recipe.views
        title = f"teacher, view {number + 1} of {self._recipe.cached_views}"
        with progress(title, len(self._images)) as advance:
            extractor = PassExtractor(
                self._teacher,
                self._images,
                views.size_px,
                views.crop_pct,
                self._device,
                num_workers=self._recipe.data.num_workers,
                on_unreadable=lambda line: None,
                advance=advance,
                augmentation=Augmentation(**views.model_dump(include=set(Augmentation.__dataclass_fields__))),
                seed=self._recipe.seed,
                number=number,
            )
            return self._extract(extractor, _name(number))

    def _extract(self, extractor: Extractor, name: str) -> Rows:
        bank = self._recipe.bank
        return on_disk(extractor, Path(bank) / name) if bank else in_memory(extractor)


def _name(number: int) -> str:
    """What the store of a pass is called."""
    return f"pass-{number}"


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


class StandIns:
    """What takes the place of a teacher's space in a trial: noise, and images that are all neighbours of the first."""

    def __init__(self, dim: int, num_images: int) -> None:
        self._dim, self._num_images = dim, num_images

    def neighbours(self, nearest: int) -> Tensor:
        """As `TeacherSpace.neighbours`."""
        return torch.zeros(1, 1, dtype=torch.int32).expand(self._num_images, nearest)

    def fit(self, objective: Objective) -> None:
        """As `TeacherSpace.fit`."""
        objective.fit(torch.randn(min(self._num_images, 1024), self._dim))

    def targets(self) -> CachedTargets | None:
        """As `TeacherSpace.targets`; a trial asks the teacher itself."""
        return None


def check_cache(recipe: DistillRecipe, needs: Needs) -> None:
    """Refuses a cache of targets that would not be those of what the student sees, or not all that is needed.

    Raises:
        UserError: Says what to change.
    """
    if recipe.teacher_cache == "none":
        return
    reasons: Sequence[tuple[bool, str]] = [
        (needs.teacher_views != {0}, "it shows the teacher another view than the first"),
        (needs.of_teacher.tokens or needs.of_teacher.attention, "it needs more of the teacher than its pooled feature"),
        (needs.rotations, "it shows the teacher turned views"),
        (needs.small and recipe.views.num_small > 0, "it shows the teacher small crops"),
        (bool(recipe.more_teachers), "there is more than one teacher"),
        (recipe.views.mixup_prob + recipe.views.cutmix_prob > 0, "mixed views have no targets of their own"),
    ]
    for applies, reason in reasons:
        if applies:
            names = " + ".join(spec.name for spec in recipe.objective)
            raise UserError(f"teacher_cache: {recipe.teacher_cache} does not go with {names}: {reason}; choose none")
