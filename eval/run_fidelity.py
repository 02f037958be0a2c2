"""`ukd-eval fidelity`: students beside their teachers, the result file and the table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from ukd.data import Images, Subset, open_images
from ukd.errors import UserError
from ukd.eval import tables
from ukd.eval.asymmetry import beside
from ukd.eval.extraction import PROJECTED, Extraction
from ukd.eval.fidelity import Fidelity, Preset, chosen_images, compare, space_of
from ukd.eval.models import Subject, agreed_by_runs, candidates, teacher_of
from ukd.eval.results import Metric
from ukd.eval.runner import SEED, Entry, Measured, ResultFiles, record_of
from ukd.neighbours import backend


class Source(NamedTuple):
    """Where the images are, as `ukd.data.open_images` takes them."""

    images: str
    root: str = "data"
    download: bool = False


@dataclass(frozen=True)
class Figures:
    """A comparison, and whom with."""

    fidelity: Fidelity
    teacher: str
    teacher_dim: int


def run_fidelity(
    checkpoints: Sequence[str],
    *,
    source: Source,
    against: str | None,
    preset: Preset,
    extraction: Extraction,
    baselines: bool,
    output: Path | None,
) -> tuple[list[Measured[Figures]], list[Path]]:
    """Compare every checkpoint with its teacher on unlabelled images.

    Args:
        checkpoints: Run folders, files of weights, or `timm:NAME`.
        source: Images; their labels, if they have any, are never used.
        against: The checkpoint to compare with; None takes the teacher that a run's recipe names.
        preset: What is compared.
        extraction: How features are extracted.
        baselines: Compare a run's raw pixels and untrained self too.
        output: One file for all results, in place of those beside the checkpoints.

    Returns:
        The figures in the order of the table, and the files written.

    Raises:
        UserError: A checkpoint has no teacher, or it, the images or the output cannot be used.
    """
    images = open_images(source.images, root=Path(source.root), download=source.download)
    chosen = chosen_images(images, preset.max_images)
    shown: Images = images if chosen is None else Subset(images, chosen)
    facts = {"name": shown.name, "n": len(shown), "of": len(images), "fingerprint": shown.fingerprint()}
    measured: list[Measured[Figures]] = []
    files = ResultFiles("fidelity", output)
    for checkpoint in checkpoints:
        teacher = _teacher(checkpoint, against, extraction.kind)
        (rows,) = extraction.features(teacher, [shown])
        teacher_space = space_of(rows, preset)
        for subject in candidates(checkpoint, baselines=baselines):
            start = time.monotonic()
            (rows,) = extraction.features(subject, [shown])
            fidelity = compare(space_of(rows, preset), teacher_space, preset, seed=SEED)
            figures = Figures(fidelity, teacher.source, teacher.shown.dim)
            measured.append(Measured(subject.role, checkpoint, subject.backbone.num_parameters, figures))
            record = record_of("fidelity", subject, extraction, rows, {"images": facts}, "none", {"search": backend()})
            size_px, crop_pct = extraction.view_of(teacher)
            reference = {**teacher.facts(), "size_px": size_px, "crop_pct": crop_pct}
            record = replace(record, reference=reference, wall_s=round(time.monotonic() - start, 3))
            files.add(checkpoint, record, [Entry(preset, dict(_metrics(fidelity)), fidelity.warnings)])
    return measured, files.write()


def source_of(checkpoints: Sequence[str]) -> Source:
    """Find the images that the checkpoints' own recipes name: the labelled test images, else the training images.

    Raises:
        UserError: They name none, or not the same.
    """
    return agreed_by_runs(
        checkpoints,
        lambda data: Source(data.labelled_test or data.train, data.root, data.download),
        missing="fidelity: no images: give --images; only a run folder names its own",
        differing="name different images; give --images",
    )


def show_fidelity(console: Console, measured: Sequence[Measured[Figures]]) -> None:
    """Print every figure, what chance and the teacher would have, and every warning once."""
    first = measured[0].figures.fidelity
    ks = [f"\nk={k}" for k in first.mutual_knn]
    columns = ["kNN" + ks[0], *ks[1:], "CKA", "trust-\nworthy", "conti-\nnuous", "RankMe", "norm\ncorr."]
    title = f"Fidelity to the teacher on {first.num_images} images, mutual kNN in %"
    cells = [_cells(each.figures.fidelity) for each in measured]
    console.print(tables.model_table(title, columns, measured, cells))
    columns = ["L2 kNN" + ks[0], *ks[1:], "cosine of\ndimensions", "Procrustes\nerror"]
    title = "Distances and dimensions, features as they are"
    cells = [_raw_cells(each.figures.fidelity) for each in measured]
    console.print(tables.model_table(title, columns, measured, cells))
    chance = ", ".join(f"{tables.percent(share)} % at k={k}" for k, share in first.chance.items())
    console.print(f"chance: mutual kNN of either kind {chance}; CKA 0", highlight=False, markup=False, soft_wrap=True)
    for figures in {each.figures.teacher: each.figures for each in measured}.values():
        line = f"RankMe of the teacher {figures.teacher}: {figures.fidelity.teacher_rank:.1f} of {figures.teacher_dim}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    tables.show_notes(console, (note for each in measured for note in each.figures.fidelity.warnings))


def _teacher(checkpoint: str, against: str | None, kind: str) -> Subject:
    if against is None:
        teacher = teacher_of(checkpoint)
        if teacher is None:
            raise UserError(f"fidelity: {checkpoint} names no teacher; give --against")
    else:
        (subject,) = candidates(against, baselines=False)
        teacher = replace(subject, role="teacher")
    return beside(teacher, checkpoint, kind) if kind == PROJECTED else teacher


def _metrics(fidelity: Fidelity) -> Iterator[tuple[str, Metric]]:
    by_k = {
        "mutual_knn": fidelity.mutual_knn,
        "mutual_knn_l2": fidelity.mutual_knn_l2,
        "mutual_knn_chance": fidelity.chance,
    }
    for name, shares in by_k.items():
        for k, share in shares.items():
            yield f"{name}_k{k}", Metric(share, fidelity.num_images)
    figures = {
        "cka_unbiased": (fidelity.cka, fidelity.num_images),
        "trustworthiness": (fidelity.trustworthiness, fidelity.num_ranked),
        "continuity": (fidelity.continuity, fidelity.num_ranked),
        "rankme": (fidelity.rank, fidelity.num_images),
        "rankme_teacher": (fidelity.teacher_rank, fidelity.num_images),
        "norm_correlation": (fidelity.length_correlation, fidelity.num_images),
        "dimension_cosine": (fidelity.dimension_cosine, fidelity.num_images),
        "procrustes_error": (fidelity.procrustes_error, fidelity.num_images),
    }
    yield from ((name, Metric(value, num)) for name, (value, num) in figures.items() if value is not None)


def _cells(fidelity: Fidelity) -> list[str]:
    values = [fidelity.cka, fidelity.trustworthiness, fidelity.continuity, fidelity.length_correlation]
    cka, trust, continuity, lengths = ("-" if value is None else f"{value:.3f}" for value in values)
    shared = [tables.percent(share) for share in fidelity.mutual_knn.values()]
    return [*shared, cka, trust, continuity, f"{fidelity.rank:.1f}", lengths]


def _raw_cells(fidelity: Fidelity) -> list[str]:
    values = fidelity.dimension_cosine, fidelity.procrustes_error
    shared = [tables.percent(share) for share in fidelity.mutual_knn_l2.values()]
    return [*shared, *("-" if value is None else f"{value:.3f}" for value in values)]
