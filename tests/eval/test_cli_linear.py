"""`ukd-eval linear` from end to end."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.eval.commands import run_cli, stored
from ukd import distributed
from ukd.backbones import Backbone, build_backbone, open_backbone
from ukd.bank import embed
from ukd.checkpoint import export_backbone
from ukd.data import open_images
from ukd.eval.linear import rows
from ukd.eval.linear.saved import SavedProbe
from ukd.kinds import embed_views

pytestmark = pytest.mark.usefixtures("surroundings")

SHORT = ["--preset", "simreg", "--epochs", "3", "--global-batch", "50", "--no-baselines"]


@pytest.fixture
def vit(digits: tuple[Path, Path], tmp_path: Path) -> list[str | Path]:
    """Arguments that name a random ViT of four blocks and the digits."""
    kwargs = {"img_size": 16, "patch_size": 4, "depth": 4}
    export_backbone(
        tmp_path, "vit", build_backbone(arch="test_vit", kwargs=kwargs, seed=7, size_px=16, crop_pct=1.0), {}
    )
    return ["linear", "--ckpt", tmp_path / "vit.safetensors", "--train", digits[0], "--test", digits[1]]


def result_without_time(path: Path) -> dict[str, Any]:
    (result,) = stored(path)
    return {**result, "wall_s": None}


def test_a_run_is_shown_beside_its_teacher(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["linear", "--ckpt", run, "--epochs", "4"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert max(map(len, re.sub(r"(note|written|student keeps).*", "", shown).splitlines())) <= 80
    assert shown.count("student keeps") == 1 and "Linear probe (cached-sgd-custom, 18 heads)" in shown
    assert "best_on_val is the best head and epoch on the test images themselves" in shown
    results = stored(run / "results" / "linear.json")
    assert [each["model"]["role"] for each in results] == ["untrained student", "student", "teacher"]
    student = results[1]
    assert student["protocol"]["epochs"] == 4 and student["features"]["norm"] == "l2_standardised"
    choices = ("selected_on_heldout", "last", "best_on_val")
    assert set(student["metrics"]) == {f"{top}_{name}" for top in ("top1", "top5") for name in choices}
    metric = student["metrics"]["top1_selected_on_heldout"]
    assert metric["n"] == 80 and metric["ci"][0] < metric["value"] < metric["ci"][1]
    selection = student["selection"]
    assert len(selection["heads"]) == 18 and [point["epoch"] for point in selection["curve"]] == [1, 2, 3, 4]
    best = student["metrics"]["top1_best_on_val"]["value"]
    assert best == max(share for point in selection["curve"] for share in point["test_top1"])
    chosen = selection["selected_on_heldout"]
    assert chosen["heldout_top1"] == max(share for point in selection["curve"] for share in point["heldout_top1"])
    assert 25 <= selection["num_heldout"] <= 35
    assert not (run / "results" / "linear.resume").exists()


def test_digits_are_told_apart_about_as_well_as_by_scikit_learn(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_cli(["linear", "--ckpt", run, "--no-baselines"], monkeypatch) == 0
    (result,) = stored(run / "results" / "linear.json")
    train, test = (open_images(str(path), labelled=True) for path in digits)
    backbone = open_backbone(str(run))
    features = [
        embed(backbone, images, size_px=16, crop_pct=1.0, device=torch.device("cpu"), num_workers=0)
        for images in (train, test)
    ]
    features = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in features]
    features = [(each - features[0].mean(0)) / np.sqrt(features[0].var(0) + 1e-5) for each in features]
    scores = [
        LogisticRegression(C=c, max_iter=5000).fit(features[0], train.labels).score(features[1], test.labels)
        for c in (1e-3, 1e-2, 1e-1)
    ]
    assert result["metrics"]["top1_selected_on_heldout"]["value"] > max(scores) - 0.08
    assert max(scores) > 0.5


@pytest.mark.parametrize(
    ("preset", "kind", "heads"),
    [("moco", "pooled", 1), ("mocov3", "pooled", 1), ("dino", "last4", 1), ("dinov2", "last4+avg", 52)],
)
def test_published_probes_of_a_vit(
    preset: str, kind: str, heads: int, vit: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ["--steps", "4", "--epochs", "2", "--global-batch", "64"]
    assert run_cli([*vit, "--preset", preset, *steps], monkeypatch) == 0
    (result,) = stored(Path("vit.linear.json"))
    assert result["preset"] == f"{preset}-custom" and result["features"]["kind"] == kind
    assert len(result["selection"]["heads"]) == heads
    said = [
        f"{preset}-custom: a step has 64 images where {preset} has {256 if preset == 'moco' else 1024}; learning rates "
        f"are {'left as they are' if preset == 'moco' else 'scaled in proportion'}, and the figures are not those of "
        f"{preset}"
    ]
    assert result["warnings"][:1] == said


def test_a_grid_for_class_tokens_shrinks_for_a_cnn_and_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["linear", "--ckpt", run, "--preset", "dinov2", "--steps", "2", "--epochs", "1", "--cached"]
    assert run_cli([*arguments, "--no-baselines"], monkeypatch) == 0
    (result,) = stored(run / "results" / "linear.json")
    assert len(result["selection"]["heads"]) == 13 and result["protocol"]["views"] == "centre"
    assert any("test_resnet has no class token in its last blocks" in line for line in result["warnings"])
    assert any("1024 images passes over the 300 training images more than once" in line for line in result["warnings"])
    assert "13 heads" in capsys.readouterr().out


def test_an_interrupted_probe_is_resumed_to_the_same_figures(
    vit: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, again = tmp_path / "whole.json", tmp_path / "again.json"
    assert run_cli([*vit, *SHORT, "--output", whole], monkeypatch) == 0
    save, epochs = SavedProbe.save, []

    def killed_in_the_third_epoch(self: SavedProbe, step: int, state: Any) -> None:
        save(self, step, state)
        epochs.append(step)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(SavedProbe, "save", killed_in_the_third_epoch)
    with pytest.raises((KeyboardInterrupt, AssertionError)):
        assert run_cli([*vit, *SHORT, "--output", again], monkeypatch) == 0
    (folder,) = (tmp_path / "again.resume").iterdir()
    assert not again.exists() and [path.name for path in folder.rglob("*.ckpt")] == [f"step-{epochs[1]:09d}.ckpt"]
    seen: list[int] = []
    batches = rows.ViewBatches.__call__
    monkeypatch.setattr(
        rows.ViewBatches, "__call__", lambda self, *steps: (seen.extend(steps), batches(self, *steps))[1]
    )
    assert run_cli([*vit, *SHORT, "--output", again, "--resume"], monkeypatch) == 0
    assert seen == [epochs[1], 18] and result_without_time(again) == result_without_time(whole)
    assert not (tmp_path / "again.resume").exists()


def test_a_model_that_moves_has_no_figures(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def drift(backbone: Backbone, views: torch.Tensor, kind: str) -> torch.Tensor:
        next(value for name, value in backbone.named_buffers() if name.endswith("running_mean")).add_(1e-3)
        return embed_views(backbone, views, kind)

    monkeypatch.setattr(rows, "embed_views", drift)
    assert run_cli(["linear", "--ckpt", run, *SHORT], monkeypatch) == 2
    assert "batch statistics of student" in capsys.readouterr().err
    assert not (run / "results" / "linear.json").exists()


def test_a_step_that_processes_cannot_share_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    assert run_cli(["linear", "--ckpt", run], monkeypatch) == 2
    assert "cached-sgd: 256 images in a step cannot be shared equally by 3 processes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--preset", "mocov2"],
            "linear: no preset 'mocov2'; choose from cached-sgd, moco, mocov3, dino, dinov2, simreg",
        ),
        (["--epochs", "0"], "Invalid value for '--epochs'"),
        (["--test", "test.npz"], "linear: --train and --test go together"),
        (["--lr", "1e38", "--epochs", "2"], "the weights of every head are NaN or infinite"),
    ],
)
def test_mistakes_end_in_their_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_cli(["linear", "--ckpt", run, *arguments], monkeypatch) == 2
    assert message in capsys.readouterr().err


def test_classes_that_do_not_serve_are_refused(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = dict(np.load(digits[0]))
    for kept, message in (
        (arrays["labels"] != 4, "linear: 1 classes of the test images have no training image (4)"),
        (np.unique(arrays["labels"], return_index=True)[1], "linear: every class has one training image"),
    ):
        np.savez(digits[0], images=arrays["images"][kept], labels=arrays["labels"][kept])
        assert run_cli(["linear", "--ckpt", run], monkeypatch) == 2
        assert message in capsys.readouterr().err
