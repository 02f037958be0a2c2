"""`ukd-distill`: what a user sees, above all of what cannot work."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.commands import invoke
from tests.tiny import World
from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone
from ukd.cli.distill import app

Change = Callable[[Path, World], dict[str, Any]]


@pytest.fixture
def recipe(world: World, tmp_path: Path) -> Path:
    return tiny.write_recipe(tmp_path / "recipe.yaml", world.distillation(tmp_path / "run"))


def test_it_trains_says_so_and_resumes_only_when_told(recipe: Path, tmp_path: Path) -> None:
    done = invoke(app, recipe, "epochs=0.4")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "student.safetensors").exists()
    again = invoke(app, recipe, "epochs=0.4")
    assert again.exit_code == 2
    assert f"{tmp_path / 'run'} already holds a run; continue it with --resume, or name another" in again.stderr
    other = invoke(app, recipe, "--resume", "optimizer.lr=0.3", "views.hue=0.2", "data.num_workers=1")
    assert other.exit_code == 2
    assert "another recipe" in other.stderr
    assert "epochs (0.4 there, 3.0 here)" in other.stderr and "views.hue (0.1 there, 0.2 here)" in other.stderr
    assert "optimizer.lr (0.2 there, 0.3 here)" in other.stderr and "num_workers" not in other.stderr
    assert invoke(app, recipe, "epochs=0.4", "--resume").exit_code == 0


def test_check_says_what_would_run_and_writes_nothing(world: World, tmp_path: Path) -> None:
    raw = world.distillation(tmp_path / "out" / "run", neighbours={"k": 3, "nearest": 7})
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", raw)
    before = {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), *world.folder.rglob("*")]}
    done = invoke(app, recipe, "--check")
    assert done.exit_code == 0, done.output
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(lines) == ["images", "views", "teacher", "student", "objective", "steps", "output"]
    assert lines["images"].startswith("144 to train on, 16 held out")
    assert lines["teacher"].startswith("resnet10t, ") and lines["teacher"].endswith("64 features")
    assert lines["steps"] == "27 of 16 images, 432 images in all"
    assert {path: path.stat().st_mtime_ns for path in [*tmp_path.rglob("*"), *world.folder.rglob("*")]} == before


def test_five_mistakes_are_all_printed(recipe: Path, tmp_path: Path) -> None:
    wrong = ["batch_size=many", "optimiser.lr=0.1", "objective=cos", "views.hue=0.9", "student.arch=null"]
    done = invoke(app, recipe, *wrong)
    assert done.exit_code == 2 and not done.stdout
    assert "recipe.yaml: 5 problems" in done.stderr
    for key in ("batch_size: ", "optimiser: ", "objective.name: ", "views.hue: ", "student.arch: "):
        assert f"\n  {key}" in done.stderr
    assert not (tmp_path / "run").exists()


def source(name: str) -> Change:
    return lambda folder, world: {"data": {"train": str(folder / name), "num_workers": 0}}


def empty_folder(folder: Path, world: World) -> dict[str, Any]:
    (folder / "empty").mkdir()
    return source("empty")(folder, world)


def unreadable_images(folder: Path, world: World) -> dict[str, Any]:
    (folder / "broken").mkdir()
    for number in range(40):
        (folder / "broken" / f"{number}.jpg").write_bytes(b"no image")
    return source("broken")(folder, world)


def another_architecture(folder: Path, world: World) -> dict[str, Any]:
    return {"teacher": {"arch": "resnet18", "weights": str(world.teacher / "teacher.safetensors")}}


class Code:
    """Something that only code can unpickle."""


def needs_code(folder: Path, world: World) -> dict[str, Any]:
    torch.save({"state_dict": {}, "args": Code()}, folder / "teacher.pth")
    return {"teacher": {"arch": "resnet10t", "weights": str(folder / "teacher.pth")}}


def cut_short(folder: Path, world: World) -> dict[str, Any]:
    whole = (world.teacher / "teacher.safetensors").read_bytes()
    (folder / "teacher.safetensors").write_bytes(whole[: len(whole) // 2])
    return {"teacher": {"arch": "resnet10t", "weights": str(folder / "teacher.safetensors")}}


def other_classes(folder: Path, world: World) -> dict[str, Any]:
    for name in ("ant", "bee"):
        (folder / name / name).mkdir(parents=True)
        Image.new("RGB", (24, 24)).save(folder / name / name / "0.png")
    labelled = {"labelled_train": str(folder / "ant"), "labelled_test": str(folder / "bee")}
    return {"data": {"train": str(world.arrays), **labelled}}


def files_that_are_no_run(folder: Path, world: World) -> dict[str, Any]:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("")
    return {}


MISTAKES: dict[str, tuple[Change, str]] = {
    "no folder": (source("nowhere"), "nowhere does not exist (looked in "),
    "empty folder": (empty_folder, "no images below"),
    "no image can be read": (unreadable_images, "images in "),
    "teacher of another architecture": (another_architecture, "does not fit resnet18:\n  missing ("),
    "teacher that needs code": (needs_code, "is refused: loading it would run code stored in the file"),
    "half a teacher": (cut_short, "cannot be read"),
    "unknown architecture": (lambda *_: {"student": {"arch": "resnet10x"}}, "did you mean resnet10t"),
    "unknown argument": (lambda *_: {"student": {"arch": "resnet10t", "kwargs": {"wide": 1}}}, "timm cannot build"),
    "wrong option": (lambda *_: {"objective": {"name": "coss", "lamb": 2.0}}, "objective.lamb: "),
    "neighbours of too few": (
        lambda *_: {"neighbours": {"k": 15, "nearest": 144}},
        "neighbours.nearest: 144 but each of the 144 training images has 143 others; choose nearest <= 143",
    ),
    "head that cannot fit": (
        lambda *_: {"objective": {"name": "cosine", "head": "none"}},
        "objective cosine: head: none needs equal widths",
    ),
    "clusters of too few": (
        lambda *_: {"objective": {"name": "hash", "num_clusters": 145}},
        "num_clusters: 145 clusters cannot be made of 144 training images; choose num_clusters <= 144",
    ),
    "a queue of dimensions": (
        lambda *_: {"objective": {"name": "transpose", "of": "seed"}},
        "objective.of: must be one of cosine, regression, gram, rkd, smd, got 'seed'",
    ),
    "wrong option of what is transposed": (
        lambda *_: {"objective": {"name": "transpose", "of": "gram", "options": {"kernl": "sp"}}},
        "objective.options.kernl: unknown key; did you mean kernel?",
    ),
    "hue out of range": (lambda *_: {"views": {"size_px": 24, "hue": 2.0}}, "views.hue: "),
    "classes that differ": (other_classes, "lacks (bee); both must name their classes alike"),
    "folder of something else": (files_that_are_no_run, "is not empty and holds no run"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("options", [[], ["--check"]], ids=["run", "check"])
def test_mistakes_end_in_their_message(mistake: str, options: list[str], world: World, tmp_path: Path) -> None:
    change, message = MISTAKES[mistake]
    raw = world.distillation(tmp_path / "run", **change(tmp_path, world))
    done = invoke(app, tiny.write_recipe(tmp_path / "recipe.yaml", raw), *options)
    assert done.exit_code == 2, done.output
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob("student.safetensors"))


def test_a_gpu_that_is_not_there_is_named(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = invoke(app, recipe, "device=cuda")
    assert done.exit_code == 2 and "use device: cpu or auto" in done.stderr


def test_a_loss_that_is_not_finite_ends_in_its_message(recipe: Path) -> None:
    done = invoke(app, recipe, "optimizer.lr=1e30")
    assert done.exit_code == 2
    assert "is not finite" in done.stderr and "optimizer.lr may help" in done.stderr


@pytest.mark.parametrize("file", ["student.safetensors", "step-", "recipe.yaml"])
def test_a_full_disk_ends_in_a_message_whatever_is_being_written(
    file: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if list((tmp_path / "run").rglob(f".{file}*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    done = invoke(app, recipe)
    assert done.exit_code == 2 and "No space left on device" in done.stderr
    monkeypatch.undo()
    if file != "recipe.yaml":
        assert invoke(app, recipe, "--resume").exit_code == 0


def cut(path: Path) -> None:
    """Leaves the first third of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def folder_run(world: World, tmp_path: Path, **changes: Any) -> tuple[Path, Path]:
    """A recipe on a copy of the folder of images, and the copy."""
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    raw = world.distillation(tmp_path / "run", data={"train": str(images), "num_workers": 0}, **changes)
    return tiny.write_recipe(tmp_path / "recipe.yaml", raw), images


def test_a_truncated_image_among_good_ones_is_skipped_and_named(world: World, tmp_path: Path) -> None:
    recipe, images = folder_run(world, tmp_path)
    victim = tiny.image_path(images, int(tiny.TRAINING[40]))
    cut(victim)
    done = invoke(app, recipe)
    assert done.exit_code == 0, done.output
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("unreadable image skipped") == 1
    assert f"unreadable image skipped: {victim.relative_to(images)} (1 so far)" in log


def test_a_truncated_image_among_those_held_out_is_no_end(world: World, tmp_path: Path) -> None:
    recipe, images = folder_run(world, tmp_path)
    cut(tiny.image_path(images, int(tiny.HOLDOUT[0])))
    done = invoke(app, recipe)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "neighbours.png").exists()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count(f"unreadable image skipped: {tiny.image_path(Path(), int(tiny.HOLDOUT[0]))} (1 so far)") == 1


def test_too_many_truncated_images_stop_the_run(world: World, tmp_path: Path) -> None:
    recipe, images = folder_run(world, tmp_path)
    for number in tiny.TRAINING[:3]:
        cut(tiny.image_path(images, int(number)))
    done = invoke(app, recipe)
    assert done.exit_code == 2
    assert "cannot be read (at most 1% may): 0/" in done.stderr


def test_a_run_folder_of_a_pretraining_without_export_is_no_teacher(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    done = invoke(app, recipe, f"teacher={{weights: {tmp_path / 'unfinished'}}}")
    assert done.exit_code == 2 and "holds neither student.safetensors nor teacher.safetensors" in done.stderr


def test_grey_arrays_and_a_teacher_with_its_own_size_work(world: World, tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", np.load(world.arrays)["images"][..., 0])
    (tmp_path / "vit").mkdir()
    export_backbone(tmp_path / "vit", "teacher", build_backbone(arch="test_vit"), {})
    data = {"train": str(tmp_path / "grey.npy"), "num_workers": 0}
    raw = world.distillation(tmp_path / "run", data=data, teacher={"weights": str(tmp_path / "vit")}, epochs=0.1)
    done = invoke(app, tiny.write_recipe(tmp_path / "recipe.yaml", raw))
    assert done.exit_code == 0, done.output


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['ukd-distill', '--help']\nfrom ukd.cli.distill import main\ntry:\n  main()\nfinally:\n"
        "  print('heavy' if {'torch', 'faiss', 'timm', 'pydantic'} & set(sys.modules) else 'light')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--check" in shown and "--resume" in shown and shown.endswith("light\n")
