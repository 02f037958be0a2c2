"""A run folder holds one run, and never two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ukd.checkpoint import Checkpoints
from ukd.errors import RunFolderError
from ukd.recipe import DistillRecipe
from ukd.run_folder import FREE_ON_RESUME, check_free, claim, latest_state

Make = Callable[..., DistillRecipe]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A recipe whose run folder is tmp_path/run, with some parts changed."""

    def make(**changes: Any) -> DistillRecipe:
        raw = {
            "output": str(tmp_path / "run"),
            "data": {"train": "photos"},
            "teacher": {"arch": "resnet50", "pretrained": True},
            "student": {"arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8]}},
            "objective": {"name": "coss", "lam": 1.0, "scale": 70.0, "hidden_dim": 2048},
        }
        return DistillRecipe.model_validate({**raw, **changes})

    return make


def test_a_new_folder_is_free_and_nothing_is_written(tmp_path: Path, make: Make) -> None:
    for resume in (False, True):
        check_free(make(), resume)
    assert not list(tmp_path.iterdir())
    (tmp_path / "run").mkdir()
    check_free(make(), False)


def test_a_claimed_folder_is_continued_or_refused(make: Make) -> None:
    claim(make())
    check_free(make(), resume=True)
    with pytest.raises(
        RunFolderError, match=r"run already holds a run; continue it with --resume, or name another wit"
    ):
        check_free(make(), resume=False)


def test_another_recipe_is_not_mixed_in(make: Make) -> None:
    claim(make())
    other = make(
        seed=4, student={"arch": "resnet18", "kwargs": {"channels": [9]}}, objective={"name": "coss", "lam": 2.0}
    )
    with pytest.raises(RunFolderError) as caught:
        check_free(other, resume=True)
    said = str(caught.value)
    assert "holds the run of another recipe, which --resume would mix with this one; they differ in " in said
    assert "seed (0 there, 4 here)" in said and "objective" in said
    assert "student.kwargs ({'channels': [8, 8, 8, 8]} there, {'channels': [9]} here)" in said
    assert "teacher" not in said and "views" not in said


def test_a_part_that_only_one_of_them_has_is_a_difference(make: Make) -> None:
    claim(make())
    with pytest.raises(RunFolderError, match=r"they differ in neighbours \(None there, {'k': 15, .*} here\)"):
        check_free(make(neighbours={"k": 15}), resume=True)


def test_what_changes_no_weight_may_change(make: Make, tmp_path: Path) -> None:
    claim(make())
    (tmp_path / "run").rename(tmp_path / "moved")
    changed = make(
        output=str(tmp_path / "moved"),
        device="cpu",
        data={"train": "photos", "num_workers": 3, "root": "elsewhere"},
        log_every_steps=99,
        monitor={"every_epochs": 9.0},
        checkpoint={"keep": 9},
    )
    check_free(changed, resume=True)
    names = {key for key in FREE_ON_RESUME if "." not in key} | {"data"}
    assert names <= DistillRecipe.model_fields.keys()


def test_a_folder_of_other_things_is_left_alone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "photo.jpg").touch()
    message = r"run is not empty and holds no run; name another with output=FOLDER"
    for resume in (False, True):
        with pytest.raises(RunFolderError, match=message):
            check_free(make(), resume)
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="file is not empty and holds no run"):
        check_free(make(output=str(tmp_path / "file")), False)
    with pytest.raises(RunFolderError, match=r"cannot write .*file/run: Not a directory"):
        claim(make(output=str(tmp_path / "file" / "run")))


def test_the_state_is_that_of_the_newest_checkpoint(make: Make) -> None:
    claim(make())
    assert latest_state(make()) is None
    for step in (1, 2):
        Checkpoints(Path(make().output), keep=2).save(step, {"x": torch.tensor(step)})
    state = latest_state(make())
    assert state is not None and state["step"] == 2 and state["x"] == 2
