"""The training loop: the only one, for distillation and for self-supervised pretraining alike."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ukd import distributed
from ukd.checkpoint import Checkpoints, State, export_backbone
from ukd.errors import TrainingError
from ukd.learner import Learner, show, teach
from ukd.loading import PixelBatch, TrainingViews, Unreadable, loader
from ukd.log import RunLog
from ukd.mixing import draw_cutmix, draw_mix, in_pairs, mix_views
from ukd.objectives import Objective
from ukd.optim import build_optimizer, learning_rate, set_learning_rate, set_weight_decay, weight_decay
from ukd.recipe import RunRecipe
from ukd.rng import Purpose, stream
from ukd.run import Run
from ukd.samplers import RankBatches, Sample
from ukd.stopping import stop_signals
from ukd.views import Augmentation

CUTMIX_ALPHA = 2.0
"""How the share of a CutMix that an objective needs is distributed: Beta(2, 2), as in the code of BINGO."""


def train(run: Run, state: State | None) -> None:
    """Trains from the given state, or from the start, to the last step.

    Args:
        run: The parts.
        state: A checkpoint of the same recipe, or None.

    Raises:
        TrainingError: A loss term is not finite; the last good checkpoint is kept.
        DataError: Too many images cannot be read.
        SystemExit: A signal asked to stop; a checkpoint was written. The status is 128 plus the signal's number.
    """
    recipe = run.recipe
    optimizer = build_optimizer(run.learner.parameters(), **_optimizer_arguments(recipe))
    if state:
        run.learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
    first_step = state["step"] if state else 0
    if first_step == run.num_steps and distributed.is_main():
        _export(run, first_step)  # An earlier version may have left out what this one exports.
    warmup_steps = round(recipe.optimizer.warmup_epochs * len(run.images) / recipe.batch_size)
    monitor_every = run.steps_in(recipe.monitor.every_epochs)
    save_every = run.steps_in(recipe.checkpoint.every_epochs)
    checkpoints, unreadable = Checkpoints(run.folder, recipe.checkpoint.keep), Unreadable(run.images)
    model = distribute(run)
    missing: list[int] = []
    with RunLog(run.folder, first_step, run.num_steps) as log, stop_signals() as stop:
        for step, batch in enumerate(batches(run, first_step), start=first_step):
            missing += batch.unreadable
            lr = learning_rate(step, lr=recipe.optimizer.lr, num_steps=run.num_steps, warmup_steps=warmup_steps)
            set_learning_rate(optimizer, lr)
            set_weight_decay(optimizer, _weight_decay(run, step))
            terms = take_step(run, model, optimizer, batch, step)
            run.learner.after_step((step + 1) / run.num_steps)

            log.advance(recipe.batch_size)
            done = step + 1
            stopping = distributed.any_process(bool(stop))
            logging, evaluating = run.is_due(done, recipe.log_every_steps), run.is_due(done, monitor_every)
            saving = run.is_due(done, save_every) or stopping
            if logging or saving:
                for line in unreadable.report(distributed.gather_numbers(missing)):
                    log.note(line)
                missing.clear()
            if logging:
                log.metrics({**_figures(run.learner.objective, terms), "lr": lr, "images_per_s": log.speed()})
            if evaluating or saving:
                _check_weights(run, done)
            if saving:
                _save(run, optimizer, checkpoints, done)
            if evaluating:
                distributed.broadcast_from_main(run.learner.student.buffers())
                log.metrics(run.monitor.measure(run.learner.student, log.note))
            if stopping and done < run.num_steps:
                log.note(f"stopped by {signal.Signals(stop[0]).name if stop else 'another process'} after step {done}; "
                         "a checkpoint is written, --resume continues")  # fmt: skip
                raise SystemExit(128 + (stop[0] if stop else signal.SIGTERM))


def take_step(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, batch: PixelBatch, step: int
) -> dict[str, Tensor]:
    """Takes one optimizer step and returns the loss terms before it."""
    torch.manual_seed(_step_seed(run.recipe.seed, step))
    optimizer.zero_grad()
    num_parts = run.recipe.accumulate
    found = []
    for number, part in enumerate(batch.split(num_parts), start=1):
        last = number == num_parts or not isinstance(model, DistributedDataParallel)
        with nullcontext() if last else cast(DistributedDataParallel, model).no_sync():
            terms = loss_terms(run, model, part, step)
            (total(terms) / num_parts).backward()  # type: ignore[no-untyped-call]
        found.append({name: value.detach() for name, value in terms.items()})
    terms = {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}
    _check_terms(run, terms, step)  # Here a GPU has its work already, and the weights are still as they were.
    optimizer.step()
    return terms


def loss_terms(run: Run, model: nn.Module, batch: PixelBatch, step: int) -> dict[str, Tensor]:
    """The forward pass of one step: the same pixels through the teachers and the student, then the objective."""
    recipe, needs = run.recipe, run.learner.objective.needs
    views = batch.to_views(run.device, run.dtype)
    small = batch.small.to_views(run.device, run.dtype) if batch.small else []
    mix = draw_mix(recipe.seed, step, recipe.views.mixup_prob, recipe.views.cutmix_prob)
    if mix:
        views, small = ([mix_views(view, in_pairs(view), mix)[0] for view in each] for each in (views, small))
    cutmix = draw_cutmix(recipe.seed, step, CUTMIX_ALPHA) if needs.cutmix else None
    shown = show(views, small, needs, run.bag_size, cutmix)
    with run.autocast():
        if run.targets:
            taught = [run.targets.look_up(batch, run.device, run.dtype)]
        else:
            taught = [teach(teacher, shown, needs) for teacher in run.teachers]
        index = batch.index.to(run.device)
        terms: dict[str, Tensor] = model(shown, taught, index, run.bag_size, step / run.num_steps)
    return terms


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The loss: the sum of its terms."""
    return torch.stack(list(terms.values())).sum()


def try_one_step(run: Run) -> None:
    """Takes the forward and backward pass of two bags of images, so that what cannot work fails here."""
    num_images = max(4, 2 * run.bag_size)
    samples = [Sample(index % len(run.images), index % len(run.images), 0) for index in range(num_images)]
    batch = _views(run).__getitems__(samples)
    Unreadable(run.images).report(batch.unreadable)
    try:
        total(loss_terms(run, run.learner, batch, step=0)).backward()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:
        raise TrainingError(
            f"models: no step can be taken with views of {run.recipe.views.size_px} px: {error}. A model that takes "
            "one size only needs it as input_px, or kwargs: {img_size: ...} where timm can build it for another"
        ) from None


def _weight_decay(run: Run, step: int) -> float:
    start, end = run.recipe.optimizer.weight_decay, run.recipe.optimizer.final_weight_decay
    return start if end is None else weight_decay(step, start=start, end=end, num_steps=run.num_steps)


def _optimizer_arguments(recipe: RunRecipe) -> dict[str, Any]:
    return recipe.optimizer.model_dump(include={"name", "lr", "weight_decay", "momentum"})


def distribute(run: Run) -> nn.Module:
    """The learner, wrapped where there are many processes; on GPUs its batch norm is then that of the global batch."""
    if distributed.world_size() == 1:
        return run.learner
    if run.device.type == "cuda":
        # timm's, because torch's would drop the activation that timm's own norm layers hold.
        run.learner = cast(Learner, convert_sync_batchnorm(run.learner))  # type: ignore[no-untyped-call]
    # Queues are the same in all processes and large, and batch statistics are not used while training: a broadcast
    # of either in every step, DDP's default, would be work for nothing.
    device_ids = [run.device] if run.device.type == "cuda" else None
    return DistributedDataParallel(run.learner, device_ids=device_ids, broadcast_buffers=False)


def _views(run: Run) -> TrainingViews:
    views, needs = run.recipe.views, run.learner.objective.needs
    full = Augmentation(**views.model_dump(include=set(Augmentation.__dataclass_fields__)))
    small = replace(full, size_px=views.small_px, crop_scale=views.small_crop_scale)
    return TrainingViews(
        run.images,
        full,
        needs.num_views,
        run.recipe.seed,
        apply_colour=run.device.type == "cpu",
        small=(small, views.num_small) if views.num_small and needs.small else None,
        num_passes=run.targets.num_passes if run.targets else None,
    )


def batches(run: Run, first_step: int) -> DataLoader[PixelBatch]:
    """The batches of this process from a step on."""
    order = RankBatches(run.order, first_step, run.num_steps, distributed.rank(), distributed.world_size())
    return loader(_views(run), order, run.recipe.data.num_workers, run.device)


def _step_seed(seed: int, step: int) -> int:
    """Seed of dropout and drop path in this step, another one on each process; nothing of torch's state is saved."""
    return int(stream(Purpose.STEP, seed, step, distributed.rank()).integers(2**63))


def _save(run: Run, optimizer: torch.optim.Optimizer, checkpoints: Checkpoints, step: int) -> None:
    if distributed.is_main():
        # The export comes first: whoever finds a checkpoint of the last step finds its export too.
        _export(run, step)
        parts = {
            "learner": run.learner.state_dict(),
            "optimizer": optimizer.state_dict(),
            "fixed": dict(run.fixed),
            "provenance": dict(run.provenance),
        }
        checkpoints.save(step, parts)
    distributed.barrier()


def _export(run: Run, step: int) -> None:
    facts, projector = {**run.provenance, "step": step}, run.learner.objective.projector()
    export_backbone(run.folder, run.role, run.learner.student, facts, projector)


def _check_terms(run: Run, terms: Mapping[str, Tensor], step: int) -> None:
    """Stops all processes before a step that would spoil the weights."""
    finite = torch.stack(list(terms.values())).isfinite().tolist()
    if distributed.any_process(not all(finite)):
        wrong = [name for name, is_finite in zip(terms, finite, strict=True) if not is_finite]
        named = ", ".join(wrong) or "of another process"
        raise TrainingError(
            f"training: the loss term {named} is not finite at step {step}; stopped before the optimizer step. "
            f"{_kept(run)}"
        )


def _check_weights(run: Run, step: int) -> None:
    """Stops before weights are saved that a gradient beyond the range of numbers has spoiled under a finite loss."""
    for name, value in run.learner.state_dict().items():
        if not bool(value.isfinite().all()):
            raise TrainingError(f"training: {name} is not finite after step {step}; not saved. {_kept(run)}")


def _kept(run: Run) -> str:
    return f"The last good checkpoint is kept in {run.folder / 'checkpoints'}; a smaller optimizer.lr may help"


def _figures(objective: Objective, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """The loss, its terms and, where the terms tell it, the mean cosine of student and teacher, over all processes."""
    values = {"loss": total(terms), **terms}
    cosine = objective.teacher_cosine(terms)
    if cosine is not None:
        values["teacher_cosine"] = cosine
    mean = distributed.mean_over_processes(torch.stack([value.detach().double() for value in values.values()]))
    return dict(zip(values, mean.tolist(), strict=True))
