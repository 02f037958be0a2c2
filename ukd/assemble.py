"""What distillation and pretraining share when they turn a recipe into parts."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch

from ukd import __version__, distributed
from ukd.backbones import Backbone, Teacher, build_backbone
from ukd.checkpoint import State
from ukd.data import Images, Subset, open_images, split_holdout
from ukd.errors import RunFolderError, UserError
from ukd.eval.labelled import LabelledSet, Sources, open_labelled
from ukd.launch import device_beside
from ukd.monitor import Monitor
from ukd.objectives import Objective, build
from ukd.objectives.queue import Queue
from ukd.recipe import BackboneSpec, RunRecipe, TeacherSpec


def check_processes(recipe: RunRecipe, bag_size: int = 1) -> None:
    """Refuses a batch that the processes, or the parts in which they accumulate gradients, cannot share equally.

    Args:
        recipe: The recipe.
        bag_size: Images that must stay together: an anchor and its neighbours.

    Raises:
        UserError: batch_size is no multiple of what it is cut into.
    """
    num_parts = distributed.world_size() * recipe.accumulate
    whole = max(bag_size, 2) if recipe.views.mixup_prob or recipe.views.cutmix_prob else bag_size
    if recipe.batch_size % num_parts or (recipe.batch_size // num_parts) % whole:
        cut = f"{distributed.world_size()} processes" + (
            f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
        )
        held = f", each a multiple of {whole} images" if whole > 1 else ""
        raise UserError(
            f"batch_size: {recipe.batch_size} images cannot be shared equally by {cut}{held}; "
            f"choose a multiple of {num_parts * whole}"
        )


def check_objective(recipe: RunRecipe, objective: Objective, num_images: int, bag_size: int = 1) -> None:
    """Refuses what an objective cannot work with, and what nothing would use.

    Args:
        recipe: The recipe.
        objective: Its objective.
        num_images: Training images.
        bag_size: An anchor and its neighbours.

    Raises:
        UserError: Says what to change.
    """
    needs, names = objective.needs, " + ".join(spec.name for spec in recipe.objective)
    if needs.neighbours and bag_size == 1:
        raise UserError(f"objective {names} needs the neighbours of each image; add `neighbours: {{k: 1, nearest: 5}}`")
    if needs.batch_coupled and recipe.accumulate > 1:
        raise UserError(
            f"accumulate: {names} compares the images of a batch with one another, so a batch in {recipe.accumulate} "
            "parts would have another loss; choose accumulate: 1, or more processes"
        )
    if recipe.views.num_small and not needs.small:
        raise UserError(f"views.num_small: {names} does not use small crops; choose num_small: 0")
    for queue in objective.modules():
        if isinstance(queue, Queue) and len(queue.rows) >= num_images:
            raise UserError(
                f"objective {names}: a queue of {len(queue.rows)} images is no smaller than the data set of "
                f"{num_images}, so it would hold the images that are compared with it; choose queue_size < {num_images}"
            )


def seeded_backbone(recipe: RunRecipe, spec: BackboneSpec, frozen: bool = False) -> Backbone:
    """Builds a backbone of the recipe; random weights are those of the recipe's seed."""
    views = recipe.views
    backbone = build_backbone(
        **spec.arguments, size_px=views.size_px, crop_pct=views.crop_pct, frozen=frozen, seed=recipe.seed
    )
    backbone.to(_dtype(recipe)).to(memory_format=torch.channels_last)
    return backbone


def seeded_teacher(recipe: RunRecipe, spec: TeacherSpec, device: torch.device, *, trial: bool = False) -> Teacher:
    """Builds a teacher of the recipe and holds it as it says; in a trial on the run's device, and not compiled.

    Raises:
        UserError: It cannot be held so.
    """
    teacher = cast(Teacher, seeded_backbone(recipe, spec, frozen=True))
    own = None if trial or spec.device is None else device_beside(int(spec.device.removeprefix("cuda:")))
    return teacher.hold(
        own or device,
        precision=spec.precision,
        chunk=spec.chunk,
        compiled=spec.compile and not trial,
        sharded=spec.shard,
    )


def seeded_objective(recipe: RunRecipe, student: Backbone, teachers: Sequence[Backbone]) -> Objective:
    """Builds the recipe's objective; its heads' random weights are those of the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build(recipe.objective, student.shape, [each.shape for each in teachers]).to(_dtype(recipe))


def open_training_images(recipe: RunRecipe) -> Images:
    """Opens the unlabelled training images, all of them."""
    return open_images(recipe.data.train, root=Path(recipe.data.root), download=recipe.data.download)


def hold_out(images: Images, recipe: RunRecipe) -> tuple[Images, Images | None]:
    """Splits off the monitor's held-out images, None where there are too few to compare neighbours."""
    training, holdout = split_holdout(len(images), recipe.monitor.holdout_images)
    return Subset(images, training), Subset(images, holdout) if len(holdout) > 2 else None


def labelled_sets(recipe: RunRecipe) -> tuple[LabelledSet, LabelledSet] | None:
    """Opens the labelled bank and queries, where the recipe names them."""
    data = recipe.data
    if data.labelled_train is None or data.labelled_test is None:
        return None
    return open_labelled(Sources(data.labelled_train, data.labelled_test, data.root, data.download))


def build_monitor(recipe: RunRecipe, watched: Images | None, teacher: Teacher | None, device: torch.device) -> Monitor:
    """Builds the monitor of the recipe."""
    return Monitor(
        watched=watched,
        labelled=labelled_sets(recipe),
        teacher=teacher,
        k=recipe.monitor.k,
        size_px=recipe.views.size_px,
        crop_pct=recipe.views.crop_pct,
        device=device,
        num_workers=recipe.data.num_workers,
    )


def check_same_sources(facts: Mapping[str, Any], state: State | None) -> None:
    """Refuses to continue on other images or with another teacher than the run began with.

    Raises:
        RunFolderError: Names which of them changed.
    """
    for name, part, key in (("images", "data", "fingerprint"), ("teacher", "teachers", "weights_sha256")):
        if state and part in facts and _picked(facts[part], key) != _picked(state["provenance"][part], key):
            raise RunFolderError(
                f"run folder: the {name} changed since this run began, and --resume would mix two runs; "
                "put them back, or start anew with output=FOLDER"
            )


def provenance(recipe: RunRecipe, images: Images, teachers: Sequence[Teacher]) -> dict[str, Any]:
    """What an export says of where it comes from."""
    facts: dict[str, Any] = {
        "data": {"train": recipe.data.train, "num_images": len(images), "fingerprint": images.fingerprint()},
        "objective": [spec.model_dump() for spec in recipe.objective],
        "seed": recipe.seed,
        "versions": {
            "ukd": __version__,
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
    }
    if teachers:
        facts["teachers"] = [
            {"arch": each.info.arch, "weights_sha256": each.weights_hash(), "precision": each.precision}
            for each in teachers
        ]
    return facts


def _picked(facts: Any, key: str) -> Any:
    """What one fact, or each of a list of facts, says under a key."""
    return [each[key] for each in facts] if isinstance(facts, list) else facts[key]


def _dtype(recipe: RunRecipe) -> torch.dtype:
    return torch.float64 if recipe.precision == "fp64" else torch.float32
