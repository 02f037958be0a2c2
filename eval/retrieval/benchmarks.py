"""The kinds of retrieval, each put together from its images, how they are described, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from ukd.blocks import Embeddings
from ukd.data import Images
from ukd.eval.extraction import Extraction
from ukd.eval.intervals import Share
from ukd.eval.labelled import LabelledSet
from ukd.eval.presets import NamedPreset
from ukd.eval.retrieval import classes, copydays, forb, hashing, landmarks
from ukd.eval.retrieval.describers import Describer, SquareViews, WholeViews
from ukd.eval.retrieval.figures import Figures
from ukd.eval.retrieval.views import WholeView
from ukd.eval.runner import SEED
from ukd.neighbours import backend

LEVELS = ("easy", "medium", "hard")
OWN_CODES = (
    "student and teacher of a run with a hash head have the codes that it trained, the teacher's by the rotation of "
    "its features that the head was taught; all others have a bit a dimension, whether it exceeds its mean"
)
OFFICIAL = 8
"""Kinds of objects in the whole of FORB."""


class Table(NamedTuple):
    """A table of figures.

    Attributes:
        title: What is shown.
        columns: Heads, each with the name of the figure below it.
    """

    title: str
    columns: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Benchmark:
    """A kind of retrieval on its images.

    Attributes:
        kind: `class`, `roxford`, ...
        preset: Its protocol.
        queries: Sets of queries, by what results call them.
        database: What is searched, set after set.
        queries_by: How queries are described.
        database_by: How the database is described, and images that whitening is fitted on.
        measure: Features of the queries, set by set, and of the database, to figures.
        tables: What is shown.
        headline: Name of the figure by which a student is compared with its teacher, and what it is in words.
        search: What computes it.
        pixels: Whether raw pixels are a baseline that it can afford.
        warnings: What a reader must know whatever the model.
        of_codes: The same of models whose run trained a hash head, where it can use that.
    """

    kind: str
    preset: NamedPreset
    queries: Mapping[str, Images]
    database: Sequence[Images]
    queries_by: Describer
    database_by: Describer
    measure: Callable[[Sequence[Embeddings], Embeddings], Figures]
    tables: Sequence[Table]
    headline: tuple[str, str]
    search: str
    pixels: bool = True
    warnings: tuple[str, ...] = ()
    of_codes: Benchmark | None = None


def by_class(
    queries: LabelledSet, database: LabelledSet | None, preset: classes.Preset, extraction: Extraction
) -> Benchmark:
    """Retrieval by class, from a database or, without one, among the queries themselves."""
    own = database is None
    searched = database or queries

    def measure(rows: Sequence[Embeddings], database_rows: Embeddings) -> Figures:
        return classes.evaluate(rows[0], queries.labels, database_rows, searched.labels, preset, own=own, seed=SEED)

    num_found = len(searched.images) - own
    columns = [(f"R@{k}", f"recall_at_{k}") for k in preset.ks if k <= num_found]
    columns += [("R-prec.", "r_precision"), ("MAP@R", "map_at_r"), ("map_full", "map_full")]
    return Benchmark(
        "class",
        preset,
        {"queries": queries.images},
        [searched.images],
        describer := SquareViews(extraction),
        describer,
        measure,
        [Table("Retrieval by class" + (", leave-one-out" if own else ""), columns)],
        ("map_at_r", "MAP@R"),
        backend(),
    )


def by_hash(queries: LabelledSet, database: LabelledSet, preset: hashing.Preset, extraction: Extraction) -> Benchmark:
    """Retrieval by class between codes: those of the run's hash head, or signs."""

    def measure(make: Callable[[Embeddings], hashing.Coder], rows: Sequence[Embeddings], found: Embeddings) -> Figures:
        coder = make(found)
        query_codes, codes = coder.codes(rows[0]), coder.codes(found)
        return hashing.evaluate(query_codes, queries.labels, codes, database.labels, preset, seed=SEED)

    ks = [k for k in preset.ks if k <= len(database.images)]
    heads = {
        "map over\nretrieved": "map_at_{}_over_retrieved",
        "map over\nmin(R, k)": "map_at_{}_over_min_r_k",
        "map over\nall": "map_at_{}_over_all",
        "\nprecision": "precision_at_{}",
    }
    columns = [(f"{head}\nk={k}", name.format(k)) for k in ks for head, name in heads.items()]
    by_signs = Benchmark(
        "hash",
        preset,
        {"queries": queries.images},
        [database.images],
        describer := SquareViews(extraction),
        describer,
        partial(measure, hashing.SignCoder),
        [Table("Hamming distance of codes, ties in expectation", columns)],
        (f"map_at_{ks[0] if ks else 0}_over_retrieved", "map over retrieved"),
        "numpy popcount",
    )
    by_head = replace(
        by_signs,
        preset=replace(preset, name=f"{preset.name}-own-codes", coder="head"),
        measure=partial(measure, lambda found: hashing.HeadCoder(found.shape[1])),
        warnings=(OWN_CODES,),
    )
    return replace(by_signs, of_codes=by_head)


def by_landmark(kind: str, found: landmarks.Landmarks, preset: landmarks.Preset, extraction: Extraction) -> Benchmark:
    """Retrieval of landmarks, with queries cropped and whole."""
    describer = WholeViews(extraction, WholeView(preset.image_px, scales=preset.scales))

    def measure(rows: Sequence[Embeddings], database_rows: Embeddings) -> Figures:
        shares, warnings = dict[str, Share](), dict[str, None]()
        for how, each in zip(("cropped", "whole"), rows, strict=True):
            figures = landmarks.evaluate(each, database_rows, found.truth, preset, seed=SEED)
            shares |= {f"{name}_{how}": share for name, share in figures.shares.items()}
            warnings |= dict.fromkeys(figures.warnings)
        return Figures(shares, tuple(warnings))

    def columns(metric: str) -> list[tuple[str, str]]:
        return [
            (f"{how if level == LEVELS[0] else ''}\n{level}", f"{metric}_{level}_{how}")
            for how in ("cropped", "whole")
            for level in LEVELS
        ]

    k = max(preset.ks)
    return Benchmark(
        kind,
        preset,
        {"cropped": found.cropped, "whole": found.queries},
        [found.database],
        describer,
        describer,
        measure,
        [
            Table("map_trapz, queries cropped to their box and whole", columns("map_trapz")),
            Table(f"mP@{k}, queries cropped to their box and whole", columns(f"mp_at_{k}")),
        ],
        ("map_trapz_medium_cropped", "map_trapz, medium, cropped"),
        backend(),
        pixels=False,
    )


def by_copy(
    found: copydays.Copydays, distractors: Images | None, preset: copydays.Preset, extraction: Extraction
) -> Benchmark:
    """Detection of copies."""
    describer = WholeViews(extraction, WholeView(preset.image_px, squash=True, gem=preset.gem))

    def measure(rows: Sequence[Embeddings], database_rows: Embeddings) -> Figures:
        return copydays.evaluate(rows, found.answers, database_rows, preset, seed=SEED)

    groups = [group for group in copydays.GROUPS if any(block.split("/")[0] == group for block in found.queries)]
    name = f"map_trapz_at_{preset.k}"
    return Benchmark(
        "copydays",
        preset,
        found.queries,
        [found.originals, *([distractors] if distractors else [])],
        describer,
        describer,
        measure,
        [Table(f"Copydays, {name}", [(group, f"{name}_{group}") for group in groups])],
        (f"{name}_{groups[0]}", f"{name}, {groups[0]}"),
        backend(),
        pixels=False,
        warnings=()
        if distractors
        else ("no distractors: papers add 10,000 images, among which copies are harder to find",),
    )


def by_object(found: forb.Forb, preset: forb.Preset, extraction: Extraction) -> Benchmark:
    """Retrieval of flat objects, and of none where there is none."""

    def measure(rows: Sequence[Embeddings], database_rows: Embeddings) -> Figures:
        return forb.evaluate(
            rows[0],
            database_rows[found.inside],
            database_rows[found.outside],
            found.answers,
            found.levels,
            preset,
            seed=SEED,
        )

    k = max(preset.ks)
    columns = [(f"t-mAP@{k}", f"tmap_at_{k}") for k in preset.ks]
    columns += [(f"@{k}\n{level}", f"tmap_at_{k}_{level}") for level in LEVELS if level in found.levels]
    columns += [(f"map@{k}\nover all", f"map_at_{k}_over_all") for k in preset.ks]
    left = f"{len(found.objects)} of {OFFICIAL} kinds of objects ({', '.join(found.objects)}): not FORB's own figure"
    return Benchmark(
        "forb",
        preset,
        {"queries": found.queries},
        [found.database],
        SquareViews(extraction, preset.query_scales),
        SquareViews(extraction, preset.database_scales),
        measure,
        [Table("FORB, thresholds at false-positive rates 0, 0.1, ..., 1", columns)],
        (f"tmap_at_{k}", f"t-mAP@{k}"),
        backend(),
        warnings=() if len(found.objects) == OFFICIAL else (left,),
    )
