"""One model under one preset: from images and labels to heads and figures, and the proof that it stayed frozen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from ukd.blocks import Embeddings
from ukd.data import Subset
from ukd.errors import TrainingError
from ukd.eval.extraction import PROJECTED, Extraction
from ukd.eval.labelled import LabelledSet
from ukd.eval.linear.choice import LinearResult
from ukd.eval.linear.presets import PRESETS, Preset
from ukd.eval.linear.probe import Batches, Sets, probe
from ukd.eval.linear.rows import CachedBatches, Layout, Standardiser, ViewBatches, layout_of, near
from ukd.eval.linear.saved import Saved
from ukd.eval.linear.schedule import Schedule
from ukd.eval.models import Subject
from ukd.eval.splits import check_classes, single_image_warning, stratified_holdout
from ukd.kinds import POOLED
from ukd.log import progress


@dataclass(frozen=True)
class Probed:
    """A model's figures under one preset, and what they were measured on.

    Attributes:
        result: The figures.
        test_rows: [q, W] features of the test images, as extracted.
        extraction: How.
    """

    result: LinearResult
    test_rows: Embeddings
    extraction: Extraction


def probe_subject(
    subject: Subject,
    train: LabelledSet,
    test: LabelledSet,
    preset: Preset,
    extraction: Extraction,
    saved: Saved,
    *,
    seed: int,
) -> Probed:
    """Train a preset's heads on a frozen model.

    Args:
        subject: The model.
        train: Images to learn from.
        test: Images to classify.
        preset: The protocol.
        extraction: How evaluation views are extracted, and on which device heads are trained.
        saved: Where a probe of random views that is interrupted continues from.
        seed: Seed of the order, the views, the first weights, the held-out images and the intervals.

    Raises:
        DataError: The labels do not serve, an image cannot be read, or features are NaN or infinite.
        TrainingError: Every head diverged, or the model is not what it was before.
    """
    subject = replace(extraction, kind=preset.features).of(subject)
    weights = subject.shown.weights_hash()
    material = _prepare(subject, train, test, preset, extraction, seed)
    place = None
    if preset.views == "random":  # Of cached features a probe takes seconds to minutes, and is begun anew.
        facts = {"train": train.facts(), "test": test.facts(), "view": extraction.view_of(subject)}
        place = saved.of({"weights": weights, "preset": preset.hash, "seed": seed, **facts})
    state = place.latest() if place else None
    num_images = Schedule(preset, len(train.labels)).num_steps * preset.batch_size
    with progress(f"{subject.role}: {preset.name}", num_images) as advance:
        advance(state["step"] * preset.batch_size if state else 0)
        save = place.save if place else None
        result = probe(material.batches, material.sets, preset, seed=seed, state=state, save=save, advance=advance)
    if subject.shown.weights_hash() != weights:
        raise TrainingError(
            f"linear: the weights or batch statistics of {subject.role} ({subject.source}) changed while heads were "
            "trained on them, so the figures are those of no model; it must be frozen and in evaluation mode"
        )
    notes = _notes(preset, material.layout, subject, train)
    result = replace(result, warnings=(*notes, *result.warnings))
    kind = PROJECTED if subject.projected else material.layout.kind
    return Probed(result, material.test_rows, replace(extraction, kind=kind))


@dataclass(frozen=True)
class _Material:
    """What a probe works on."""

    batches: Batches
    sets: Sets
    layout: Layout
    test_rows: Embeddings


def _prepare(
    subject: Subject, train: LabelledSet, test: LabelledSet, preset: Preset, extraction: Extraction, seed: int
) -> _Material:
    """Number the classes, hold images out, and extract the evaluation views that are needed."""
    check_classes("linear", train.labels, test.labels, train.images.class_names)
    heldout = stratified_holdout("linear", train.labels, preset.heldout_share, seed)
    device, (size_px, _) = extraction.device, extraction.view_of(subject)
    layout = layout_of(subject.shown.to(device), preset, size_px)
    # All training images in the evaluation view are needed only where heads or their normalisation learn from them.
    whole = preset.views == "centre" or preset.norm == "l2_standardised"
    shown = train.images if whole else Subset(train.images, np.flatnonzero(heldout))
    test_rows, shown_rows = replace(extraction, kind=layout.kind).features(subject, [test.images, shown])
    rows, mask = torch.from_numpy(shown_rows), torch.from_numpy(heldout)
    standardise = Standardiser(rows, device) if preset.norm == "l2_standardised" else None
    tested, kept = (each.to(device) for each in (torch.from_numpy(test_rows), rows[mask] if whole else rows))
    classes, targets = np.unique(train.labels, return_inverse=True)
    sets = Sets(
        targets=torch.from_numpy(targets).to(device),
        heldout=mask.to(device),
        heldout_rows=standardise(kept) if standardise else kept,
        test_rows=standardise(tested) if standardise else tested,
        test_targets=torch.from_numpy(np.searchsorted(classes, test.labels)).to(device),
        columns=layout.columns,
        num_classes=len(classes),
        class_token=layout.class_token,
    )
    if preset.views == "centre":
        cached = CachedBatches(near(rows, device), preset.batch_size, seed, device, standardise)
        return _Material(cached, sets, layout, test_rows)
    views = ViewBatches(
        backbone=subject.shown,
        kind=layout.kind,
        images=train.images,
        size_px=size_px,
        preset=preset,
        seed=seed,
        forward_size=extraction.batch_size,
        num_workers=extraction.num_workers,
        standardise=standardise,
    )
    return _Material(views, sets, layout, test_rows)


def _notes(preset: Preset, layout: Layout, subject: Subject, train: LabelledSet) -> Iterator[str]:
    """What a reader must know beside the figures."""
    published = PRESETS[preset.name.removesuffix("-custom")]
    if preset.batch_size != published.batch_size:
        rates = "scaled in proportion" if preset.lr_batch else "left as they are"
        yield (
            f"{preset.name}: a step has {preset.batch_size} images where {published.name} has {published.batch_size}; "
            f"learning rates are {rates}, and the figures are not those of {published.name}"
        )
    if preset.batch_size > len(train.labels):
        yield (
            f"{preset.name}: a step of {preset.batch_size} images passes over the {len(train.labels)} training images "
            "more than once"
        )
    if preset.features in ("dino", "dinov2") and layout.kind == POOLED:
        yield (
            f"{preset.name}: {subject.backbone.info.arch} has no class token in its last blocks: heads look at its "
            "pooled features alone"
        )
    yield from single_image_warning(train.labels)
