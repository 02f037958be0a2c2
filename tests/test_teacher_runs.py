"""Runs with a teacher held in another way: the same bank, the same steps, and every mistake refused before them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from tests import processes, tiny
from tests.commands import invoke
from tests.tiny import World
from ukd import distributed, launch
from ukd.backbones import Teacher, build_backbone
from ukd.bank import embed, in_memory, on_disk
from ukd.cli.distill import app
from ukd.data import ArrayImages
from ukd.distill import build_run, distill
from ukd.errors import UserError
from ukd.extractor import Extractor
from ukd.loading import Unreadable
from ukd.store import StoreError

CPU = torch.device("cpu")
COSINE = {"name": "cosine", "head": "linear"}


def held(world: World, output: Path, how: dict[str, Any], **changes: Any) -> dict[str, Any]:
    raw = world.distillation(output, objective=COSINE, epochs=1.0, **changes)
    return {**raw, "teacher": {"weights": str(world.teacher), **how}}


def test_the_bank_holds_what_the_run_would_see(world: World, tmp_path: Path) -> None:
    raw = held(world, tmp_path / "run", {"precision": "bf16", "chunk": 7}, teacher_cache="fixed_view")
    run = build_run(tiny.parse({**raw, "bank": str(tmp_path / "bank"), "precision": "bf16"}), CPU)
    assert run.targets is not None
    found = run.targets._passes[0][np.arange(tiny.NUM_TRAINING)]
    with run.autocast():  # The run's own precision is not the teacher's.
        expected = embed(run.teachers[0], run.images, size_px=tiny.SIZE_PX, crop_pct=1.0, device=CPU, num_workers=0)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)  # Stored in fp16.


def test_a_bank_of_another_precision_is_refused(world: World, tmp_path: Path) -> None:
    changes = {"bank": str(tmp_path / "bank"), "teacher_cache": "fixed_view"}
    build_run(tiny.parse(held(world, tmp_path / "one", {"precision": "bf16"}, **changes)), CPU)
    manifest = json.loads((tmp_path / "bank" / "centre" / "features.json").read_text())
    assert manifest["key"]["precision"] == "bfloat16"
    with pytest.raises(StoreError, match="features of precision bfloat16 where float32 is asked for; name another"):
        build_run(tiny.parse(held(world, tmp_path / "two", {}, **changes)), CPU)
    chunked = held(world, tmp_path / "three", {"precision": "bf16", "chunk": 5}, **changes)
    build_run(tiny.parse(chunked), CPU)  # How many at once is nobody's business.


def test_a_student_learns_from_a_teacher_in_half_precision(world: World, tmp_path: Path) -> None:
    run = distill(tiny.parse(held(world, tmp_path / "half", {"precision": "bf16", "chunk": 5})))
    whole = distill(tiny.parse(held(world, tmp_path / "whole", {})))
    losses = [tiny.metrics(each, "loss") for each in (run, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.1) and losses[0] != losses[1]
    (of_teacher,) = json.loads((run / "student.json").read_text())["provenance"]["teachers"]
    assert of_teacher["precision"] == "bfloat16"


MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "in pieces and compiled": ({"shard": True, "compile": True}, {}, "teacher: cannot be compiled when it is spread"),
    "in pieces, in one place": ({"shard": True, "device": "cuda:1"}, {}, "teacher: is in pieces on the GPUs of all"),
    "a GPU of a run on CPU": (
        {"device": "cuda:1"},
        {},
        "a teacher is on cuda:1 and the run on cpu; leave teacher.device out",
    ),
    "no GPU's name": ({"device": "gpu1"}, {}, "teacher.device: must be a GPU of its own, such as cuda:1, got 'gpu1'"),
    "no precision": ({"precision": "int8"}, {}, "teacher.precision: must be one of run, bf16, fp16, fp32, got 'int8'"),
    "no images at once": ({"chunk": 0}, {}, "teacher.chunk: must be a whole number above 0, got 0"),
    "a CNN in pieces": ({"shard": True}, {}, "teacher.shard: resnet10t is no ViT, and any other fits on one GPU"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_is_refused(mistake: str, world: World, tmp_path: Path) -> None:
    how, changes, message = MISTAKES[mistake]
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", held(world, tmp_path / "run", how, **changes))
    done = invoke(app, recipe, "--check")
    assert done.exit_code == 2 and message in done.stderr


def test_a_compiled_teacher_cannot_be_looked_into(world: World, tmp_path: Path) -> None:
    raw = held(world, tmp_path / "run", {"compile": True, "weights": str(world.vit)})
    raw |= {"student": tiny.NORMLESS, "objective": {"name": "attention"}}
    done = invoke(app, tiny.write_recipe(tmp_path / "recipe.yaml", raw), "--check")
    assert done.exit_code == 2
    assert "teacher.compile: attention looks into the teacher's blocks; choose compile: false" in done.stderr


@pytest.mark.parametrize(
    ("number", "num_processes", "num_gpus", "expected"), [(1, 1, 2, 1), (3, 1, 4, 3), (4, 4, 8, 6), (2, 2, 4, None)]
)
def test_a_gpu_beside_its_own(
    number: int, num_processes: int, num_gpus: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = min(2, num_processes - 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", num_processes)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_processes))
    assert launch.device_beside(number) == torch.device("cuda", number + rank if expected is None else expected)


@pytest.mark.parametrize(
    ("number", "num_processes", "num_gpus", "advice"),
    [(0, 1, 2, "choose cuda:1"), (1, 1, 1, "leave it out"), (1, 2, 4, "choose cuda:2"), (3, 2, 4, "choose cuda:2")],
)
def test_a_gpu_that_is_not_free_is_refused(
    number: int, num_processes: int, num_gpus: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_processes))
    with pytest.raises(UserError, match=rf"cuda:{number} .* computes on \({num_processes} of {num_gpus}\); {advice}"):
        launch.device_beside(number)


def photos(num: int) -> ArrayImages:
    rng = np.random.default_rng(0)
    return ArrayImages("photos", rng.integers(0, 256, (num, tiny.SIZE_PX, tiny.SIZE_PX, 3), dtype=np.uint8))


def uneven(folder: Path) -> dict[str, Any]:
    """What a process makes, with another, of images that the first of them embeds alone."""
    teacher = cast(Teacher, build_backbone(**tiny.VIT, seed=1, frozen=True))
    options: dict[str, Any] = {"size_px": tiny.SIZE_PX, "crop_pct": 1.0, "batch_size": 5, "num_workers": 0}
    alone = Extractor(teacher.hold(CPU, chunk=2), photos(23), device=CPU, **options)
    expected = torch.cat([torch.from_numpy(each.features) for each in alone.run([range(23)], Unreadable(alone.images))])
    shared = cast(Teacher, build_backbone(**tiny.VIT, seed=1, frozen=True)).hold(CPU, chunk=2, sharded=True)
    extractor = replace(alone, backbone=shared)
    found = torch.from_numpy(in_memory(extractor))
    calls = shared.num_forwards
    stored = torch.from_numpy(on_disk(extractor, folder / "bank")[np.arange(23)])
    (folder / "file").touch()
    try:
        on_disk(extractor, folder / "file" / "bank")
        refused = False
    except StoreError:
        refused = True
    return {
        "same": torch.equal(found, expected),
        "stored": bool((stored - expected).abs().max() < 1e-2),
        "calls": calls,
        "refused": refused,
        "rank": distributed.rank(),
    }


def test_processes_that_share_a_teacher_and_have_unequal_shares_of_images(tmp_path: Path) -> None:
    found = processes.run(uneven, tmp_path, folder=tmp_path)
    assert all(each["same"] and each["stored"] and each["refused"] for each in found)
    assert [each["calls"] for each in found] == [14, 14]  # Four batches of 5 images in 3 parts each, one of 3 in 2.
