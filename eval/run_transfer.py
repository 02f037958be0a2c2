"""`ukd-eval transfer`: every set of a suite that is on disk, the result file and the table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ukd.errors import DataError, NotOnDiskError
from ukd.eval import tables
from ukd.eval.extraction import Extraction
from ukd.eval.intervals import Share
from ukd.eval.models import RAW_PIXELS, Subject, subjects
from ukd.eval.presets import NamedPreset
from ukd.eval.results import Metric, Result
from ukd.eval.runner import SEED, Entry, Measured, ResultFiles, record_of
from ukd.eval.solvers import SOLVERS, choose_solver
from ukd.eval.transfer import Preset, TransferResult, evaluate
from ukd.eval.transfer_sets import TransferSet, open_set
from ukd.eval.transfer_suite import SetSpec, Suite
from ukd.log import progress

METRICS = {"top1": "top-1", "mean_per_class": "mean per class", "map_11point": "11-point mAP"}
"""What tables call the metrics."""


@dataclass(frozen=True)
class OnDisk:
    """What there is of a suite.

    Attributes:
        suite: The suite.
        sets: Its sets that are on disk.
        missing: Why each of the others is not.
    """

    suite: Suite
    sets: Sequence[TransferSet]
    missing: Mapping[str, str]

    @property
    def mean(self) -> str:
        """Name of the mean over the sets that are on disk."""
        return f"mean_partial_{len(self.sets)}_of_{len(self.suite.sets)}" if self.missing else "mean"


@dataclass(frozen=True)
class MeanPreset(NamedPreset):
    """A mean over sets; the figures of two lists of sets are not comparable."""

    sets: tuple[str, ...]


Figures = dict[str, TransferResult]
"""A model's figures by set."""


def open_suite(suite: Suite, root: Path, download: bool) -> OnDisk:
    """Open the sets of a suite that are on disk.

    Raises:
        DataError: A set is on disk but cannot be used, or none is.
    """
    sets, missing = [], {}
    for name, spec in suite.sets.items():
        try:
            sets.append(open_set(name, spec, root=root, download=download, val_share=suite.val_share, seed=SEED))
        except NotOnDiskError as error:
            missing[name] = str(error).removeprefix("data: ")
    if not sets:
        listed = "".join(f"\n  {name}: {reason}" for name, reason in missing.items())
        hint = "" if download else "; --root names their folder, --download fetches those that torchvision can"
        raise DataError(f"transfer: no set of {suite.name} is on disk{hint}{listed}")
    return OnDisk(suite, sets, missing)


def run_transfer(
    there: OnDisk,
    checkpoints: Sequence[str],
    *,
    num_c: int | None,
    extraction: Extraction,
    baselines: bool,
    output: Path | None,
    solver: str | None = None,
) -> tuple[list[Measured[Figures]], list[Path]]:
    """Measure every checkpoint on every set.

    Args:
        there: The sets.
        checkpoints: Run folders, files of weights, or `timm:NAME`.
        num_c: Values of C in the grid; None takes the protocol's.
        extraction: How features are extracted.
        baselines: Measure a run's untrained self and its teacher too.
        output: One file for all results, in place of those beside the checkpoints.
        solver: As for `choose_solver`.

    Returns:
        The figures in the order of the table, and the files written.

    Raises:
        UserError: No such solver, or a checkpoint, the images or the output cannot be used.
    """
    solver = choose_solver("transfer", solver, extraction.device)
    files = ResultFiles("transfer", output)
    measured: list[Measured[Figures]] = []
    for checkpoint in checkpoints:
        for subject in subjects(checkpoint, baselines=baselines):
            if subject.role == RAW_PIXELS:
                continue
            figures: Figures = {}
            for each in there.sets:
                preset = preset_of(there.suite, each.name, each.spec, num_c)
                figures[each.name], record = _measure(each, preset, subject, extraction, solver)
                files.add(checkpoint, record, [_entry(figures[each.name])])
            measured.append(Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures))
            summary = replace(record, data={"sets": list(figures), "not_on_disk": dict(there.missing)}, wall_s=0.0)
            files.add(checkpoint, summary, [_mean_entry(there, figures)])
    return measured, files.write()


def show_transfer(console: Console, there: OnDisk, measured: Sequence[Measured[Figures]]) -> None:
    """Print a row for each set, on disk or not, the mean, every warning once, and how much a student keeps."""
    title = (
        f"Transfer by logistic regression ({there.suite.name}), each set's own metric in %, ± half the 95 % interval"
    )
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("set", overflow="fold")
    checkpoints = {each.checkpoint for each in measured}
    for each in measured:
        name = each.checkpoint if each.role == "model" else each.role
        beside = f"{each.checkpoint}\n" if len(checkpoints) > 1 and each.role != "model" else ""
        table.add_column(escape(beside + name), justify="right", overflow="fold")
    for name, spec in there.suite.sets.items():
        if name in there.missing:
            table.add_row(f"{escape(name)}\n[dim]not on disk: {escape(there.missing[name])}[/]")
            continue
        figures = [each.figures[name].figure for each in measured]
        about = f"[dim]{METRICS[spec.metric]} of {figures[0].n}[/]"
        table.add_row(f"{escape(name)}\n{about}", *map(_cell, figures))
    table.add_section()
    means = [_mean(each.figures) for each in measured]
    table.add_row(f"[bold]{_said(there)}[/]", *map(tables.percent, means))
    console.print(table)
    tables.show_notes(console, (note for each in measured for one in each.figures.values() for note in one.warnings))
    shares = [Share(mean, mean, mean, len(there.sets)) for mean in means]
    tables.show_kept(console, measured, shares, _said(there))


def _measure(
    each: TransferSet, preset: Preset, subject: Subject, extraction: Extraction, solver: str
) -> tuple[TransferResult, Result]:
    start = time.monotonic()
    features = np.concatenate(extraction.features(subject, each.images))
    with progress(each.name, preset.num_c + 1) as advance:
        try:
            figures = evaluate(
                features,
                each.labels,
                each.use,
                preset,
                class_names=each.class_names,
                seed=SEED,
                advance=advance,
                device=extraction.device if solver == "lbfgs" else None,
            )
        except DataError as error:
            raise DataError(f"{subject.role} ({subject.source}): {error}") from None
    engine = {"solver": SOLVERS[solver]}
    record = record_of("transfer", subject, extraction, features, {each.name: each.facts()}, "none", engine)
    return figures, replace(record, wall_s=round(time.monotonic() - start, 3))


def preset_of(suite: Suite, name: str, spec: SetSpec, num_c: int | None) -> Preset:
    """Make the protocol of one set; a grid of another size makes one of another name."""
    val = str(spec.val or f"{suite.val_share:g} of each class of train, at random")
    test = str(spec.test or f"all but {spec.train_per_class} images of each class of train, at random")
    preset = Preset(f"{suite.name}/{name}", spec.metric, str(spec.train), val, test)
    return preset if num_c in (None, preset.num_c) else replace(preset, name=f"{preset.name}-custom", num_c=num_c)


def _entry(result: TransferResult) -> Entry:
    selection = {
        "by": f"{result.preset.metric} of the validation images, ties to the smallest C",
        "num_val": result.num_val,
        "c": result.c,
        "grad_norm": result.grad_norm,
        "curve": [asdict(candidate) for candidate in result.curve],
    }
    return Entry(result.preset, {result.preset.metric: result.figure}, result.warnings, selection)


def _mean_entry(there: OnDisk, figures: Figures) -> Entry:
    presets = [result.preset for result in figures.values()]
    preset = MeanPreset(there.suite.name, tuple(f"{each.name} {each.hash}" for each in presets))
    warnings = [f"not on disk, and no part of the mean: {', '.join(there.missing)}"] if there.missing else []
    return Entry(preset, {there.mean: Metric(_mean(figures), len(figures))}, warnings)


def _mean(figures: Figures) -> float:
    return float(np.mean([result.figure.value for result in figures.values()]))


def _said(there: OnDisk) -> str:
    num = len(there.suite.sets)
    return f"mean of {len(there.sets)} of {num} sets (partial)" if there.missing else f"mean of all {num} sets"


def _cell(figure: Metric) -> str:
    if figure.ci is None:
        return tables.percent(figure.value)
    return tables.with_interval(Share(figure.value, *figure.ci, figure.n))
