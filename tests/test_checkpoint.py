"""Checkpoints survive a full disk, a kill and damage; nothing in them is ever run."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.test_files import full_disk  # noqa: F401
from ukd.checkpoint import Checkpoints
from ukd.errors import RunFolderError


def state(value: float) -> dict[str, Any]:
    return {
        "learner": {"weight": torch.full((40,), value)},
        "optimizer": {"state": {0: {"momentum": torch.full((3,), value)}}, "param_groups": [{"lr": value}]},
        "fixed": {},
    }


def paths(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def latest(checkpoints: Checkpoints) -> dict[str, Any]:
    found = checkpoints.load_latest()
    assert found is not None
    return found


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.load_latest() is None
    checkpoints.save(7, state(0.1))
    found = latest(Checkpoints(tmp_path, keep=2))
    assert found.keys() == {"step", "learner", "optimizer", "fixed"} and found["step"] == 7
    assert torch.equal(found["learner"]["weight"], torch.full((40,), 0.1))
    assert found["optimizer"]["param_groups"] == [{"lr": 0.1}]


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (9, 10, 100, 1000):
        checkpoints.save(step, state(step))
    assert paths(tmp_path) == ["step-000000100.ckpt", "step-000001000.ckpt"]
    assert latest(checkpoints)["step"] == 1000


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state(1.0))
    request.getfixturevalue("full_disk")
    message = (
        r"cannot write .*step-000000002\.ckpt: No space left on device; the checkpoint before it, .*0001\.ckpt, is"
    )
    with pytest.raises(RunFolderError, match=message):
        checkpoints.save(2, state(2.0))
    assert paths(tmp_path) == ["step-000000001.ckpt"]
    assert latest(checkpoints)["step"] == 1


def test_a_full_disk_at_the_first_checkpoint(tmp_path: Path, full_disk: None) -> None:  # noqa: F811
    with pytest.raises(RunFolderError, match="No space left on device; there is none before it"):
        Checkpoints(tmp_path, keep=1).save(1, state(1.0))


def test_a_damaged_newest_one_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    for step, share in ((3, 0.9), (2, 0.2)):
        path = tmp_path / "checkpoints" / f"step-00000000{step}.ckpt"
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.warns(UserWarning, match=r"damaged checkpoint passed over: .*0000[23]\.ckpt") as caught:
        assert latest(checkpoints)["step"] == 1
    assert len(caught) == 2


def test_where_all_are_damaged_they_are_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, state(step))
        path = tmp_path / "checkpoints" / f"step-00000000{step}.ckpt"
        path.write_bytes(path.read_bytes()[:300])
    with (
        pytest.warns(UserWarning),
        pytest.raises(RunFolderError, match=r"none in this run can be read:\n .*00002\.ckpt: .*\n .*00001\.ckpt: "),
    ):
        checkpoints.load_latest()


@given(place=st.floats(0, 1, exclude_max=True), length=st.integers(1, 200), value=st.integers(0, 255))
def test_no_damage_passes_for_a_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, place: float, length: int, value: int
) -> None:
    run = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(run, keep=2)
    checkpoints.save(1, state(1.0))
    checkpoints.save(2, state(2.0))
    path = run / "checkpoints" / "step-000000002.ckpt"
    damaged = bytearray(path.read_bytes())
    start = int(place * len(damaged))
    damaged[start : start + length] = bytes([value]) * len(damaged[start : start + length])
    path.write_bytes(damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = latest(checkpoints)
    assert found["learner"]["weight"].tolist() == [float(found["step"])] * 40
    assert found["optimizer"]["state"][0]["momentum"].tolist() == [float(found["step"])] * 3
    assert found["optimizer"]["param_groups"] == [{"lr": float(found["step"])}]


def test_an_empty_file_is_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state(1.0))
    (tmp_path / "checkpoints" / "step-000000002.ckpt").touch()
    with pytest.warns(UserWarning, match="passed over"):
        assert latest(checkpoints)["step"] == 1


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, state(1.0))
    torch.save({"step": 2, "x": Bomb(f"touch {tmp_path}/ran")}, tmp_path / "checkpoints" / "step-000000002.ckpt")
    with pytest.warns(UserWarning, match="passed over"):
        assert latest(checkpoints)["step"] == 1
    assert not (tmp_path / "ran").exists()


def test_a_run_that_went_well_warns_of_nothing(tmp_path: Path) -> None:
    Checkpoints(tmp_path, keep=1).save(1, state(1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latest(Checkpoints(tmp_path, keep=1))
