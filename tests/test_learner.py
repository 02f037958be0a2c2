"""What one step shows to student, teacher and EMA student, and how it reaches the objective."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import Tensor, nn

from ukd.backbones import Backbone, BackboneInfo, Teacher
from ukd.errors import UserError
from ukd.features import Masking, Wanted
from ukd.learner import Learner, show, teach
from ukd.mixing import Mix
from ukd.objectives import Batch, Needs, Objective
from ukd.objectives.base import BOTH, EMA, FIRST, NONE, SECOND

GRAY = BackboneInfo("gray", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Corner(nn.Module):
    """A model whose feature is the first pixel's colour, times a weight."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0] * self.weight


class Listener(Objective):
    """An objective that keeps what it is given."""

    def __init__(self, needs: Needs) -> None:
        super().__init__()
        self.needs = needs
        self.batches: list[Batch] = []
        self.steps: list[float] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.batches.append(batch)
        return {"sum": sum((view.pooled.sum() for view in batch.student.values()), torch.zeros(()))}

    def after_step(self, progress: float) -> None:
        self.steps.append(progress)


def listen(needs: Needs, num_views: int = 1, bag_size: int = 1) -> tuple[Batch, list[Tensor]]:
    torch.manual_seed(0)
    views = [torch.rand(4, 3, 6, 6) for _ in range(num_views)]
    small = [torch.rand(4, 3, 2, 2) for _ in range(2)]
    shown = show(views, small, needs, bag_size, Mix(0.5, (0.0, 0.0)))
    objective = Listener(needs)
    learner = Learner(Backbone(Corner(), GRAY), objective)
    taught = [teach(Teacher(Corner(), GRAY), shown, needs)] if needs.teacher else []
    learner(shown, taught, torch.arange(4), bag_size, 0.25)
    return objective.batches[0], [*views, *small]


def corner(view: Tensor) -> Tensor:
    return view[:, :, 0, 0]


def test_one_view_for_both() -> None:
    batch, (view, *_) = listen(Needs())
    torch.testing.assert_close(batch.student[0].pooled, corner(view))
    torch.testing.assert_close(batch.teacher[0].pooled, corner(view))
    assert not batch.teacher[0].pooled.requires_grad
    assert (batch.rotated, batch.small, batch.cutmix, batch.masked, batch.ema) == (None, None, None, None, {})
    assert batch.progress == 0.25


def test_each_network_sees_the_views_that_are_asked_for_and_no_others() -> None:
    needs = Needs(frozenset({0, 2}), SECOND, BOTH, ema=EMA(0.5, 0.5))
    batch, views = listen(needs, num_views=3)
    assert (set(batch.student), set(batch.teacher), set(batch.ema)) == ({0, 2}, {1}, {0, 1})
    for network in (batch.student, batch.teacher, batch.ema):
        for number, found in network.items():
            torch.testing.assert_close(found.pooled, corner(views[number]))
    assert needs.num_views == 3


def test_rotations_are_the_first_views_corners_in_turn() -> None:
    batch, (view, *_) = listen(Needs(rotations=True))
    assert batch.rotated is not None
    corners = [view[:, :, 0, -1], view[:, :, -1, -1], view[:, :, -1, 0]]
    for network in (batch.rotated.student, batch.rotated.teacher):
        for found, expected in zip(network.values(), corners, strict=True):
            torch.testing.assert_close(found.pooled, expected)


def test_small_crops_reach_both_networks_where_they_are_needed() -> None:
    batch, (_, *small) = listen(Needs(small=True))
    assert batch.small is not None
    for network in (batch.small.student, batch.small.teacher):
        for found, view in zip(network.values(), small, strict=True):
            torch.testing.assert_close(found.pooled, corner(view))


def test_anchors_are_covered_by_their_first_neighbours() -> None:
    batch, (view, *_) = listen(Needs(cutmix=True), bag_size=2)
    assert batch.cutmix is not None and batch.bag_size == 2
    # The box begins in the corner that the model looks at.
    torch.testing.assert_close(batch.cutmix.student.pooled, corner(view)[1::2])
    assert batch.cutmix.share == 1 - (2 * 2) / 36


def test_a_pretraining_has_no_teacher() -> None:
    batch, _ = listen(Needs(BOTH, NONE), num_views=2)
    assert batch.teacher == {} and len(batch.student) == 2


def test_the_ema_student_follows_and_is_never_trained() -> None:
    needs = Needs(FIRST, NONE, FIRST, ema=EMA(0.9, 0.9))
    objective = Listener(needs)
    learner = Learner(Backbone(Corner(), GRAY), objective)
    shown = show([torch.rand(4, 3, 6, 6)], [], needs, 1, None)
    learner(shown, [], torch.arange(4), 1, 0.0)["sum"].backward()
    ema = objective.batches[0].ema[0]
    assert not ema.pooled.requires_grad
    with torch.no_grad():
        learner.student.model.weight.fill_(2.0)
    learner.after_step(0.5)
    assert learner.ema_student is not None
    assert float(learner.ema_student.model.weight) == pytest.approx(1.1)
    assert not learner.ema_student.model.weight.requires_grad
    assert objective.steps == [0.5]
    assert "ema_student.model.weight" in learner.state_dict()


def test_ema_momentum_is_a_half_cosine() -> None:
    ema = EMA(0.9, 1.0)
    assert [ema.at(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])
    assert ema.at(0.25) == pytest.approx(1.0 - 0.1 * (1 + math.cos(math.pi / 4)) / 2)
    assert EMA(0.99, 0.99).at(0.7) == pytest.approx(0.99)


def test_two_different_ema_students_are_refused() -> None:
    one, other = Needs(ema=EMA(0.9, 0.9)), Needs(ema=EMA(0.99, 0.99))
    assert (one | Needs()).ema == (one | one).ema == one.ema
    with pytest.raises(UserError, match=r"momentum 0\.9 and 0\.99 cannot be one"):
        _ = one | other


def test_hidden_patches_reach_the_student_alone() -> None:
    class Hiding(Listener):
        def masking(self) -> Masking | None:
            return Masking(torch.zeros(64), prob=1.0, share=0.5)

    objective = Hiding(Needs(student=Wanted(tokens=True), of_teacher=Wanted(tokens=True)))
    student, teacher = (timm.create_model("test_vit", num_classes=0, img_size=24, patch_size=8) for _ in range(2))
    info = BackboneInfo("test_vit")
    shown = show([torch.rand(4, 3, 24, 24)], [], objective.needs, 1, None)
    taught = teach(Teacher(teacher, info), shown, objective.needs)
    Learner(Backbone(student, info), objective)(shown, [taught], torch.arange(4), 1, 0.0)
    (batch,) = objective.batches
    assert batch.masked is not None and batch.masked.mask is not None
    assert batch.masked.mask.sum(1).tolist() == [4, 4, 4, 4]
    assert batch.masked.tokens is not None and batch.student[0].mask is None and batch.teacher[0].mask is None
    assert batch.teacher[0].tokens is not None and batch.teacher[0].tokens.shape == (4, 9, 64)
