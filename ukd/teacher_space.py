"""What a run needs to know of the teacher's space before its first step: neighbour lists, statistics, targets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ukd import distributed
from ukd.backbones import Teacher
from ukd.bank import in_memory, on_disk
from ukd.blocks import Rows
from ukd.clusters import Clusters, spherical_clusters
from ukd.data import Images
from ukd.errors import DataError, UserError
from ukd.extractor import Extractor, PassExtractor
from ukd.kept import Arrays, kept
from ukd.log import progress
from ukd.neighbour_lists import NeighbourLists, neighbour_lists
from ukd.objectives import Needs, Objective
from ukd.recipe import DistillRecipe, NeighbourSpec
from ukd.row_blocks import RowBlocks
from ukd.store import Store
from ukd.targets import CachedTargets
from ukd.views import Augmentation

CENTRE = "centre"
_log = logging.getLogger(__name__)


class TeacherSpace:
    """The teacher's features of all training images, each extracted once, when it is first asked for.

    Args:
        recipe: The recipe; its `bank` is where the features are kept.
        teacher: The first teacher.
        images: The training images.
        device: Where the teacher is.

    Attributes:
        images: The training images.
        device: Where to compute.
    """

    def __init__(self, recipe: DistillRecipe, teacher: Teacher, images: Images, device: torch.device) -> None:
        self._recipe = recipe
        self._teacher = teacher
        self.images = images
        self.device = device

    @cached_property
    def centre(self) -> Rows:
        """Features [n, D] of the evaluation views."""
        views = self._recipe.views
        workers = self._recipe.data.num_workers
        with progress("teacher features", len(self.images)) as advance:
            # The loop names the images that cannot be read when it meets them.
            extractor = Extractor(
                self._teacher,
                self.images,
                views.size_px,
                views.crop_pct,
                self.device,
                num_workers=workers,
                on_unreadable=lambda line: None,
                advance=advance,
            )
            return self._extract(extractor, CENTRE)

    def neighbours(self, spec: NeighbourSpec) -> Tensor:
        """Each image's nearest others by cosine similarity, int32 [n, nearest], the same in all processes.

        Raises:
            DataError: Too few of an image's others are no near-copies.
        """
        name = f"neighbours-{spec.nearest}" + (f"-below-{spec.max_cosine:g}" if spec.max_cosine < 1 else "")
        key = {"nearest": spec.nearest, "max_cosine": spec.max_cosine}
        found = self._kept(
            name,
            key,
            lambda: neighbour_lists(self.centre, spec.nearest, spec.max_cosine, self.device)._asdict(),
        )
        lists = NeighbourLists(**found)
        self._check(lists, spec)
        return torch.from_numpy(lists.nearest)

    def _check(self, lists: NeighbourLists, spec: NeighbourSpec) -> None:
        """Says how much was left out, and refuses lists that it left too short."""
        short = np.flatnonzero(lists.nearest[:, -1] < 0)
        if len(short):
            name, left = self.images.id(int(short[0])), int((lists.nearest[short[0]] >= 0).sum())
            more = f", and {len(short) - 1} other images too few" if len(short) > 1 else ""
            raise DataError(
                f"neighbours.max_cosine: {spec.max_cosine:g} leaves {name} {left} of the {spec.nearest} nearest others "
                f"that it is to have{more}; raise it, lower neighbours.nearest, or remove copies from the images"
            )
        num = lists.num_too_near
        if spec.max_cosine < 1 and distributed.is_main():
            _log.info(
                f"neighbours: {np.count_nonzero(num):,} of {len(num):,} images have near-copies (cosine above "
                f"{spec.max_cosine:g}), {num.max():,} at most, which their lists leave out: {num.sum():,} in all"
            )

    def clusters(self, num: int) -> Clusters:
        """The images by what the teacher holds to be alike; the recipe's seed decides where k-means begins.

        Raises:
            UserError: Fewer images than clusters.
        """
        key = {"clusters": num, "seed": self._recipe.seed}

        def compute() -> Arrays:
            return spherical_clusters(self.centre, num, self._recipe.seed)._asdict()

        return Clusters(**self._kept(f"clusters-{num}", key, compute))

    def fit(self, objective: Objective) -> None:
        """Lets an objective learn what it needs of the space; the same in all processes."""
        objective.fit(RowBlocks(self.centre))
        distributed.broadcast_from_main(objective.buffers())

    def targets(self) -> CachedTargets | None:
        """What `teacher_cache` asks for."""
        if self._recipe.teacher_cache == "none":
            return None
        if self._recipe.teacher_cache == "fixed_view":
            return CachedTargets([self.centre], replayed=False)
        return CachedTargets([self._of_pass(number) for number in range(self._recipe.cached_views)], replayed=True)

    def extract_all(self) -> list[str]:
        """Extracts the evaluation views and all else that the recipe needs of the bank; a line about each store."""
        stores = {CENTRE: self.centre}
        if self._recipe.teacher_cache == "k_views":
            stores |= {_name(number): self._of_pass(number) for number in range(self._recipe.cached_views)}
        if self._recipe.neighbours:
            self.neighbours(self._recipe.neighbours)
        folder = Path(str(self._recipe.bank))
        return [f"{folder / name}  {rows.shape[0]:,} x {rows.shape[1]}  {_megabytes(folder / name):,.1f} MB"
                for name, rows in stores.items()]  # fmt: skip

    def _of_pass(self, number: int) -> Rows:
        """Features [n, D] of the random views of one pass."""
        views = self._recipe.views
        title = f"teacher, view {number + 1} of {self._recipe.cached_views}"
        with progress(title, len(self.images)) as advance:
            extractor = PassExtractor(
                self._teacher,
                self.images,
                views.size_px,
                views.crop_pct,
                self.device,
                num_workers=self._recipe.data.num_workers,
                on_unreadable=lambda line: None,
                advance=advance,
                augmentation=Augmentation(**views.model_dump(include=set(Augmentation.__dataclass_fields__))),
                seed=self._recipe.seed,
                number=number,
            )
            return self._extract(extractor, _name(number))

    def _kept(self, name: str, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """What was computed from the features, kept in the bank if there is one."""
        if not isinstance(self.centre, Store):
            return compute()
        path = self.centre.folder.with_name(f"{name}.safetensors")
        return kept(path, {"features": self.centre.digest, **key}, compute)

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

    def neighbours(self, spec: NeighbourSpec) -> Tensor:
        """As `TeacherSpace.neighbours`."""
        return torch.zeros(1, 1, dtype=torch.int32).expand(self._num_images, spec.nearest)

    def fit(self, objective: Objective) -> None:
        """As `TeacherSpace.fit`."""
        objective.fit(RowBlocks(torch.randn(min(self._num_images, 1024), self._dim)))

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
