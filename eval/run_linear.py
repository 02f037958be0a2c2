"""`ukd-eval linear`: linear probes, their result file and their table."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ukd import distributed
from ukd.errors import UserError
from ukd.eval import tables
from ukd.eval.extraction import Extraction
from ukd.eval.labelled import Sources, open_labelled
from ukd.eval.linear.choice import LinearResult
from ukd.eval.linear.presets import Preset
from ukd.eval.linear.saved import Saved
from ukd.eval.linear.subject import probe_subject
from ukd.eval.models import RAW_PIXELS, subjects
from ukd.eval.results import Metric, result_file
from ukd.eval.runner import SEED, Entry, Measured, ResultFiles, record_of

CHOICES = ("selected_on_heldout", "last", "best_on_val")
BEST_ON_VAL = (
    "best_on_val is the best head and epoch on the test images themselves, as most papers report; compare it with "
    "such figures only"
)
_log = logging.getLogger(__name__)
Figures = list[LinearResult]
"""A model's figures under every preset."""


def run_linear(
    checkpoints: Sequence[str],
    *,
    sources: Sources,
    presets: Sequence[Preset],
    extraction: Extraction,
    baselines: bool,
    output: Path | None,
    resume: bool,
) -> tuple[list[Measured[Figures]], list[Path]]:
    """Train linear heads on the frozen features of every checkpoint, on any number of processes.

    Args:
        checkpoints: Run folders, files of weights, or `timm:NAME`.
        sources: Labelled images.
        presets: The protocols.
        extraction: How features are extracted, and on which device heads are trained.
        baselines: Measure a run's untrained self and its teacher too.
        output: One file for all results, in place of those beside the checkpoints.
        resume: Continue what an interrupted command left.

    Returns:
        The figures in the order of the table, and the files written; by the main process, for all.

    Raises:
        UserError: A checkpoint, the images, the size of a step or the output cannot be used.
    """
    _check_shares(presets)
    train, test = open_labelled(sources)
    measured: list[Measured[Figures]] = []
    files, kept = ResultFiles("linear", output), []
    for checkpoint in checkpoints:
        place = output or result_file(checkpoint, "linear")
        if resume and place is None:
            _log.warning("linear: %s has no folder to resume from, so it is begun anew; give --output", checkpoint)
        saved = Saved(place.with_suffix(".resume") if place else None, resume)
        kept.append(saved)
        for subject in subjects(checkpoint, baselines=baselines):
            if subject.role == RAW_PIXELS:
                continue
            figures: Figures = []
            for preset in presets:
                start = time.monotonic()
                probed = probe_subject(subject, train, test, preset, extraction, saved, seed=SEED)
                record = record_of(
                    "linear",
                    subject,
                    probed.extraction,
                    probed.test_rows,
                    {"train": train.facts(), "test": test.facts()},
                    preset.norm,
                    {"solver": "SGD", "num_processes": str(distributed.world_size())},
                )
                record = replace(record, wall_s=round(time.monotonic() - start, 3))
                files.add(checkpoint, record, [_entry(probed.result)])
                figures.append(probed.result)
            measured.append(Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures))
    written = files.write() if distributed.is_main() else []
    for saved in kept:
        saved.clear()
    return measured, written


def show_linear(console: Console, measured: Sequence[Measured[Figures]]) -> None:
    """Print the three choices with intervals, what was chosen, every warning once, and how much a student keeps."""
    for number, first in enumerate(measured[0].figures):
        results = [each.figures[number] for each in measured]
        selected = [each.selected_on_heldout for each in results]
        heads = f"{len(first.heads)} heads" if len(first.heads) > 1 else "1 head"
        title = (
            f"Linear probe ({first.preset.name}, {heads}), top-1 in % of {selected[0].top1.n} images, "
            "± half the 95 % interval"
        )
        columns = ["selected on\nheld-out", "its\ntop-5", "last", "best_on_val\n(test images)", "selected\nhead"]
        console.print(tables.model_table(title, columns, measured, [_cells(each) for each in results], sizes=True))
        tables.show_notes(console, (note for each in results for note in each.warnings))
        what = f"top-1, {first.preset.name}, selected on held-out images"
        tables.show_kept(console, measured, [each.top1 for each in selected], what)
    tables.show_notes(console, [BEST_ON_VAL])


def _cells(result: LinearResult) -> list[str]:
    selected = result.selected_on_heldout
    shares = [selected.top1, result.last.top1, result.best_on_val.top1]
    chosen, last, on_test = map(tables.with_interval, shares)
    rates = f"lr {selected.head.lr:.3g}" + (
        f"\nwd {selected.head.weight_decay:g}" if selected.head.weight_decay else ""
    )
    head = f"{rates}\n[dim]{selected.head.features}\nepoch {selected.epoch}[/]"
    return [chosen, tables.percent(selected.top5.value), last, on_test, head]


def _entry(result: LinearResult) -> Entry:
    choices = {name: getattr(result, name) for name in CHOICES}
    metrics = {
        f"{top}_{name}": Metric(share.value, share.n, (share.low, share.high))
        for name, choice in choices.items()
        for top, share in (("top1", choice.top1), ("top5", choice.top5))
    }
    selection = {
        "by": "top-1 of heads that never saw the held-out training images on these; best_on_val: top-1 on the test "
        "images; ties to the last epoch, then to the first head",
        "num_heldout": result.num_heldout,
        **{
            name: {"head": choice.head._asdict(), "epoch": choice.epoch, "heldout_top1": choice.heldout_top1}
            for name, choice in choices.items()
        },
        "heads": [head._asdict() for head in result.heads],
        "curve": [
            {
                "epoch": point.epoch,
                "test_top1": [count / choices["last"].top1.n for count in point.test.top1],
                "heldout_top1": [count / result.num_heldout for count in point.heldout.top1],
            }
            for point in result.curve
        ],
    }
    return Entry(result.preset, metrics, result.warnings, selection)


def _check_shares(presets: Sequence[Preset]) -> None:
    num = distributed.world_size()
    for preset in presets:
        if preset.batch_size % num:
            raise UserError(
                f"linear: {preset.name}: {preset.batch_size} images in a step cannot be shared equally by {num} "
                "processes; start another number of them, or give --global-batch"
            )
