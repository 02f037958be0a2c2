"""`ukd-eval knn` from end to end, on digits and networks of a few thousand weights."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.eval.commands import run_cli, stored
from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone

pytestmark = pytest.mark.usefixtures("surroundings")


def test_a_run_is_shown_between_its_baselines_and_its_teacher(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["knn", "--ckpt", run], monkeypatch) == 0
    shown = capsys.readouterr().out
    table = shown[: shown.index("written: ")]
    assert max(map(len, table.splitlines())) <= 80
    roles = re.findall(r"^ (raw pixels|untrained student|student|teacher) .*\d *$", table, re.MULTILINE)
    assert roles == 2 * ["raw pixels", "untrained student", "student", "teacher"]
    results = stored(run / "results" / "knn.json")
    assert [(each["model"]["role"], each["preset"]) for each in results] == [
        (role, preset)
        for role in ("raw pixels", "untrained student", "student", "teacher")
        for preset in ("dino", "ukd")
    ]
    top1 = {each["model"]["role"]: each["metrics"]["top1_k20"] for each in results if each["preset"] == "dino"}
    share = 100 * top1["student"]["value"] / top1["teacher"]["value"]
    line = f"student keeps {share:.1f} % of the teacher"
    assert line in shown and "weighted vote, k=20" in shown
    assert top1["raw pixels"]["value"] > 0.8
    assert top1["student"]["n"] == 80 and len(top1["student"]["ci"]) == 2


def test_as_what_a_file_of_weights_was_read_is_printed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(build_backbone(arch="test_resnet", seed=3).model.state_dict(), tmp_path / "teacher.pth")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["teacher"] |= {"arch": "test_resnet", "weights": str(tmp_path / "teacher.pth")}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    logging.getLogger("ukd.formats").setLevel(logging.NOTSET)  # As it is in a process that has run no command yet.
    assert run_cli(["fidelity", "--ckpt", run], monkeypatch) == 0
    assert f"weights: {tmp_path}/teacher.pth read as plain names, timm's" in caplog.text


def test_results_say_what_they_were_measured_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_cli(["knn", "--ckpt", run], monkeypatch)
    results = {each["model"]["role"]: each for each in stored(run / "results" / "knn.json")}
    initial = build_backbone(arch="test_resnet", seed=0)
    assert results["untrained student"]["model"]["sha256"] == initial.weights_hash()
    assert results["student"]["model"]["sha256"] == build_backbone(arch="test_resnet", seed=7).weights_hash()
    assert results["teacher"]["model"]["sha256"] == build_backbone(arch="test_resnet", seed=8).weights_hash()
    student = results["student"]
    assert student["task"] == "knn" and student["preset_hash"] == "ad4d3ed44bcbe6f0"
    assert student["data"]["train"]["n"] == 300 and len(student["data"]["test"]["fingerprint"]) == 64
    assert (student["data"]["size_px"], student["data"]["crop_pct"]) == (16, 1.0)
    assert student["features"]["dim"] == initial.dim
    assert student["engine"]["search"].startswith("faiss ") and student["engine"]["device"] == "cpu"
    assert student["wall_s"] > 0


def test_warm_figures_are_the_cold_ones(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("cold.json", "warm.json", "uncached.json")]
    for file, extra in zip(files, ([], [], ["--no-cache"]), strict=True):
        run_cli(["knn", "--ckpt", run, "--output", file, *extra], monkeypatch)
    cold, warm, uncached = ([each["metrics"] for each in stored(file)] for file in files)
    assert cold == warm == uncached
    assert not (run / "results").exists()


def test_a_pretraining_is_shown_as_a_teacher(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["knn", "--ckpt", run.parent / "pretrained"], monkeypatch) == 0
    roles = [each["model"]["role"] for each in stored(run.parent / "pretrained" / "results" / "knn.json")]
    assert roles[::2] == ["raw pixels", "untrained", "teacher"]
    assert "keeps" not in capsys.readouterr().out


def test_several_checkpoints_make_one_table_and_a_file_has_its_result_beside_it(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = digits
    file = run / "student.safetensors"
    sources = ["--train", train, "--test", test]
    arguments = ["knn", "--ckpt", file, "--ckpt", run, "--no-baselines", "--preset", "ukd", *sources]
    assert run_cli(arguments, monkeypatch) == 0
    assert capsys.readouterr().out.count("majority") == 2
    alone, in_run = stored(run / "student.knn.json"), stored(run / "results" / "knn.json")
    assert len(alone) == len(in_run) == 1
    assert alone[0]["metrics"] == in_run[0]["metrics"]


def test_other_ks_and_temperatures_are_another_preset(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["knn", "--ckpt", run, "--no-baselines", "--k", "5", "--k", "3", "--temp", "0.1"]
    assert run_cli(arguments, monkeypatch) == 0
    weighted, majority = stored(run / "results" / "knn.json")
    assert (weighted["preset"], majority["preset"]) == ("dino-custom", "ukd-custom")
    assert weighted["protocol"] == {"name": "dino-custom", "vote": "weighted", "ks": [3, 5], "temp": 0.1}
    assert majority["protocol"]["temp"] is None
    assert list(majority["metrics"]) == ["top1_k3", "top5_k3", "top1_k5", "top5_k5"]


def test_a_small_bank_leaves_rows_out_and_says_so(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = digits
    assert run_cli(["knn", "--ckpt", run, "--train", test, "--test", train], monkeypatch) == 0
    assert "note: dino: k=100 left out: the bank holds 80 images" in capsys.readouterr().out
    assert "top1_k100" not in stored(run / "results" / "knn.json")[0]["metrics"]


def test_a_lost_teacher_costs_its_row_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (run.parent / "pretrained" / "teacher.safetensors").unlink()
    assert run_cli(["knn", "--ckpt", run], monkeypatch) == 0
    assert "teacher left out: weights: the folder" in caplog.text
    assert len(stored(run / "results" / "knn.json")) == 6


def save_folder(folder: Path, classes: Sequence[str]) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_folders_match_their_classes_by_name(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    train = save_folder(tmp_path / "bank", ["ant", "bee", "cat"])
    (tmp_path / "asked").mkdir()
    (train / "cat").rename(tmp_path / "asked" / "cat")
    save_folder(tmp_path / "more", ["cat"])
    (tmp_path / "more" / "cat").rename(train / "cat")
    for pixels, path in zip(
        sorted((tmp_path / "asked" / "cat").iterdir()), sorted((train / "cat").iterdir()), strict=True
    ):
        path.write_bytes(pixels.read_bytes())
    arguments = ["knn", "--ckpt", run, "--train", train, "--test", tmp_path / "asked", "--k", "1"]
    assert run_cli([*arguments, "--no-baselines"], monkeypatch) == 0
    assert stored(run / "results" / "knn.json")[0]["metrics"]["top1_k1"]["value"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt", "nowhere", "--train", "train.npz", "--test", "test.npz"], "nowhere does not exist"),
        (["--ckpt", "run", "--train", "train.npz"], "--train and --test go together"),
        (["--ckpt", "run/student.safetensors"], "no labelled images: give --train and --test"),
        (["--ckpt", "run", "--preset", "dion"], "no preset 'dion'; choose from dino, ukd"),
        (["--ckpt", "run", "--preset", "ukd", "--temp", "0.1"], "--temp belongs to the weighted vote"),
        (["--ckpt", "run", "--k", "301"], "k=301 but the bank holds 300 images; choose k <= 300"),
        (["--ckpt", "run", "--train", "train.npz", "--test", "plain.npy"], "plain.npy has no labels"),
        (["--ckpt", "run", "--train", "bank", "--test", "asked"], "classes that bank lacks (dog)"),
        (["--ckpt", "run", "--output", "train.npz/knn.json"], "results: cannot write"),
        (["--ckpt", "run", "--k", "0"], "Invalid value for '--k'"),
        (["--ckpt", "spoiled"], "student (spoiled): "),
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
    np.save(tmp_path / "plain.npy", np.zeros((5, 8, 8), dtype=np.uint8))
    save_folder(tmp_path / "bank", ["ant", "bee"])
    save_folder(tmp_path / "asked", ["ant", "dog"])
    spoiled = build_backbone(arch="test_resnet")
    next(spoiled.parameters()).data.fill_(float("nan"))
    (tmp_path / "spoiled").mkdir()
    export_backbone(tmp_path / "spoiled", "student", spoiled, {})
    (tmp_path / "spoiled" / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    assert run_cli(["knn", *arguments], monkeypatch) == 2
    complaint = capsys.readouterr().err
    assert message in complaint and "Traceback" not in complaint


@pytest.mark.parametrize("task", ["extract", "knn", "logreg", "fidelity"])
def test_help_needs_no_torch(task: str) -> None:
    code = f"import sys; sys.argv = ['ukd-eval', '{task}', '--help']\nfrom ukd.eval.cli import main\ntry:\n  main()\n"
    code += "finally:\n  print('heavy' if {'torch', 'faiss', 'timm', 'sklearn'} & set(sys.modules) else 'light')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--ckpt" in shown and shown.endswith("light\n")
