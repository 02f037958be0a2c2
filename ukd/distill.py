"""`distill(recipe)`: a small student from a frozen teacher and unlabelled images, on the loop of `ukd.train`."""

from __future__ import annotations

from pathlib import Path

import torch

from ukd import distributed, run_folder
from ukd.assemble import (
    build_monitor,
    check_objective,
    check_processes,
    check_same_sources,
    hold_out,
    open_training_images,
    provenance,
    seeded_backbone,
    seeded_objective,
    seeded_teacher,
)
from ukd.backbones import Backbone
from ukd.checkpoint import State
from ukd.errors import DataError, UserError
from ukd.learner import Learner
from ukd.neighbours import search_on
from ukd.objectives import Objective
from ukd.pictures import neighbour_picture
from ukd.recipe import DistillRecipe
from ukd.run import Run
from ukd.samplers import BatchOrder
from ukd.teacher_space import StandIns, TeacherSpace, check_cache
from ukd.train import train, try_one_step


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
        search_on(device)
        state = run_folder.latest_state(recipe)
        run = build_run(recipe, device, state)
        run_folder.claim(recipe)
        train(run, state)
        draw(run)
    return run.folder


def build_run(recipe: DistillRecipe, device: torch.device, state: State | None = None, *, trial: bool = False) -> Run:
    """Puts the parts of a distillation together; what was computed before the first step comes from the state.

    Args:
        recipe: The recipe.
        device: Where to compute.
        state: A checkpoint of the run, or None.
        trial: Let stand-ins take the place of what needs a pass over all images.
    """
    bag_size = recipe.neighbours.k + 1 if recipe.neighbours else 1
    check_processes(recipe, bag_size)
    images, holdout = hold_out(open_training_images(recipe), recipe)
    specs = [recipe.teacher, *recipe.more_teachers]
    teachers = [seeded_teacher(recipe, spec, device, trial=trial) for spec in specs]
    student = seeded_backbone(recipe, recipe.student)
    objective = seeded_objective(recipe, student, teachers).to(device)
    check_teachers(recipe, objective)
    check_cache(recipe, objective.needs)
    check_objective(recipe, objective, len(images), bag_size)
    facts = provenance(recipe, images, teachers)
    check_same_sources(facts, state)
    if recipe.neighbours:
        check_enough(len(images), recipe.neighbours.nearest)
    space = StandIns(teachers[0].dim, len(images)) if trial else TeacherSpace(recipe, teachers[0], images, device)
    if state is None and objective.needs.bank:
        space.fit(objective)
    fixed = dict(state["fixed"]) if state else {}
    if recipe.neighbours and state is None:
        fixed["neighbours"] = space.neighbours(recipe.neighbours)
    lists = fixed["neighbours"].numpy() if recipe.neighbours else None
    return Run(
        recipe=recipe,
        folder=Path(recipe.output),
        device=device,
        learner=Learner(student, objective).to(device),
        teachers=teachers,
        images=images,
        order=BatchOrder(len(images), recipe.batch_size, recipe.seed, lists, bag_size - 1),
        monitor=build_monitor(recipe, holdout, teachers[0], device),
        role="student",
        provenance=facts,
        fixed=fixed,
        targets=space.targets(),
    )


def check_teachers(recipe: DistillRecipe, objective: Objective) -> None:
    """Refuses teachers that no objective listens to, and such as cannot give what it asks for."""
    if recipe.more_teachers and not objective.needs.many_teachers:
        names = " + ".join(spec.name for spec in recipe.objective)
        raise UserError(f"more_teachers: {names} listens to one teacher; take `objective: multi`, or leave them out")
    wanted, names = objective.needs.of_teacher, " + ".join(spec.name for spec in recipe.objective)
    if (wanted.attention or wanted.blocks) and any(spec.compile for spec in (recipe.teacher, *recipe.more_teachers)):
        raise UserError(f"teacher.compile: {names} looks into the teacher's blocks; choose compile: false")


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
    run = build_run(recipe, torch.device("cpu"), trial=True)
    try_one_step(run)
    student, num_steps = run.learner.student, run.num_steps
    share = student.num_parameters / run.teachers[0].num_parameters
    return [
        f"images    {len(run.images):,} to train on, {len(run.monitor.watched or []):,} held out  ({run.images.name})",
        f"views     {recipe.views.size_px} px",
        *(f"teacher   {_line(teacher)}" for teacher in run.teachers),
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
    watched, lists = run.monitor.watched, run.monitor.lists
    if watched is not None and lists is not None and distributed.is_main():
        neighbour_picture(watched, *lists).save(run.folder / "neighbours.png", optimize=True)
