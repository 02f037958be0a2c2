"""`ukd-eval knn` with few-shot banks, banks of another model, and the libraries' presets, from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.eval.commands import run_cli, stored
from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone

pytestmark = pytest.mark.usefixtures("surroundings")


def test_few_shot_banks_report_their_mean_and_deviation(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: list[str | Path] = ["knn", "--ckpt", run, "--no-baselines", "--preset", "ukd", "--preset", "vissl"]
    assert run_cli([*arguments, "--shots", "4", "--tries", "3"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "mean of 3 banks of 4 a class" in shown and "sd " in shown
    assert "note: vissl: k=200 left out: the bank holds 40 images" in shown
    majority, products = stored(run / "results" / "knn.json")
    assert (majority["preset"], products["preset"]) == ("ukd-4-shot", "vissl-4-shot")
    assert majority["protocol"]["shots"] == 4 and majority["protocol"]["seeds"] == [0, 1, 2]
    assert list(majority["metrics"])[-4:] == ["top1_k1_std", "top5_k1_std", "top1_k20_std", "top5_k20_std"]
    assert majority["metrics"]["top1_k1_std"]["n"] == 3 and majority["metrics"]["top1_k1"]["n"] == 80
    assert products["metrics"] == {} and products["features"]["norm"] == "none"


def test_a_student_is_asked_in_its_teachers_bank(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: list[str | Path] = ["knn", "--ckpt", run, "--preset", "ukd"]
    assert run_cli([*arguments, "--output", "own.json"], monkeypatch) == 0
    own = {each["model"]["role"]: each for each in stored(Path("own.json"))}
    assert run_cli([*arguments, "--bank-ckpt", "teacher", "--output", "crossed.json"], monkeypatch) == 0
    crossed = {each["model"]["role"]: each for each in stored(Path("crossed.json"))}
    assert list(crossed) == ["untrained student", "student", "teacher"]
    assert crossed["teacher"]["metrics"] == own["teacher"]["metrics"]
    assert crossed["student"]["metrics"] != own["student"]["metrics"]
    assert crossed["student"]["preset"] == "ukd-in-teacher-bank"
    assert crossed["student"]["preset_hash"] != own["student"]["preset_hash"]
    assert crossed["student"]["reference"]["sha256"] == own["teacher"]["model"]["sha256"]
    assert run_cli([*arguments, "--bank-ckpt", run, "--no-baselines", "--output", "itself.json"], monkeypatch) == 0
    (itself,) = stored(Path("itself.json"))
    assert (itself["metrics"], itself["preset"]) == (own["student"]["metrics"], "ukd-in-given-bank")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tries", "3"], "knn: --tries counts draws of few-shot banks; give --shots too"),
        (["--shots", "300"], "knn: --shots 300 but 10 classes of the bank have fewer images"),
        (["--bank-ckpt", "wide"], "gives features 96 wide but the bank of wide is 256 wide; both must be of one width"),
        (["--ckpt", "pretrained", "--bank-ckpt", "teacher"], "pretrained names no teacher; give --bank-ckpt"),
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
    (tmp_path / "wide").mkdir()
    export_backbone(tmp_path / "wide", "student", build_backbone(arch="test_byobnet", size_px=16), {})
    chosen = arguments if "--ckpt" in arguments else ["--ckpt", "run", *arguments]
    assert run_cli(["knn", *chosen, "--no-baselines"], monkeypatch) == 2
    assert message in capsys.readouterr().err
