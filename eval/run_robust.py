"""`ukd-eval robust`: one classifier a model, asked about clean, shifted and corrupted images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import sklearn

from ukd.data import Labels
from ukd.errors import DataError, UserError
from ukd.eval.corrupted import CorruptedImages
from ukd.eval.corruptions import KINDS, NUM_SEVERITIES
from ukd.eval.extraction import Extraction
from ukd.eval.intervals import bootstrap
from ukd.eval.models import RAW_PIXELS, Subject, candidates, subjects
from ukd.eval.results import Result
from ukd.eval.robust import ALEXNET, Scores, among, calibration, correct_by_real, mean_corruption_error
from ukd.eval.robust_figures import Figures, Row, metrics_of
from ukd.eval.robust_heads import Head, Preset, train_head
from ukd.eval.robust_sets import CLEAN, REAL, RobustSets
from ukd.eval.runner import SEED, Entry, Measured, ResultFiles, record_of
from ukd.log import progress
from ukd.neighbours import backend

ALEXNET_CLASSES = 1000
ALEXNET_NAME = "alexnet"
ON_THE_FLY = (
    "corruptions are made on the fly, not read from the official ImageNet-C files: their figures are not comparable "
    "with published ones"
)


def choose_preset(head: str, corruptions: Sequence[str], severities: Sequence[int], num_c: int | None) -> Preset:
    """Put a protocol together.

    Raises:
        UserError: No such head or corruption, or an option that goes with another.
    """
    kinds = list(KINDS) if "all" in corruptions else list(dict.fromkeys(corruptions))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if head not in ("logreg", "knn"):
        raise UserError(f"robust: no head {head!r}; choose from logreg, knn")
    if unknown:
        raise UserError(f"robust: no corruption {unknown[0]!r}; choose from all, {', '.join(KINDS)}")
    if severities and not kinds:
        raise UserError("robust: --severity belongs to --corruption; add --corruption all")
    levels = tuple(sorted(set(severities))) or (tuple(range(1, NUM_SEVERITIES + 1)) if kinds else ())
    preset = Preset(head, "knn" if head == "knn" else "logreg", tuple(kinds), levels)
    return preset if num_c in (None, preset.num_c) else replace(preset, name=f"{head}-custom", num_c=num_c)


def run_robust(
    sets: RobustSets,
    checkpoints: Sequence[str],
    preset: Preset,
    *,
    reference: str | None,
    extraction: Extraction,
    baselines: bool,
    output: Path | None,
) -> tuple[list[Measured[Figures]], list[Path]]:
    """Train a classifier on every checkpoint's features, and measure it on every set.

    Args:
        sets: The images.
        checkpoints: Run folders, files of weights, or `timm:NAME`.
        preset: The classifier and the corruptions.
        reference: What corruption errors are relative to: a checkpoint or `alexnet`; None takes each run's teacher.
        extraction: How features are extracted.
        baselines: Measure a run's untrained self and its teacher too.
        output: One file for all results, in place of those beside the checkpoints.

    Returns:
        The figures in the order of the table, and the files written.

    Raises:
        UserError: A checkpoint, the images or the output cannot be used.
    """
    fixed = _reference(sets, preset, reference, extraction)
    files = ResultFiles("robust", output)
    measured: list[Measured[Figures]] = []
    for checkpoint in checkpoints:
        group: list[tuple[Measured[Figures], Result, Head]] = []
        for subject in subjects(checkpoint, baselines=baselines):
            if subject.role != RAW_PIXELS:
                figures, record, head = _measure(sets, preset, subject, extraction)
                group.append(
                    (Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures), record, head)
                )
        roles = {each.role: each.figures.mean_errors for each, _, _ in group}
        own = fixed or (("the run's teacher", roles["teacher"]) if {"student", "teacher"} <= roles.keys() else None)
        for each, record, head in group:
            figures = _with_mce(each.figures, own) if own and preset.corruptions else each.figures
            measured.append(replace(each, figures=figures))
            files.add(
                checkpoint,
                record,
                [Entry(preset, metrics_of(figures, len(sets.clean.labels)), figures.warnings, head.selection)],
            )
    return measured, files.write()


def _reference(
    sets: RobustSets, preset: Preset, reference: str | None, extraction: Extraction
) -> tuple[str, dict[str, float]] | None:
    if reference is None:
        return None
    if not preset.corruptions:
        raise UserError("robust: --reference is what corruption errors are relative to; add --corruption all")
    if reference == ALEXNET_NAME:
        num = len(np.unique(sets.train.labels))
        if num != ALEXNET_CLASSES or len(preset.severities) != NUM_SEVERITIES:
            raise UserError(
                f"robust: AlexNet's errors are those on the {ALEXNET_CLASSES} classes of ImageNet, over all "
                f"{NUM_SEVERITIES} severities; {num} classes and {len(preset.severities)} severities were given; "
                "--reference can be a checkpoint"
            )
        return "AlexNet on the official ImageNet-C files", ALEXNET
    (subject,) = candidates(reference, baselines=False)
    return reference, _measure(replace(sets, shifts={}, real=None), preset, subject, extraction)[0].mean_errors


def _with_mce(figures: Figures, reference: tuple[str, dict[str, float]]) -> Figures:
    mce = mean_corruption_error(figures.mean_errors, reference[1])
    note = f"mCE is relative to {reference[0]}, which has 100"
    return replace(figures, mce=mce, reference=reference[0], warnings=(*figures.warnings, note))


def _measure(
    sets: RobustSets, preset: Preset, subject: Subject, extraction: Extraction
) -> tuple[Figures, Result, Head]:
    start = time.monotonic()
    train, clean, *shifted = extraction.features(
        subject, [each.images for each in (sets.train, sets.clean, *sets.shifts.values())]
    )
    with progress(f"{preset.head} head", preset.num_c if preset.head == "logreg" else 0) as advance:
        try:
            head = train_head(train, sets.train.labels, preset, SEED, advance)
        except DataError as error:
            raise DataError(f"{subject.role} ({subject.source}): {error}") from None
    scores = head.scores(clean)
    rows = {CLEAN: _row(head, scores, sets.clean.labels, None)}
    for (name, images), features in zip(sets.shifts.items(), shifted, strict=True):
        rows[name] = _row(head, head.scores(features), images.labels, (scores, sets.clean.labels))
    if sets.real is not None:
        correct = correct_by_real(head.classes[scores.argmax(axis=1)], sets.real)
        rows[REAL] = Row(bootstrap(correct, SEED))
    warnings = (*sets.warnings, *head.warnings, *([ON_THE_FLY] if preset.corruptions else []))
    figures = Figures(rows, _errors(sets, preset, subject, extraction, head), head.temp, warnings=warnings)
    data = {name: each.facts() for name, each in {"train": sets.train, CLEAN: sets.clean, **sets.shifts}.items()}
    engine = {"solver": f"scikit-learn {sklearn.__version__} newton-cg"} if preset.head == "logreg" else {}
    engine = engine or {"search": backend()}
    norm = "none" if preset.head == "logreg" else "l2"
    record = record_of("robust", subject, extraction, train, data, norm, engine)
    return figures, replace(record, wall_s=round(time.monotonic() - start, 3)), head


def _row(head: Head, scores: Scores, labels: Labels, clean: tuple[Scores, Labels] | None) -> Row:
    """Figures among the classes of a set; `clean` are the scores and labels of the clean images of all classes."""
    subset = np.unique(labels)
    kept, targets = among(scores, head.classes, subset), np.searchsorted(subset, labels)
    row = Row(bootstrap(head.correct(kept, targets), SEED))
    if head.temp is not None:
        row = replace(row, raw=calibration(kept, targets, 1.0), scaled=calibration(kept, targets, head.temp))
    if clean is None or not np.isin(clean[1], subset).any():
        return row
    same = np.isin(clean[1], subset)
    on_clean = head.correct(among(clean[0][same], head.classes, subset), np.searchsorted(subset, clean[1][same]))
    return replace(row, clean_top1=bootstrap(on_clean, SEED))


def _errors(
    sets: RobustSets, preset: Preset, subject: Subject, extraction: Extraction, head: Head
) -> dict[str, dict[int, float]]:
    size_px, crop_pct = extraction.view_of(subject)
    as_it_is = replace(extraction, size_px=size_px, crop_pct=1.0)
    targets = np.searchsorted(head.classes, sets.clean.labels)
    errors: dict[str, dict[int, float]] = {}
    for kind in preset.corruptions:
        images = [
            CorruptedImages(sets.clean.images, kind, severity, size_px, crop_pct, SEED)
            for severity in preset.severities
        ]
        features = as_it_is.features(subject, images)
        errors[kind] = {
            severity: float(1 - head.correct(head.scores(rows), targets).mean())
            for severity, rows in zip(preset.severities, features, strict=True)
        }
    return errors
