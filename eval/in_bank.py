"""Queries by one model, a bank by another: whether a student can be asked where its teacher has answered."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ukd.errors import DataError, UserError
from ukd.eval.asymmetry import beside, in_space_of, why_as_they_are
from ukd.eval.extraction import Extraction
from ukd.eval.labelled import Sources, open_labelled
from ukd.eval.models import RAW_PIXELS, Subject, candidates, teacher_of
from ukd.eval.runner import LabelledTask, Measured, ResultFiles, Rows, record_of

F = TypeVar("F")
OWN_TEACHER = "teacher"
"""In place of a checkpoint: the teacher that each run's recipe names."""


def run_in_bank(
    task: LabelledTask[F],
    checkpoints: Sequence[str],
    bank_checkpoint: str,
    *,
    sources: Sources,
    extraction: Extraction,
    baselines: bool,
    output: Path | None,
) -> tuple[list[Measured[F]], list[Path]]:
    """Measure every checkpoint as queries of a bank that another model extracted, each model shown its own view.

    A student that was trained through a projector towards that model is asked through it.

    Args:
        task: What is measured; its training rows are the bank.
        checkpoints: Run folders, files of weights, or `timm:NAME`.
        bank_checkpoint: The bank's model, as `checkpoints` names them, or `teacher`.
        sources: Labelled images.
        extraction: How features are extracted.
        baselines: Measure a run's untrained self, and the bank's model by its own queries, too.
        output: One file for all results, in place of those beside the checkpoints.

    Returns:
        The figures in the order of the table, and the files written.

    Raises:
        UserError: A checkpoint has no teacher, or another width than the bank's and no projector into it, or it, the
            images or the output cannot be used.
    """
    train, test = open_labelled(sources)
    data = {"train": train.facts(), "test": test.facts()}
    measured: list[Measured[F]] = []
    files = ResultFiles(task.name, output)
    for checkpoint in checkpoints:
        owner = beside(_owner(task.name, checkpoint, bank_checkpoint), checkpoint, extraction.kind)
        (bank,) = extraction.features(owner, [train.images])
        size_px, crop_pct = extraction.view_of(owner)
        reference = {**owner.facts(), "size_px": size_px, "crop_pct": crop_pct}
        for subject in _askers(checkpoint, owner, baselines):
            start = time.monotonic()
            (queries,) = extraction.features(subject, [test.images])
            if queries.shape[1] != bank.shape[1]:
                widths = f"features {queries.shape[1]} wide but the bank of {owner.source} is {bank.shape[1]} wide"
                why = why_as_they_are(owner, checkpoint, extraction.kind)
                given = f"{task.name}: {subject.role} ({subject.source}) gives {widths}"
                raise UserError(f"{given}; both must be of one width, and {why}")
            names = train.images.class_names
            try:
                figures = task.measure(Rows(bank, train.labels, names), Rows(queries, test.labels, names))
            except DataError as error:
                raise DataError(f"{subject.role} ({subject.source}): {error}") from None
            measured.append(Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures))
            record = record_of(task.name, subject, extraction, queries, data, task.norm, task.engine)
            record = replace(record, reference=reference, wall_s=round(time.monotonic() - start, 3))
            files.add(checkpoint, record, task.entries(figures))
    return measured, files.write()


def _owner(task: str, checkpoint: str, bank_checkpoint: str) -> Subject:
    if bank_checkpoint != OWN_TEACHER:
        (subject,) = candidates(bank_checkpoint, baselines=False)
        return replace(subject, role="teacher")
    teacher = teacher_of(checkpoint)
    if teacher is None:
        raise UserError(f"{task}: {checkpoint} names no teacher; give --bank-ckpt a checkpoint")
    return teacher


def _askers(checkpoint: str, owner: Subject, baselines: bool) -> Iterator[Subject]:
    for candidate in candidates(checkpoint, baselines=baselines):
        subject = in_space_of(owner, candidate)
        # Pixels are of no model's width, and mean nothing in a bank of features.
        if subject is not None and subject.role != RAW_PIXELS:
            yield subject
    if baselines:
        yield owner
