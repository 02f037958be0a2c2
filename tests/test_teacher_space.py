"""Teaching from what the teacher made of the images before the first step: the same targets, and what goes with it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import processes, tiny
from tests.commands import invoke
from tests.tiny import World
from ukd import distributed, train
from ukd.backbones import Teacher, build_backbone
from ukd.bank import embed
from ukd.checkpoint import export_backbone
from ukd.cli.bank import app as bank_app
from ukd.cli.distill import app
from ukd.distill import build_run, distill
from ukd.errors import DataError
from ukd.store import StoreError, open_store
from ukd.train import batches, loss_terms

CPU = torch.device("cpu")
COSINE = {"name": "cosine", "head": "linear"}


def cached(world: World, output: Path, **changes: Any) -> dict[str, Any]:
    return world.distillation(output, objective=COSINE, epochs=1.0, **changes)


def count_teacher(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that the teacher is shown, one entry a call."""
    shown: list[int] = []
    forward = Teacher.forward

    def watched(self: Teacher, views: torch.Tensor, *arguments: Any) -> Any:
        shown.append(len(views))
        return forward(self, views, *arguments)

    monkeypatch.setattr(Teacher, "forward", watched)
    return shown


@pytest.mark.parametrize("neighbours", [None, {"k": 3, "nearest": 7}])
def test_replayed_views_have_the_targets_of_the_same_pixels(
    neighbours: Any, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"teacher_cache": "k_views", "cached_views": 2, "neighbours": neighbours, "precision": "fp64"}
    run = build_run(tiny.parse(cached(world, tmp_path / "run", **changes)), CPU)
    assert run.targets is not None
    for step, batch in zip(range(20), batches(run, 0), strict=False):
        found = run.targets.look_up(batch, CPU, torch.float64).views[0]
        (view,) = batch.to_views(CPU, torch.float64)
        expected = run.teachers[0](view).pooled
        torch.testing.assert_close(found.pooled, expected, rtol=1e-4, atol=1e-4)
        if step == 0:
            shown = count_teacher(monkeypatch)
            loss_terms(run, run.learner, batch, step)
            assert shown == [], "the teacher is not asked again"
            monkeypatch.undo()


def test_views_repeat_after_as_many_passes(world: World, tmp_path: Path) -> None:
    raw = {**cached(world, tmp_path / "run", teacher_cache="k_views", cached_views=2), "epochs": 4.0}
    run = build_run(tiny.parse(raw), CPU)
    pixels: dict[tuple[int, int], set[bytes]] = {}
    for batch in batches(run, 0):
        assert batch.passes is not None
        (views,) = batch.to_views(CPU, torch.float32)
        for index, number, view in zip(batch.index.tolist(), batch.passes.tolist(), views, strict=True):
            pixels.setdefault((index, number), set()).add(view.numpy().tobytes())
    assert {number for _, number in pixels} == {0, 1} and len(pixels) == 2 * tiny.NUM_TRAINING
    assert all(len(seen) == 1 for seen in pixels.values())


def test_a_fixed_view_is_that_of_the_evaluation(world: World, tmp_path: Path) -> None:
    run = build_run(tiny.parse(cached(world, tmp_path / "run", teacher_cache="fixed_view")), CPU)
    assert run.targets is not None and run.targets.num_passes is None
    rows = embed(run.teachers[0], run.images, size_px=tiny.SIZE_PX, crop_pct=1.0, device=CPU, num_workers=0)
    batch = next(iter(batches(run, 0)))
    found = run.targets.look_up(batch, CPU, torch.float32).views[0]
    np.testing.assert_array_equal(found.pooled.numpy(), rows[batch.index.numpy()])


def test_enough_replayed_views_train_the_student_that_no_cache_trains(world: World, tmp_path: Path) -> None:
    plain = distill(tiny.parse(cached(world, tmp_path / "plain", precision="fp64")))
    replayed = distill(tiny.parse(cached(world, tmp_path / "k", precision="fp64", teacher_cache="k_views")))
    expected, got = tiny.student_weights(plain), tiny.student_weights(replayed)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["fixed_view", "k_views"])
def test_a_bank_is_extracted_once_and_resume_is_exact(
    mode: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "teacher_cache": mode,
        "cached_views": 2,
        "bank": str(tmp_path / "bank"),
        "neighbours": {"k": 3, "nearest": 7},
        "monitor": {"k": 4, "holdout_images": 16, "every_epochs": 9.0},
        "checkpoint": {"every_epochs": 0.25},
    }
    whole = distill(tiny.parse(cached(world, tmp_path / "whole", **changes)))
    names = {path.name for path in (tmp_path / "bank").iterdir()}
    assert names == {"centre", "neighbours-7.safetensors"} | ({"pass-0", "pass-1"} if mode == "k_views" else set())
    take_step = train.take_step

    def killed(*arguments: Any) -> Any:
        if arguments[-1] == 5:
            raise KeyboardInterrupt
        return take_step(*arguments)

    shown = count_teacher(monkeypatch)
    recipe = tiny.parse(cached(world, tmp_path / "killed", **changes))
    monkeypatch.setattr(train, "take_step", killed)
    with pytest.raises(KeyboardInterrupt):
        distill(recipe)
    monkeypatch.setattr(train, "take_step", take_step)
    distill(recipe, resume=True)
    assert sum(shown) == tiny.NUM_HOLDOUT, "only the monitor asks the teacher"
    assert tiny.state_hash(tmp_path / "killed") == tiny.state_hash(whole)


def test_a_bank_of_another_teacher_is_refused_with_the_reason(world: World, tmp_path: Path) -> None:
    changes = {"bank": str(tmp_path / "bank"), "teacher_cache": "fixed_view"}
    build_run(tiny.parse(cached(world, tmp_path / "one", **changes)), CPU)
    (tmp_path / "other").mkdir()
    export_backbone(tmp_path / "other", "teacher", build_backbone(**tiny.TEACHER, seed=5), {})
    other = {**cached(world, tmp_path / "two", **changes), "teacher": {"weights": str(tmp_path / "other")}}
    with pytest.raises(StoreError, match="weights"):
        build_run(tiny.parse(other), CPU)


def test_a_bank_is_built_by_its_own_command_and_found_by_the_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = cached(world, tmp_path / "run", bank=str(tmp_path / "bank"), teacher_cache="k_views", cached_views=2)
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", raw)
    done = invoke(bank_app, "build", recipe)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [Path(line.split()[0]).name for line in lines] == ["centre", "pass-0", "pass-1"]
    assert all("144 x 64" in line for line in lines)
    shown = count_teacher(monkeypatch)
    build_run(tiny.parse(raw), CPU)
    assert shown == [], "the run finds what was built"


def test_lists_without_near_copies_are_found_once_and_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lists_of(name: str, max_cosine: float) -> np.ndarray:
        changes = {"bank": str(tmp_path / "bank"), "neighbours": {"k": 3, "nearest": 7, "max_cosine": max_cosine}}
        run = build_run(tiny.parse(cached(world, tmp_path / name, **changes)), CPU)
        lists: np.ndarray = run.fixed["neighbours"].numpy()
        return lists

    plain = lists_of("plain", 1.0)
    rows = open_store(tmp_path / "bank" / "centre")[:].astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    limit = float(np.quantile(similarity, 0.9))
    with caplog.at_level(logging.INFO, "ukd.teacher_space"):
        found = lists_of("apart", limit)
    left_out = similarity > limit
    best = -np.sort(np.where(left_out, np.inf, -similarity))[:, :7]
    np.testing.assert_allclose(np.take_along_axis(similarity, found, axis=1), best, rtol=0, atol=1e-6)
    assert not np.array_equal(found, plain)
    assert f"{left_out.any(1).sum()} of 144 images have near-copies" in caplog.text
    assert f"{left_out.sum(1).max()} at most, which their lists leave out: {left_out.sum():,} in all" in caplog.text
    monkeypatch.setattr("ukd.teacher_space.neighbour_lists", None)
    np.testing.assert_array_equal(lists_of("again", limit), found)
    np.testing.assert_array_equal(lists_of("plain again", 1.0), plain)


def lists_of_each(raw: dict[str, Any]) -> torch.Tensor:
    """The lists that a process of a run has; every process reads a recipe file of its own."""
    output = f"{raw['output']}-{distributed.rank()}"
    return build_run(tiny.parse({**raw, "output": output}), CPU).fixed["neighbours"]


@pytest.mark.parametrize("max_cosine", [1.0, 0.995])
def test_banks_of_one_and_of_two_processes_give_the_same_lists(max_cosine: float, world: World, tmp_path: Path) -> None:
    neighbours = {"k": 3, "nearest": 7, "max_cosine": max_cosine}
    one, two = (
        cached(world, tmp_path / name, bank=str(tmp_path / name / "bank"), neighbours=neighbours)
        for name in ("one", "two")
    )
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = lists_of_each(one)
    torch.set_num_threads(num_threads)
    for found in processes.run(lists_of_each, two, folder=tmp_path):
        assert torch.equal(found, alone)
    assert torch.equal(lists_of_each({**one, "bank": two["bank"]}), alone)


def test_lists_of_images_before_an_edit_are_not_those_after_it(world: World, tmp_path: Path) -> None:
    """Paths and sizes stay, and so does the fingerprint: the bank is refused, made anew, and the lists with it."""
    shutil.copytree(world.images, tmp_path / "photos")
    for path in (tmp_path / "photos").rglob("*.jpg"):
        whole = np.array(Image.open(path))
        Image.fromarray(whole).save(path.with_suffix(".bmp"))
        path.unlink()
    changes = {"bank": str(tmp_path / "bank"), "neighbours": {"k": 3, "nearest": 7}}
    raw = cached(world, tmp_path / "run", **changes)
    raw["data"] = {**raw["data"], "train": str(tmp_path / "photos")}
    before = build_run(tiny.parse(raw), CPU).fixed["neighbours"]
    for path in sorted((tmp_path / "photos").rglob("*.bmp"))[:80]:
        Image.fromarray(255 - np.array(Image.open(path))).save(path)
    with pytest.raises(StoreError, match=r"changed on disk: 0/0\d\d\.bmp, .+ and \d+ more \(of the same size"):
        build_run(tiny.parse(raw), CPU)
    shutil.rmtree(tmp_path / "bank" / "centre")
    assert not torch.equal(build_run(tiny.parse(raw), CPU).fixed["neighbours"], before)


def test_a_limit_that_leaves_an_image_too_few_is_refused(world: World, tmp_path: Path) -> None:
    recipe = tiny.parse(cached(world, tmp_path / "run", neighbours={"k": 3, "nearest": 7, "max_cosine": 1e-6}))
    with pytest.raises(DataError, match=r"neighbours.max_cosine: 1e-06 leaves #\d+ 0 of the 7 nearest .+ 143 other im"):
        build_run(recipe, CPU)


def test_a_recipe_without_a_bank_cannot_build_one(world: World, tmp_path: Path) -> None:
    done = invoke(bank_app, "build", tiny.write_recipe(tmp_path / "recipe.yaml", cached(world, tmp_path / "run")))
    assert done.exit_code == 2
    assert "bank: the recipe names no folder for it; add `bank: FOLDER`" in done.stderr


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "views": ({"objective": {"name": "disco", "queue_size": 40}}, "it shows the teacher another view than the first"),
    "tokens": ({"objective": {"name": "tokens", "terms": {"map": 1.0}}}, "more of the teacher than its pooled feature"),
    "turned": ({"objective": "sskd"}, "it shows the teacher turned views"),
    "mixed": ({"views": {"size_px": 24, "mixup_prob": 0.5}}, "mixed views have no targets of their own"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_what_a_cache_does_not_go_with_is_refused(mistake: str, world: World, tmp_path: Path) -> None:
    changes, message = REFUSED[mistake]
    raw = world.distillation(tmp_path / "run", teacher_cache="k_views", **changes)
    done = invoke(app, tiny.write_recipe(tmp_path / "recipe.yaml", raw), "--check")
    assert done.exit_code == 2
    assert "teacher_cache: k_views does not go with" in done.stderr and message in " ".join(done.stderr.split())
