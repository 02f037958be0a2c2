"""`distill(recipe)`: a small student from a frozen teacher and unlabelled images, on the loop of `ukd.train`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ukd import distributed, run_folder
from ukd.assemble import (
    build_monitor,
    check_processes,
    check_same_sources,
    hold_out,
    open_training_images,
    provenance,
    seeded_backbone,
    seeded_objective,
)
from ukd.backbones import Backbone, Teacher
from ukd.bank import embed
from ukd.checkpoint import State
from ukd.data import Images
from ukd.errors import DataError
from ukd.log import progress
from ukd.neighbours import nearest_others
from ukd.pictures import neighbour_picture
from ukd.recipe import DistillRecipe
from ukd.samplers import BatchOrder
from ukd.train import Learner, Run, train, try_one_step


def distill(recipe: DistillRecipe, *, resume: bool = False) -> Path:
    """Distils the recipe's teacher into its student and exports that as `student.safetensors`.

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
        state = run_folder.latest_state(recipe)
        run = build_run(recipe, device, state)
        run_folder.claim(recipe)
        train(run, state)
        draw(run)
    return run.folder


def build_run(recipe: DistillRecipe, device: torch.device, state: State | None = None) -> Run:
    """Puts the parts of a distillation together; neighbour lists come from the state, where there is one."""
    check_processes(recipe)
    images, holdout = hold_out(open_training_images(recipe), recipe)
    teacher = cast(Teacher, seeded_backbone(recipe, recipe.teacher, frozen=True)).to(device)
    student = seeded_backbone(recipe, recipe.student)
    objective = seeded_objective(recipe, student.dim, teacher.dim)
    facts = provenance(recipe, images, teacher)
    check_same_sources(facts, state)
    fixed = dict(state["fixed"]) if state else {}
    if recipe.neighbours and "neighbours" not in fixed:
        fixed["neighbours"] = nearest_in_teacher_space(recipe, teacher, images, device)
    lists = fixed["neighbours"].numpy() if recipe.neighbours else None
    k = recipe.neighbours.k if recipe.neighbours else 0
    return Run(
        recipe=recipe,
        folder=Path(recipe.output),
        device=device,
        learner=Learner(student, objective).to(device),
        teacher=teacher,
        images=images,
        order=BatchOrder(len(images), recipe.batch_size, recipe.seed, lists, k),
        monitor=build_monitor(recipe, holdout, teacher, device),
        role="student",
        provenance=facts,
        fixed=fixed,
    )


def nearest_in_teacher_space(recipe: DistillRecipe, teacher: Teacher, images: Images, device: torch.device) -> Tensor:
    """Finds each training image's nearest others by the cosine of the teacher's features: int32 [n, nearest]."""
    assert recipe.neighbours is not None
    check_enough(len(images), recipe.neighbours.nearest)
    with progress("teacher features", len(images)) as advance:
        embeddings = embed(
            teacher,
            images,
            size_px=recipe.views.size_px,
            crop_pct=recipe.views.crop_pct,
            device=device,
            num_workers=recipe.data.num_workers,
            on_unreadable=lambda line: None,  # The loop names those that it meets.
            advance=advance,
        )
    lists = torch.from_numpy(nearest_others(embeddings, recipe.neighbours.nearest)).to(device)
    distributed.broadcast_from_main([lists])  # Another processor may order near-ties another way.
    return lists.cpu()


def check_enough(num_images: int, nearest: int) -> None:
    """Refuses a data set too small for its neighbour lists."""
    if nearest >= num_images:
        raise DataError(
            f"neighbours.nearest: {nearest} but each of the {num_images} training images has {num_images - 1} others; "
            f"choose nearest <= {num_images - 1}"
        )


def check(recipe: DistillRecipe, *, resume: bool = False) -> list[str]:
    """Does all that a run does but the loop, on CPU and without writing: builds every part and takes one small step.

    Args:
        recipe: The recipe.
        resume: Whether the run would continue one.

    Returns:
        Lines that say what would be run.

    Raises:
        UserError: What would have stopped the run.
    """
    run_folder.check_free(recipe, resume)
    run = build_run(recipe.model_copy(update={"neighbours": None}), torch.device("cpu"))
    assert run.teacher is not None
    if recipe.neighbours:
        check_enough(len(run.images), recipe.neighbours.nearest)
    try_one_step(run)
    student, num_steps = run.learner.student, run.num_steps
    share = student.num_parameters / run.teacher.num_parameters
    return [
        f"images    {len(run.images):,} to train on, {len(run.monitor.holdout or []):,} held out  ({run.images.name})",
        f"views     {recipe.views.size_px} px",
        f"teacher   {_line(run.teacher)}",
        f"student   {_line(student)}, {share:.1%} of the teacher",
        f"objective {' + '.join(spec.name for spec in recipe.objective)}",
        f"steps     {num_steps:,} of {recipe.batch_size} images, {num_steps * recipe.batch_size:,} images in all",
        f"output    {run.folder}",
    ]


def _line(backbone: Backbone) -> str:
    resized = f", views resized to {backbone.info.input_px} px" if backbone.info.input_px else ""
    return f"{backbone.info.arch}, {backbone.num_parameters:,} parameters, {backbone.dim} features{resized}"


def draw(run: Run) -> None:
    """Draws some held-out images with their nearest neighbours in teacher and student space, as `neighbours.png`."""
    holdout, lists = run.monitor.holdout, run.monitor.lists
    if holdout is not None and lists is not None and distributed.is_main():
        neighbour_picture(holdout, *lists).save(run.folder / "neighbours.png", optimize=True)
