"""`ukd-eval retrieval`: queries against a database, of the same model or of another, the result file and the table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from ukd.blocks import Embeddings
from ukd.data import Images
from ukd.errors import DataError, UserError
from ukd.eval import tables
from ukd.eval.asymmetry import beside, in_space_of, why_as_they_are
from ukd.eval.models import RAW_PIXELS, Subject, candidates, subjects
from ukd.eval.results import Metric, Result
from ukd.eval.retrieval.benchmarks import Benchmark
from ukd.eval.retrieval.figures import Figures
from ukd.eval.retrieval.whitening import Whitening, fit, refuse_shared
from ukd.eval.runner import Entry, Measured, ResultFiles, record_of
from ukd.kinds import POOLED

ASYMMETRIC = (
    "queries are compared with another model's database as they are: that asks whether a student shares its teacher's "
    "space, which it cannot if it was trained through a projection head"
)
PROJECTED_QUERIES = (
    "a student's queries pass the projector that it was trained with, into its teacher's space; what was not trained "
    "with one is left out"
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

    def whitened(self, queries: Embeddings) -> Embeddings:
        """Features of queries, whitened if those of the database are."""
        return self.whitening(queries) if self.whitening else queries


class _Shared:
    """The database by one model, for the queries of all.

    Args:
        benchmark: Holds the images.
        against: The checkpoint of the model.
        whiten: Images that it is whitened on.
    """

    def __init__(self, benchmark: Benchmark, against: str, whiten: Images | None) -> None:
        (self._owner,) = candidates(against, baselines=False)
        self._benchmark, self._whiten = benchmark, whiten
        self._described: dict[str, _Database] = {}

    def met_by(self, checkpoint: str) -> _Database:
        """The database as a checkpoint's queries meet it; that of several, if they meet it alike, is described once."""
        owner = beside(self._owner, checkpoint, self._benchmark.database_by.asked)
        _benchmark_of(self._benchmark, owner, self._whiten)  # Refuses what cannot be, before anything is described.
        key = f"{owner.projected} {owner.shown.weights_hash()}"
        if key not in self._described:
            database = _describe_database(self._benchmark, owner, self._whiten, {})
            note = PROJECTED_QUERIES if owner.projected else ASYMMETRIC
            self._described[key] = database._replace(warnings=(note, *database.warnings))
        return self._described[key]


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
        UserError: A checkpoint, the images or the output cannot be used, or the widths of two models differ and no
            projector leads from one to the other.
    """
    files = ResultFiles(f"retrieval_{benchmark.kind}", output)
    described = _Shared(benchmark, against, whiten) if against else None
    changes = [name for name, applies in (("asymmetric", against), ("whitened", whiten)) if applies]
    measured: list[Measured[Figures]] = []
    for checkpoint in checkpoints:
        shared = described.met_by(checkpoint) if described else None
        for subject in _askers(benchmark, checkpoint, shared, baselines):
            start = time.monotonic()
            chosen = _benchmark_of(benchmark, subject, whiten)
            rows = chosen.queries_by.rows(subject, list(chosen.queries.values()))
            known = dict(zip(map(id, chosen.queries.values()), rows, strict=True))
            database = shared or _describe_database(chosen, subject, whiten, known)
            figures = _measure(chosen, checkpoint, subject, rows, database)
            measured.append(Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures))
            record = _record(chosen, subject, database, rows[0], whiten)
            record = replace(record, wall_s=round(time.monotonic() - start, 3))
            metrics = {name: Metric(each.value, each.n, (each.low, each.high)) for name, each in figures.shares.items()}
            preset = replace(chosen.preset, name="-".join([chosen.preset.name, *changes]))
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


def _askers(benchmark: Benchmark, checkpoint: str, shared: _Database | None, baselines: bool) -> Iterator[Subject]:
    """Who describes the queries: as the database is, or as is asked for, or by the codes that its run trained."""
    for each in subjects(checkpoint, baselines=baselines):
        if each.role == RAW_PIXELS and (shared or not benchmark.pixels):
            continue
        subject = in_space_of(shared.subject, each) if shared else benchmark.queries_by.extraction.of(each)
        if subject is None:
            continue
        has_codes = benchmark.of_codes and subject.codes and benchmark.queries_by.asked == POOLED
        yield subject.through_projector() if has_codes and not shared else subject


def _benchmark_of(benchmark: Benchmark, subject: Subject, whiten: Images | None) -> Benchmark:
    """The benchmark of a model, which may have codes of its own.

    Raises:
        UserError: They would be whitened.
    """
    if benchmark.of_codes is None or not (subject.projected and subject.codes):
        return benchmark
    if whiten:
        raise UserError(
            f"retrieval {benchmark.kind}: the codes of {subject.source} are those of its run's hash head, which took "
            "features as they are; leave --whiten out"
        )
    return benchmark.of_codes


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


def _measure(
    benchmark: Benchmark, checkpoint: str, subject: Subject, rows: Sequence[Embeddings], database: _Database
) -> Figures:
    """Ask the database for what is like a model's features of the queries, set by set."""
    if rows[0].shape[1] != database.width:
        raise UserError(
            f"retrieval: the features of {subject.role} ({subject.source}) are {rows[0].shape[1]} wide, but those of "
            f"the database by {database.subject.source} are {database.width} wide; --against needs models of one "
            f"width, and {why_as_they_are(database.subject, checkpoint, benchmark.queries_by.asked)}"
        )
    try:
        figures = benchmark.measure([database.whitened(each) for each in rows], database.rows)
    except DataError as error:
        raise DataError(f"{subject.role} ({subject.source}): {error}") from None
    return replace(figures, warnings=(*benchmark.warnings, *figures.warnings, *database.warnings))


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
