"""`ukd-eval fidelity` from end to end."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.eval.commands import run_cli, stored
from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone
from ukd.eval import run_fidelity

pytestmark = pytest.mark.usefixtures("surroundings")


def test_a_run_is_compared_with_its_teacher(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["fidelity", "--ckpt", run], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown[: shown.index("chance: ")].splitlines())) <= 80
    assert "on 80 images" in shown and "chance: mutual kNN of either kind 12.7 % at k=10, 25.3 % at k=20;" in shown
    assert "note: mutual kNN at k=100 left out: each of the 80 images has 79 others" in shown
    assert re.search(r"RankMe of the teacher \S+pretrained: \d+\.\d of \d+", shown)
    results = stored(run / "results" / "fidelity.json")
    assert [each["model"]["role"] for each in results] == ["raw pixels", "untrained student", "student"]
    student = results[-1]
    assert (student["task"], student["preset"], student["preset_hash"]) == ("fidelity", "ukd", "42aad1ee3ecf0419")
    assert student["reference"]["sha256"] == build_backbone(arch="test_resnet", seed=8).weights_hash()
    assert (student["reference"]["role"], student["reference"]["size_px"]) == ("teacher", 16)
    assert (student["data"]["images"]["n"], student["data"]["images"]["of"]) == (80, 80)
    assert list(student["metrics"]) == [
        *("mutual_knn_k10", "mutual_knn_k20", "mutual_knn_l2_k10", "mutual_knn_l2_k20"),
        *("mutual_knn_chance_k10", "mutual_knn_chance_k20", "cka_unbiased"),
        *("trustworthiness", "continuity", "rankme", "rankme_teacher", "norm_correlation"),
        *("dimension_cosine", "procrustes_error"),
    ]
    assert "dimension_cosine" not in results[0]["metrics"] and "procrustes_error" in results[0]["metrics"]
    assert student["warnings"] and student["metrics"]["mutual_knn_chance_k10"]["value"] == 10 / 79


def test_a_model_compared_with_itself_is_wholly_faithful(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run / "student.safetensors"
    arguments = ["fidelity", "--ckpt", file, "--against", run, "--images", digits[1]]
    assert run_cli(arguments, monkeypatch) == 0
    (result,) = stored(run / "student.fidelity.json")
    same = "mutual_knn_k10", "mutual_knn_l2_k10", "cka_unbiased", "trustworthiness", "continuity", "norm_correlation"
    for name in (*same, "dimension_cosine"):
        assert result["metrics"][name]["value"] == pytest.approx(1)
    assert result["metrics"]["procrustes_error"]["value"] == pytest.approx(0, abs=1e-6)


def test_labels_have_no_say_and_training_images_stand_in(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = run / "recipe.yaml"
    lines = [line for line in recipe.read_text().splitlines() if "labelled" not in line]
    recipe.write_text("\n".join(lines))
    np.savez(digits[0], images=np.load(digits[0])["images"])
    assert run_cli(["fidelity", "--ckpt", run, "--no-baselines"], monkeypatch) == 0
    (result,) = stored(run / "results" / "fidelity.json")
    assert result["data"]["images"]["name"] == str(digits[0]) and result["data"]["images"]["n"] == 300


def test_of_many_images_a_fixed_choice_is_compared(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_fidelity, "chosen_images", lambda images, most: np.arange(0, len(images), 2))
    assert run_cli(["fidelity", "--ckpt", run, "--no-baselines"], monkeypatch) == 0
    (result,) = stored(run / "results" / "fidelity.json")
    assert (result["data"]["images"]["n"], result["data"]["images"]["of"]) == (40, 80)
    assert result["metrics"]["mutual_knn_chance_k10"]["value"] == 10 / 39


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt", "run/student.safetensors", "--against", "run"], "fidelity: no images: give --images"),
        (["--ckpt", "run/student.safetensors", "--images", "test.npz"], "names no teacher; give --against"),
        (["--ckpt", "pretrained"], "pretrained names no teacher; give --against"),
        (["--ckpt", "run", "--against", "nowhere"], "nowhere does not exist"),
        (["--ckpt", "run", "--images", "three.npy"], "fidelity: 3 images; at least 4 are needed"),
        (["--ckpt", "spoiled"], "student (spoiled): NaN or infinity in the features of 80 of 80 images"),
    ],
)
def test_mistakes_end_in_their_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save(tmp_path / "three.npy", np.zeros((3, 8, 8), dtype=np.uint8))
    spoiled = build_backbone(arch="test_resnet")
    next(spoiled.parameters()).data.fill_(float("nan"))
    (tmp_path / "spoiled").mkdir()
    export_backbone(tmp_path / "spoiled", "student", spoiled, {})
    (tmp_path / "spoiled" / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    assert run_cli(["fidelity", *arguments], monkeypatch) == 2
    complaint = capsys.readouterr().err
    assert message in complaint and "Traceback" not in complaint
