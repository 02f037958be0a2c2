"""`ukd-teacher inspect`: what it says of a file, and of one that is not safe to load."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from tests import tiny
from tests.commands import BIN, invoke
from tests.tiny import World
from ukd.cli.teacher import app
from ukd.distill import distill


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_it_describes_a_run(world: World) -> None:
    done = invoke(app, "inspect", world.teacher)
    assert done.exit_code == 0, done.output
    assert "format     a run of this project (ukd)\n" in done.stdout and "arch       resnet10t\n" in done.stdout
    assert "pixels     normalised by mean 0.485, 0.456, 0.406 and std" in done.stdout


def test_it_says_how_a_run_came_by_its_student(world: World, tmp_path: Path) -> None:
    distill(tiny.parse(world.distillation(tmp_path / "run", epochs=0.3)))
    done = invoke(app, "inspect", tmp_path / "run")
    assert f"trained    3 steps of coss on {world.arrays}\n" in done.stdout


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Code()}, tmp_path / "x.pth")
    done = invoke(app, "inspect", tmp_path / "x.pth")
    assert done.exit_code == 2 and "is refused: loading it would run code stored in the file" in done.stderr
    assert "code ran" not in done.output


def test_a_format_can_be_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "x.pth")
    done = invoke(app, "inspect", tmp_path / "x.pth", "--format", "moco_v2")
    assert done.exit_code == 2 and "is not MoCo v2 (moco_v2): it has no names that begin with encoder_q." in done.stderr


def test_it_is_installed() -> None:
    done = subprocess.run([str(BIN / "ukd-teacher"), "--help"], capture_output=True, text=True, check=True)
    assert "inspect" in done.stdout
