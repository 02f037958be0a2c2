"""`pretrain(recipe)`: a self-supervised teacher from images alone, on the loop of `ukd.train`."""

from __future__ import annotations

from pathlib import Path

import torch

from ukd import distributed, run_folder
from ukd.assemble import (
    build_monitor,
    check_objective,
    check_processes,
    check_same_sources,
    open_training_images,
    provenance,
    seeded_backbone,
    seeded_objective,
)
from ukd.data import Subset, split_holdout
from ukd.learner import Learner
from ukd.neighbours import search_on
from ukd.recipe import PretrainRecipe
from ukd.run import Run
from ukd.samplers import BatchOrder
from ukd.train import train


def pretrain(recipe: PretrainRecipe, *, resume: bool = False) -> Path:
    """Pretrains the recipe's backbone and exports it as `teacher.safetensors`.

    Args:
        recipe: The recipe.
        resume: Continue from the newest checkpoint of the run folder, if there is one.

    Returns:
        The run folder.

    Raises:
        UserError: Something in the recipe, the data or the weights cannot be used.
    """
    run_folder.check_free(recipe, resume)
    with distributed.session(recipe.device) as device:
        search_on(device)
        state = run_folder.latest_state(recipe)
        run = build_run(recipe, device)
        check_same_sources(run.provenance, state)
        run_folder.claim(recipe)
        train(run, state)
    return run.folder


def build_run(recipe: PretrainRecipe, device: torch.device) -> Run:
    """Puts the parts of a pretraining together."""
    check_processes(recipe)
    images = open_training_images(recipe)
    _, sample = split_holdout(len(images), recipe.monitor.holdout_images)
    # Watched, but not held out: its rank is no figure of how well it generalises.
    watched = Subset(images, sample) if len(sample) > 2 else None
    backbone = seeded_backbone(recipe, recipe.backbone)
    objective = seeded_objective(recipe, backbone, teachers=[])
    check_objective(recipe, objective, len(images))
    return Run(
        recipe=recipe,
        folder=Path(recipe.output),
        device=device,
        learner=Learner(backbone, objective).to(device),
        teachers=[],
        images=images,
        order=BatchOrder(len(images), recipe.batch_size, recipe.seed),
        monitor=build_monitor(recipe, watched, None, device),
        role="teacher",
        provenance=provenance(recipe, images, teachers=[]),
    )
