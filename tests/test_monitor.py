"""What is measured on the way: exact where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ukd.backbones import Backbone, BackboneInfo, Teacher
from ukd.data import ArrayImages, Pixels
from ukd.eval.labelled import LabelledSet
from ukd.monitor import Monitor


class MeanColour(nn.Module):
    """A model whose embedding is the mean colour, its channels weighted."""

    num_features = 3

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights or (1.0, 1.0, 1.0)))

    def forward(self, views: Tensor) -> Tensor:
        return views.mean((2, 3)) * self.weights


PLAIN = BackboneInfo("mean", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def photos(num: int, seed: int = 0) -> ArrayImages:
    return ArrayImages("photos", np.random.default_rng(seed).integers(0, 256, (num, 1, 1, 3), dtype=np.uint8))


def monitor(**changes: object) -> Monitor:
    plain = Monitor(photos(40), None, Teacher(MeanColour(), PLAIN), 5, 8, 1.0, torch.device("cpu"), 0)
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_teacher_shares_all_neighbours_with_itself() -> None:
    watching = monitor()
    assert watching.lists is None
    figures = watching.measure(Backbone(MeanColour(), PLAIN))
    assert figures.keys() == {"knn_overlap", "rankme"} and figures["knn_overlap"] == 1
    assert watching.lists is not None
    of_teacher, of_student = watching.lists
    assert of_teacher.shape == (40, 5) and np.array_equal(of_teacher, of_student)


def test_another_space_shares_fewer_and_the_teacher_is_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watching = monitor()
    assert watching.teacher is not None
    watching.measure(student := Backbone(MeanColour(1.0, 1.0, 0.1), PLAIN))
    monkeypatch.setattr(watching.teacher, "forward", None)  # Calling it again would fail.
    overlap = watching.measure(student)["knn_overlap"]
    assert 0.1 < overlap < 0.9 and student.training
    # By hand, from the definition.
    lists = []
    for weights in ((1.0, 1.0, 1.0), (1.0, 1.0, 0.1)):
        rows = np.stack([photos(40).read(i)[0, 0] for i in range(40)]) * np.array(weights)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        lists.append(np.argsort(-(rows @ rows.T) + 9 * np.eye(40), axis=1)[:, :5])
    shared = [len(set(one) & set(other)) / 5 for one, other in zip(*lists, strict=True)]
    assert overlap == pytest.approx(np.mean(shared))


def test_few_held_out_images_are_all_compared() -> None:
    watching = monitor(watched=photos(4))
    watching.measure(Backbone(MeanColour(), PLAIN))
    assert watching.lists is not None and watching.lists[0].shape == (4, 3)


def coloured(labels: list[int], shown: list[int] | None = None) -> LabelledSet:
    """Images that show red, green or blue, each with a label."""
    pixels = 200 * np.eye(3, dtype=np.uint8)[shown or labels][:, None, None] + 20
    return LabelledSet(ArrayImages("coloured", pixels.astype(np.uint8)), np.array(labels))


@pytest.mark.parametrize(("labels", "top1"), [([0, 1, 2, 2], 1.0), ([1, 1, 2, 0], 0.5)])
def test_accuracy_of_neighbours_that_are_known(labels: list[int], top1: float) -> None:
    queries = coloured(labels, shown=[0, 1, 2, 2])
    watching = monitor(watched=None, labelled=(coloured([0, 1, 2] * 10), queries))
    assert watching.measure(Backbone(MeanColour(), PLAIN)) == {"knn_top1": pytest.approx(top1)}
    assert watching.lists is None


def test_without_data_nothing_is_measured() -> None:
    assert monitor(watched=None).measure(Backbone(MeanColour(), PLAIN)) == {}
    assert monitor(teacher=None).measure(Backbone(MeanColour(), PLAIN)).keys() == {"rankme"}


def test_rank_counts_dimensions_and_a_collapse_is_named_once() -> None:
    pixels = 255 * np.tile(np.eye(3, dtype=np.uint8), (4, 1))[:, None, None]
    watching = monitor(watched=ArrayImages("primary", pixels), teacher=None)
    lines: list[str] = []
    assert watching.measure(Backbone(MeanColour(), PLAIN), lines.append)["rankme"] == pytest.approx(3.0, abs=1e-4)
    assert not lines
    collapsed = Backbone(MeanColour(1.0, 0.0, 0.0), PLAIN)
    for _ in range(2):
        assert watching.measure(collapsed, lines.append)["rankme"] == pytest.approx(1.0, abs=1e-4)
    (line,) = lines
    assert line.startswith("the features have collapsed: RankMe 1.00 of 3 dimensions")


class Damaged(ArrayImages):
    def read(self, index: int) -> Pixels:
        if index == 3:
            raise OSError("damaged")
        return super().read(index)


def test_an_image_that_cannot_be_read_is_named_once() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 1, 1, 3), dtype=np.uint8)
    damaged = Damaged("damaged", pixels)
    student = Backbone(MeanColour(), PLAIN)
    lines: list[str] = []
    watching = monitor(watched=damaged, labelled=(LabelledSet(damaged, np.zeros(200, int)), coloured([0])))
    for _ in range(2):
        figures = watching.measure(student, lines.append)
        assert figures["knn_overlap"] == figures["knn_top1"] == 1.0
    assert lines == ["unreadable image skipped: #3 (1 so far)"]
