"""A run on digits, networks of a few thousand weights, and the surroundings of a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone
from ukd.recipe import BackboneSpec, DataSpec, DistillRecipe, ObjectiveSpec, PretrainRecipe, TeacherSpec, ViewSpec
from ukd.recipe_file import dump

ARCH = "test_resnet"


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, with a cache in it, and a terminal of 80 columns."""
    monkeypatch.setenv("UKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, Path]:
    images, labels = load_digits(return_X_y=True)
    pixels = (images * 15).astype(np.uint8).reshape(-1, 8, 8)
    np.savez(tmp_path / "train.npz", images=pixels[:300], labels=labels[:300])
    np.savez(tmp_path / "test.npz", images=pixels[300:380], labels=labels[300:380])
    return tmp_path / "train.npz", tmp_path / "test.npz"


@pytest.fixture
def run(tmp_path: Path, digits: tuple[Path, Path]) -> Path:
    """A distillation of seed 0 that left a random student of seed 7, and its random teacher of seed 8."""
    views = ViewSpec(size_px=16, crop_pct=1.0)
    folders = {"student": tmp_path / "run", "teacher": tmp_path / "pretrained"}
    for seed, (role, folder) in enumerate(folders.items(), start=7):
        folder.mkdir()
        backbone = build_backbone(arch=ARCH, seed=seed, size_px=16, crop_pct=1.0)
        export_backbone(folder, role, backbone, {"step": 1})
    data = DataSpec(train=str(digits[0]), labelled_train=str(digits[0]), labelled_test=str(digits[1]))
    objective = [ObjectiveSpec(name="coss")]
    recipe = DistillRecipe(
        output=str(folders["student"]),
        data=data,
        views=views,
        teacher=TeacherSpec(weights=str(folders["teacher"])),
        student=BackboneSpec(arch=ARCH),
        objective=objective,
    )
    (folders["student"] / "recipe.yaml").write_text(dump(recipe))
    pretraining = PretrainRecipe(
        output=str(folders["teacher"]),
        data=data,
        views=views,
        backbone=BackboneSpec(arch=ARCH),
        objective=objective,
    )
    (folders["teacher"] / "recipe.yaml").write_text(dump(pretraining))
    return folders["student"]
