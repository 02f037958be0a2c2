"""`ukd-eval robust` from end to end, on tiny folders."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.eval.commands import run_cli, stored
from ukd.eval.corruptions import KINDS

pytestmark = pytest.mark.usefixtures("surroundings")
NAMES = [f"n{number:02d}" for number in range(10)]


def save_digits(folder: Path, rows: range, names: list[str], *, classes: range = range(10)) -> list[str]:
    """Folders of digits; the names of the files, in the order of their paths."""
    images, labels = load_digits(return_X_y=True)
    files = []
    for row in rows:
        if labels[row] not in classes:
            continue
        path = folder / names[labels[row]] / f"val_{row:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[row] * 15).astype(np.uint8).reshape(8, 8)).save(path)
        files.append(str(path.relative_to(folder)))
    return sorted(files)


@pytest.fixture
def folders(tmp_path: Path) -> list[str | Path]:
    """Arguments that name the folders of training, test and shifted images; 200 and 60 of 10 classes, 20 of 3."""
    files = save_digits(tmp_path / "test", range(200, 260), NAMES)
    save_digits(tmp_path / "train", range(200), NAMES)
    save_digits(tmp_path / "few", range(300, 360), NAMES, classes=range(2, 5))
    save_digits(tmp_path / "numbered", range(400, 440), [str(number) for number in range(10)])
    _, labels = load_digits(return_X_y=True)
    by_name = sorted(files, key=lambda file: Path(file).name)
    right = [[int(labels[int(Path(file).stem[4:])]), 0] if number else [] for number, file in enumerate(by_name)]
    (tmp_path / "real.json").write_text(json.dumps(right))
    arguments = ["--train", "train", "--test", "test", "--shift", "few=few", "--shift", "v2=numbered"]
    return [*arguments, "--real", "real.json", "--num-c", "3"]


def test_a_run_is_shown_on_every_set(
    run: Path, folders: list[str | Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corruptions = ["--corruption", "gaussian_noise", "--corruption", "fog", "--severity", "3", "--severity", "5"]
    assert run_cli(["robust", "--ckpt", run, *folders, *corruptions], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert max(map(len, re.sub(r"(note|written|student keeps).*", "", shown).splitlines())) <= 80
    shown = " ".join(shown.split())
    assert "not the official files" in shown and "mCE (partial)" in shown and "relative to the run's teacher" in shown
    assert "v2: its folders are numbers" in shown
    results = {each["model"]["role"]: each for each in stored(run / "results" / "robust.json")}
    assert list(results) == ["untrained student", "student", "teacher"]
    name = "mce_partial_2_kinds_2_severities"
    assert results["teacher"]["metrics"][name]["value"] == 1.0
    student = results["student"]["metrics"]
    ratios = [
        sum(student[f"{kind}_{level}_error"]["value"] for level in (3, 5))
        / sum(results["teacher"]["metrics"][f"{kind}_{level}_error"]["value"] for level in (3, 5))
        for kind in ("gaussian_noise", "fog")
    ]
    assert student[name]["value"] == pytest.approx(np.mean(ratios))
    few = results["student"]["data"]["few"]["n"]
    assert student["clean_top1"]["n"] == 60 and student["few_top1"]["n"] == few < 60
    assert student["few_top1"]["value"] >= 1 / 6 and student["v2_top1"]["n"] == 40
    assert student["real_top1"]["n"] == 59 and student["real_top1"]["value"] >= student["clean_top1"]["value"] - 1 / 59
    assert student["few_same_classes_clean_top1"]["n"] < 60
    assert {f"clean_{what}{when}" for what in ("ece", "nll", "brier") for when in ("", "_scaled")} <= student.keys()
    selection = results["student"]["selection"]
    assert selection["temp"] > 0 and selection["num_heldout"] == 20 and not {"raw pixels"} & results.keys()


def test_the_vote_needs_no_temperature_and_a_model_can_be_the_reference(
    run: Path, folders: list[str | Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["robust", "--ckpt", run, *folders, "--head", "knn", "--corruption", "all", "--severity", "5"]
    assert run_cli([*arguments, "--reference", run, "--no-baselines"], monkeypatch) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Calibration" not in shown and f"mCE is relative to {run}, which has 100" in shown
    (result,) = stored(run / "results" / "robust.json")
    assert result["metrics"]["mce_partial_15_kinds_1_severities"]["value"] == 1.0
    assert {f"{kind}_5_error" for kind in KINDS} <= result["metrics"].keys()
    assert not any("ece" in name for name in result["metrics"]) and result["features"]["norm"] == "l2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shift", "few"], "robust: --shift 'few' must read NAME=IMAGES, each name once and other than clean and re"),
        (["--shift", "few=few"], "robust: --shift 'few=few' must read NAME=IMAGES"),
        (["--shift", "clean=few"], "robust: --shift 'clean=few' must read NAME=IMAGES"),
        (["--shift", "odd=odd"], "odd has 1 classes that train lacks (zebra)"),
        (["--shift", "empty=empty"], "1 class folders of empty hold no images (n05)"),
        (["--shift", "none=none"], "none does not exist"),
        (["--corruption", "rain"], "robust: no corruption 'rain'; choose from all, gaussian_noise, shot_noise"),
        (["--severity", "2"], "robust: --severity belongs to --corruption"),
        (["--severity", "6"], "Invalid value for '--severity'"),
        (["--head", "svm"], "robust: no head 'svm'; choose from logreg, knn"),
        (["--reference", "timm:x"], "robust: --reference is what corruption errors are relative to; add --corruption"),
        (
            ["--corruption", "all", "--reference", "alexnet"],
            "on the 1000 classes of ImageNet, over all 5 severities; 10",
        ),
        (["--real", "bad.json"], "--real bad.json cannot be read as JSON"),
        (["--real", "short.json"], "short.json holds 2 entries; a list of labels, whole numbers below 10, is wanted"),
        (["--real", "high.json"], "high.json holds 60 entries; a list of labels, whole numbers below 10, is wanted"),
    ],
)
def test_mistakes_end_in_their_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    run: Path,
    folders: list[str | Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_digits(tmp_path / "odd", range(300, 305), [*NAMES[:-1], "n09"])
    save_digits(tmp_path / "odd", range(305, 306), ["zebra"] * 10)
    save_digits(tmp_path / "empty", range(300, 302), NAMES)
    (tmp_path / "empty" / "n05").mkdir(exist_ok=True)
    (tmp_path / "bad.json").write_text("[[1], ")
    (tmp_path / "short.json").write_text("[[1], [2]]")
    (tmp_path / "high.json").write_text(json.dumps([[10]] * 60))
    assert run_cli(["robust", "--ckpt", run, *folders, *arguments], monkeypatch) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
