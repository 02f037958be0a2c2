"""What happens to whole batches on their way: cut into parts, mixed, or refused before the first step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.commands import invoke
from tests.tiny import World
from ukd.backbones import Backbone
from ukd.cli.distill import app
from ukd.distill import build_run, distill
from ukd.features import Features
from ukd.train import batches, loss_terms

CPU = torch.device("cpu")
LINEAR = {"name": "cosine", "head": "linear"}


def trained(world: World, output: Path, **changes: Any) -> dict[str, torch.Tensor]:
    raw = world.distillation(output, student=tiny.NORMLESS, objective=LINEAR, precision="fp64", epochs=1.0, **changes)
    return tiny.student_weights(distill(tiny.parse(raw)))


def test_a_batch_in_parts_gives_the_same_step(world: World, tmp_path: Path) -> None:
    whole = trained(world, tmp_path / "whole")
    parts = trained(world, tmp_path / "parts", accumulate=4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-10, atol=1e-12)
    figures = [tiny.metrics(tmp_path / run, "loss") for run in ("whole", "parts")]
    assert figures[0] == pytest.approx(figures[1], rel=1e-10)


@pytest.mark.parametrize("kind", ["mixup_prob", "cutmix_prob"])
def test_teacher_and_student_see_the_same_mixed_pixels(
    kind: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    forward = Backbone.forward

    def watched(self: Backbone, views: torch.Tensor, *arguments: Any) -> Features:
        seen.setdefault(type(self).__name__, []).append(views)
        return forward(self, views, *arguments)

    monkeypatch.setattr(Backbone, "forward", watched)
    views = world.distillation(tmp_path)["views"]
    pixels = []
    for prob in (0.0, 1.0):
        run = build_run(tiny.parse(world.distillation(tmp_path / "run", views={**views, kind: prob})), CPU)
        seen.clear()
        loss_terms(run, run.learner, next(iter(batches(run, 0))), step=0)
        (teacher,), (student,) = seen["Teacher"], seen["Backbone"]
        assert torch.equal(teacher, student)
        pixels.append(student)
    plain, mixed = pixels
    changed = (plain != mixed).flatten(1).any(1)
    assert changed.all(), "every image has a partner"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "queue as large as the data": (
        {"objective": {"name": "seed", "queue_size": 144}},
        "a queue of 144 images is no smaller than the data set of 144, so it would hold the images that are "
        "compared with it; choose queue_size < 144",
    ),
    "parts of a batch-coupled loss": (
        {"accumulate": 2},
        "accumulate: coss compares the images of a batch with one another, so a batch in 2 parts would have another "
        "loss; choose accumulate: 1, or more processes",
    ),
    "parts that do not come out even": (
        {"objective": "cosine", "accumulate": 3},
        "batch_size: 16 images cannot be shared equally by 1 processes in 3 parts; choose a multiple of 3",
    ),
    "odd parts of mixed batches": (
        {"objective": "cosine", "accumulate": 16, "views": {"size_px": 24, "mixup_prob": 0.5}},
        "in 16 parts, each a multiple of 2 images; choose a multiple of 32",
    ),
    "small crops that nobody uses": (
        {"objective": "cosine", "views": {"size_px": 24, "num_small": 2}},
        "views.num_small: cosine does not use small crops; choose num_small: 0",
    ),
    "teachers that nobody listens to": (
        {"more_teachers": [{"arch": "test_resnet"}]},
        "more_teachers: coss listens to one teacher; take `objective: multi`, or leave them out",
    ),
    "too much mixing": (
        {"views": {"size_px": 24, "mixup_prob": 0.6, "cutmix_prob": 0.6}},
        "mixup_prob 0.6 and cutmix_prob 0.6 must be at most 1 together",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
@pytest.mark.parametrize("options", [[], ["--check"]], ids=["run", "check"])
def test_what_cannot_work_is_refused_with_what_to_change(
    mistake: str, options: list[str], world: World, tmp_path: Path
) -> None:
    changes, message = REFUSED[mistake]
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", world.distillation(tmp_path / "run", **changes))
    done = invoke(app, recipe, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()
