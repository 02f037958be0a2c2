"""`ukd-bank`: a bank that outlives a kill, and what there is in unlabelled images."""

from __future__ import annotations

import csv
import itertools
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from tests.commands import invoke, start, wait_until
from tests.tiny import World
from ukd.cli.bank import app


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.fixture
def recipe(world: World, tmp_path: Path) -> Path:
    """Of a folder in which one image has an exact copy; nothing is held out of so few."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        shutil.copy(tiny.image_path(world.images, number), folder / f"{number}.jpg")
    shutil.copy(folder / "3.jpg", folder / "copy.jpg")
    raw = world.distillation(tmp_path / "run", bank=str(tmp_path / "bank"))
    raw["data"]["train"] = str(folder)
    return tiny.write_recipe(tmp_path / "recipe.yaml", raw)


def test_clusters_are_shown_written_and_kept(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke(app, "clusters", recipe, "--num", 3)
    assert done.exit_code == 0, done.output
    path = tmp_path / "bank" / "clusters-3.csv"
    rows = table(path)
    names = sorted(each.name for each in (tmp_path / "photos").iterdir())
    assert sorted(row["image"] for row in rows) == names
    by_image = {row["image"]: row["cluster"] for row in rows}
    assert by_image["3.jpg"] == by_image["copy.jpg"]
    for before, after in itertools.pairwise(rows):
        assert (int(before["cluster"]), -float(before["cosine"])) <= (int(after["cluster"]), -float(after["cosine"]))
    lines = done.stdout.splitlines()
    assert sum(int(line.split()[1]) for line in lines[1:-1]) == 9
    assert all(line.split()[3] in names for line in lines[1:-1])
    assert lines[-1].startswith("3 clusters of ") and lines[-1].endswith(str(path))
    before = path.read_bytes()
    monkeypatch.setattr("ukd.teacher_space.spherical_clusters", None)
    assert invoke(app, "clusters", recipe, "--num", 3).stdout == done.stdout and path.read_bytes() == before


def test_duplicates_are_listed(recipe: Path, tmp_path: Path) -> None:
    done = invoke(app, "duplicates", recipe, "--cosine", 0.9999999)
    assert done.exit_code == 0, done.output
    assert "1.0000  3.jpg  copy.jpg" in done.stdout
    path = tmp_path / "bank" / "duplicates-1.csv"
    assert {"image": "3.jpg", "other": "copy.jpg", "cosine": "1.0000"} in table(path)
    assert f"of 9 images are nearly the same as one before them; all of them: {path}" in done.stdout


def test_more_clusters_than_images_and_no_bank(recipe: Path) -> None:
    done = invoke(app, "clusters", recipe, "--num", 10)
    assert done.exit_code == 2 and "clusters: 10 cannot be made of 9 images" in done.stderr
    done = invoke(app, "duplicates", recipe, "bank=null")
    assert done.exit_code == 2 and "bank: the recipe names no folder for it" in done.stderr


def contents(bank: Path) -> dict[str, bytes]:
    return {str(path.relative_to(bank)): path.read_bytes() for path in bank.rglob("*") if path.is_file()}


def test_a_build_that_is_killed_is_continued_to_the_same_bank(world: World, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(1500):
        image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        image.save(tmp_path / "photos" / f"{number:04d}.bmp")
    raw = world.distillation(tmp_path / "run", neighbours={"k": 3, "nearest": 7}, views={"size_px": 96})
    raw["data"]["train"] = str(tmp_path / "photos")
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", raw)
    centre = tmp_path / "killed" / "centre"
    process = start("python", "-m", "ukd.cli.bank", "build", recipe, f"bank={tmp_path / 'killed'}")
    wait_until(lambda: len([*centre.glob("rows-*")]) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_ino for path in centre.glob("rows-*")}
    assert 2 <= len(kept) < 6
    for bank in ("killed", "whole"):
        done = invoke(app, "build", recipe, f"bank={tmp_path / bank}")
        assert done.exit_code == 0, done.output
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert kept == {path: path.stat().st_ino for path in kept}
    assert "neighbours-7.safetensors" in contents(tmp_path / "whole")
