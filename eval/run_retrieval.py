"""`ukd-eval retrieval`: queries against a database, of the same model or of another, the result file and the table."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from ukd.blocks import Embeddings
from ukd.data import Images
from ukd.errors import DataError, UserError
from ukd.eval import tables
from ukd.eval.models import RAW_PIXELS, Subject, candidates, subjects
from ukd.eval.results import Metric, Result
from ukd.eval.retrieval.benchmarks import Benchmark
from ukd.eval.retrieval.figures import Figures
from ukd.eval.retrieval.whitening import Whitening, fit, refuse_shared
from ukd.eval.runner import Entry, Measured, ResultFiles, record_of

ASYMMETRIC = (
    "queries are compared with another model's database as they are: that asks whether a student shares its teacher's "
    "space, which it cannot if it was trained through a projection head"
)


class _Database(NamedTuple):
    """The database as one model sees it.

    Attributes:
        subject: The model.
        rows: Its features, whitened if anything is.
        width: Of the features before.
        whitening: What queries must pass too.
        warnings: What a reader must know.
    """

    subject: Subject
    rows: Embeddings
    width: int
    whitening: Whitening | None
    warnings: tuple[str, ...]


def run_retrieval(
    benchmark: Benchmark,
    checkpoints: Sequence[str],
    *,
    against: str | None,
    whiten: Images | None,
    baselines: bool,
    output: Path | None,
) -> tuple[list[Measured[Figures]], list[Path]]:
    """Let every checkpoint describe the queries, and itself or another model the database.

    Args:
        benchmark: What is measured, on which images.
        checkpoints: Run folders, files of weights, or `timm:NAME`.
        against: The checkpoint that describes the database; None lets each describe its own.
        whiten: Images that the model of the database is whitened on; None whitens nothing.
        baselines: Measure a run's baselines too.
        output: One file for all results, in place of those beside the checkpoints.

    Returns:
        The figures in the order of the table, and the files written.

    Raises:
        UserError: A checkpoint, the images or the output cannot be used, or the widths of two models differ.
    """
    files = ResultFiles(f"retrieval_{benchmark.kind}", output)
    shared = _describe_database(benchmark, _filler(against), whiten, {}) if against else None
    notes = (*benchmark.warnings, ASYMMETRIC) if shared else benchmark.warnings
    changes = [name for name, applies in (("asymmetric", shared), ("whitened", whiten)) if applies]
    preset = replace(benchmark.preset, name="-".join([benchmark.preset.name, *changes]))
    measured: list[Measured[Figures]] = []
    for checkpoint in checkpoints:
        for subject in subjects(checkpoint, baselines=baselines):
            if subject.role == RAW_PIXELS and (shared or not benchmark.pixels):
                continue
            start = time.monotonic()
            rows = benchmark.queries_by.rows(subject, list(benchmark.queries.values()))
            known = dict(zip(map(id, benchmark.queries.values()), rows, strict=True))
            database = shared or _describe_database(benchmark, subject, whiten, known)
            try:
                figures = benchmark.measure([_in_space_of(database, subject, each) for each in rows], database.rows)
            except DataError as error:
                raise DataError(f"{subject.role} ({subject.source}): {error}") from None
            figures = replace(figures, warnings=(*notes, *figures.warnings, *database.warnings))
            measured.append(Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures))
            record = _record(benchmark, subject, database, rows[0], whiten)
            record = replace(record, wall_s=round(time.monotonic() - start, 3))
            metrics = {name: Metric(each.value, each.n, (each.low, each.high)) for name, each in figures.shares.items()}
            files.add(checkpoint, record, [Entry(preset, metrics, figures.warnings)])
    return measured, files.write()


def show_retrieval(console: Console, benchmark: Benchmark, measured: Sequence[Measured[Figures]]) -> None:
    """Print every table, every warning once, and how much of its teacher a student keeps."""
    for table in benchmark.tables:
        shown = [(head, name) for head, name in table.columns if name in measured[0].figures.shares]
        num = max(measured[0].figures.shares[name].n for _, name in shown)
        cells = [[tables.with_interval(each.figures.shares[name]) for _, name in shown] for each in measured]
        title = f"{table.title}\nin % of {num} queries, ± half the 95 % bootstrap interval"
        console.print(tables.model_table(title, [head for head, _ in shown], measured, cells))
    tables.show_notes(console, (note for each in measured for note in each.figures.warnings))
    name, what = benchmark.headline
    if name in measured[0].figures.shares:
        tables.show_kept(console, measured, [each.figures.shares[name] for each in measured], what)


def _filler(against: str) -> Subject:
    (subject,) = candidates(against, baselines=False)
    return subject


def _describe_database(
    benchmark: Benchmark, subject: Subject, whiten: Images | None, known: Mapping[int, Embeddings]
) -> _Database:
    """Describe the database; images that the model described as queries already are not described again."""
    describer = benchmark.database_by
    if describer == benchmark.queries_by and all(id(images) in known for images in benchmark.database):
        rows = np.concatenate([known[id(images)] for images in benchmark.database])
    else:
        rows = np.concatenate(describer.rows(subject, benchmark.database))
    if whiten is None:
        return _Database(subject, rows, rows.shape[1], None, ())
    (fitted,) = describer.rows(subject, [whiten])
    whitening = fit(fitted)
    warnings = refuse_shared(fitted, rows, whiten.name)
    return _Database(subject, whitening(rows), rows.shape[1], whitening, (*warnings, *whitening.warnings))


def _in_space_of(database: _Database, subject: Subject, rows: Embeddings) -> Embeddings:
    """Bring features of queries into the space of the database.

    The place for a student's projection head, once a run exports it; without one, spaces of equal width are taken as
    one, and others have nothing to compare.
    """
    if rows.shape[1] != database.width:
        raise UserError(
            f"retrieval: the features of {subject.role} ({subject.source}) are {rows.shape[1]} wide, but those of the "
            f"database by {database.subject.source} are {database.width} wide; --against needs models of one width, as "
            "runs do not export the projection head between two"
        )
    return database.whitening(rows) if database.whitening else rows


def _record(
    benchmark: Benchmark, subject: Subject, database: _Database, rows: Embeddings, whiten: Images | None
) -> Result:
    """Write down all that a result says beside its protocol and figures."""
    queries_by, database_by = benchmark.queries_by, benchmark.database_by
    data: dict[str, Any] = {
        "queries": {name: _facts(images) for name, images in benchmark.queries.items()},
        "database": [_facts(images) for images in benchmark.database],
        "view": dict(queries_by.view(subject)),
        "database_view": dict(database_by.view(database.subject)),
    }
    name = f"retrieval_{benchmark.kind}"
    record = record_of(name, subject, queries_by.extraction, rows, {}, "l2", {"search": benchmark.search})
    features: dict[str, Any] = {**record.features, "kind": queries_by.kind(subject)}
    if whiten and database.whitening:
        features["whitening"] = {**_facts(whiten), "dim": database.rows.shape[1]}
    other = database.subject is not subject
    return replace(record, data=data, features=features, reference=database.subject.facts() if other else {})


def _facts(images: Images) -> dict[str, Any]:
    return {"name": images.name, "n": len(images), "fingerprint": images.fingerprint()}
