"""`ukd-eval transfer` from end to end, on tiny sets of which some are missing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.eval import transfer_world as world
from tests.eval.commands import run_cli, stored
from ukd.eval.run_transfer import preset_of
from ukd.eval.transfer_suite import load_suite

pytestmark = pytest.mark.usefixtures("surroundings")


def test_a_run_is_shown_on_what_is_on_disk(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "sets"
    for write in (world.food101, world.aircraft, world.voc2007):
        write(root)
    assert run_cli(["transfer", "--ckpt", run, "--root", root, "--num-c", "3"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert max(map(len, re.sub(r"(note|written|student keeps).*", "", shown).splitlines())) <= 80
    assert shown.count("not on disk: ") == 9 and "torchvision:DTD:train in" in shown
    assert "mean of 3 of 12 sets (partial)" in shown and "student keeps" in shown and "11-point mAP of 24" in shown
    results = stored(run / "results" / "transfer.json")
    presets = [f"kornblith/{name}-custom" for name in ("food101", "aircraft", "voc2007")]
    assert [(each["model"]["role"], each["preset"]) for each in results] == [
        (role, preset) for role in ("untrained student", "student", "teacher") for preset in [*presets, "kornblith"]
    ]
    food, aircraft, voc, mean = results[4:8]
    assert list(food["metrics"]) == ["top1"] and list(aircraft["metrics"]) == ["mean_per_class"]
    assert voc["metrics"]["map_11point"]["ci"] is None and voc["metrics"]["map_11point"]["n"] == 24
    assert food["protocol"]["val"] == "0.2 of each class of train, at random"
    assert aircraft["protocol"]["val"] == "torchvision:FGVCAircraft:val" and food["data"]["crop_pct"] == 1.0
    assert food["data"]["food101"]["num_train"] == 24 and food["selection"]["num_val"] == 6
    values = [each["metrics"][each["protocol"]["metric"]]["value"] for each in (food, aircraft, voc)]
    assert mean["metrics"]["mean_partial_3_of_12"]["value"] == pytest.approx(np.mean(values))
    assert mean["metrics"]["mean_partial_3_of_12"]["n"] == 3 and "dtd" in mean["data"]["not_on_disk"]
    assert "cifar10, cifar100" in mean["warnings"][0]


def test_a_suite_of_ones_own_is_whole(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.folders(tmp_path / "a", 12)
    lines = ["name: mine", "sets:", "  a:", "    metric: top1", "    train: a", "    train_per_class: 8"]
    world.save_text(tmp_path / "mine.yaml", lines)
    arguments = ["transfer", "--ckpt", run, "--suite", "mine.yaml", "--root", ".", "--num-c", "2", "--no-baselines"]
    assert run_cli([*arguments, "--output", "out.json"], monkeypatch) == 0
    assert "mean of all 1 sets" in capsys.readouterr().out
    measured, mean = stored(tmp_path / "out.json")
    assert measured["metrics"]["top1"]["n"] == 12 and measured["selection"]["num_val"] == 6
    assert mean["metrics"]["mean"]["value"] == measured["metrics"]["top1"]["value"]


def test_all_c_at_once_are_the_same_figures(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for write in (world.food101, world.aircraft, world.voc2007):
        write(tmp_path / "sets")
    results = {}
    for solver in ("sklearn", "lbfgs"):
        arguments = ["transfer", "--ckpt", run, "--root", "sets", "--num-c", "5", "--no-baselines", "--solver", solver]
        assert run_cli([*arguments, "--output", f"{solver}.json"], monkeypatch) == 0
        results[solver] = stored(tmp_path / f"{solver}.json")
    for ours, theirs in zip(results["lbfgs"], results["sklearn"], strict=True):
        assert ours["preset_hash"] == theirs["preset_hash"] and ours["selection"].get("c") == theirs["selection"].get(
            "c"
        )
        (metric,) = ours["metrics"]
        assert ours["metrics"][metric]["value"] == pytest.approx(theirs["metrics"][metric]["value"], abs=1e-9)
        assert ours["engine"]["solver"].startswith("torch ") and theirs["engine"]["solver"].startswith("scikit-learn ")
        assert all(each["grad_norm"] <= 1e-5 for each in ours["selection"].get("curve", []))
    assert run_cli(["transfer", "--ckpt", run, "--root", "sets", "--solver", "newton"], monkeypatch) == 2
    assert "transfer: no solver 'newton'; choose from sklearn, lbfgs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "nowhere"], "transfer: no set of kornblith is on disk; --root names their folder, --download"),
        (["--suite", "vtab"], "vtab: 1 problem\n  No such file or directory; give a YAML file, or one of kornblith"),
        (["--root", "unlike"], "unlike/birdsnap/test has 1 classes that unlike/birdsnap/train lacks (dog)"),
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
    world.folders(tmp_path / "unlike" / "birdsnap" / "train", 2)
    world.folders(tmp_path / "unlike" / "birdsnap" / "test", 2, ("ant", "dog"))
    assert run_cli(["transfer", "--ckpt", run, *arguments], monkeypatch) == 2
    assert message in capsys.readouterr().err


def test_the_suite_s_protocols_are_frozen() -> None:
    # These hashes stand in result files: whoever changes one changes a protocol, and should name it anew.
    suite = load_suite("kornblith")
    found = {name: preset_of(suite, name, suite.sets[name], None).hash for name in ("food101", "voc2007", "caltech101")}
    assert found == {
        "food101": "40f3e4463a215913",
        "voc2007": "c436b845b07ffb38",
        "caltech101": "2fe616e2c2c69d43",
    }
