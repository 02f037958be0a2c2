"""Square views at several scales: what each shows, and how they are averaged."""

from __future__ import annotations

import numpy as np
import torch

from ukd.backbones import build_backbone
from ukd.data import ArrayImages
from ukd.eval.extraction import Extraction
from ukd.eval.models import Subject
from ukd.eval.retrieval.describers import SquareViews
from ukd.views import evaluation_view, to_unit_range

SIZE_PX = 16


def subject() -> Subject:
    return Subject("model", "here", build_backbone(arch="test_resnet", frozen=True), SIZE_PX, 0.875)


def images() -> ArrayImages:
    return ArrayImages("noise", np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8))


def test_unit_features_of_all_scales_are_averaged() -> None:
    model, shown = subject(), images()
    extraction = Extraction(torch.device("cpu"), num_workers=0)
    (rows,) = SquareViews(extraction, (2.0, 1.0, 0.5)).rows(model, [shown])
    for number, row in enumerate(rows):
        at = []
        for scale in (2.0, 1.0, 0.5):  # At half the size, black surrounds the image.
            view = torch.tensor(evaluation_view(shown.read(number), SIZE_PX, 1 / scale))
            at.append(model.backbone(to_unit_range(view)[None]).pooled[0].numpy())
        expected = np.mean([each / np.linalg.norm(each) for each in at], axis=0)
        np.testing.assert_allclose(row, expected, atol=2e-3)
        assert np.linalg.norm(at[0] / np.linalg.norm(at[0]) - at[2] / np.linalg.norm(at[2])) > 0.1


def test_without_scales_it_is_the_view_of_every_task() -> None:
    model, extraction = subject(), Extraction(torch.device("cpu"), num_workers=0)
    plain, scaled = SquareViews(extraction), SquareViews(extraction, (1.0,))
    np.testing.assert_array_equal(plain.rows(model, [images()])[0], extraction.features(model, [images()])[0])
    assert plain.view(model) == {"size_px": SIZE_PX, "crop_pct": 0.875}
    assert scaled.view(model) == {"size_px": SIZE_PX, "scales": (1.0,)}
    assert plain.kind(model) == "pooled"
