"""`ukd-eval logreg` from end to end."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.eval.commands import run_cli, stored

pytestmark = pytest.mark.usefixtures("surroundings")


def test_a_run_is_shown_beside_its_teacher(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["logreg", "--ckpt", run, "--num-c", "3", "--preset", "kornblith", "--preset", "dinov2"]
    assert run_cli(arguments, monkeypatch) == 0
    shown = capsys.readouterr().out
    assert max(map(len, re.sub(r"(note|written|student keeps).*", "", shown).splitlines())) <= 80
    assert shown.count("student keeps") == 2 and "top-1, kornblith-custom)" in shown
    results = stored(run / "results" / "logreg.json")
    assert [(each["model"]["role"], each["preset"]) for each in results] == [
        (role, preset)
        for role in ("untrained student", "student", "teacher")
        for preset in ("kornblith-custom", "dinov2-custom")
    ]
    student = results[2]
    assert student["protocol"]["num_c"] == 3 and student["features"]["norm"] == "none"
    assert student["engine"]["solver"].startswith("scikit-learn ")
    assert set(student["metrics"]) == {"top1", "mean_per_class"}
    assert student["metrics"]["top1"]["n"] == 80 and len(student["metrics"]["top1"]["ci"]) == 2
    curve = student["selection"]["curve"]
    assert [each["c"] for each in curve] == pytest.approx([1e-5, 10**0.5, 1e6])
    assert student["selection"]["c"] == max(curve, key=lambda each: each["heldout_top1"])["c"]
    assert 0 < student["selection"]["grad_norm"] <= student["protocol"]["tol"]


def test_all_c_at_once_are_the_same_figures(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {}
    for solver in ("sklearn", "lbfgs"):
        arguments = ["logreg", "--ckpt", run, "--num-c", "5", "--no-baselines"]
        assert run_cli([*arguments, "--solver", solver, "--output", f"{solver}.json"], monkeypatch) == 0
        (figures[solver],) = stored(Path(f"{solver}.json"))
    assert figures["lbfgs"]["metrics"] == figures["sklearn"]["metrics"]
    assert figures["lbfgs"]["selection"]["c"] == figures["sklearn"]["selection"]["c"]
    assert figures["lbfgs"]["selection"]["grad_norm"] <= 1e-5
    assert figures["lbfgs"]["engine"]["solver"].startswith("torch ")


def test_a_named_class_without_training_images_is_refused_by_name(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = np.array([f"digit {number}" for number in range(10)])
    for path in digits:
        arrays = dict(np.load(path))
        kept = arrays["labels"] != 4 if path == digits[0] else slice(None)
        np.savez(path, images=arrays["images"][kept], labels=arrays["labels"][kept], class_names=names)
    assert run_cli(["logreg", "--ckpt", run, "--num-c", "2"], monkeypatch) == 2
    assert "1 classes of the test images have no training image (digit 4)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "dino"], "logreg: no preset 'dino'; choose from kornblith, dinov2"),
        (["--solver", "newton"], "logreg: no solver 'newton'; choose from sklearn, lbfgs"),
        (["--num-c", "0"], "Invalid value for '--num-c'"),
        (["--test", "test.npz"], "logreg: --train and --test go together"),
    ],
)
def test_mistakes_end_in_their_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cli(["logreg", "--ckpt", run, *arguments], monkeypatch) == 2
    assert message in capsys.readouterr().err
