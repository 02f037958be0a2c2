"""`ukd-eval extract` from end to end, and `--features` of the tasks."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from tests.commands import start, wait_until
from tests.eval.commands import run_cli, stored
from ukd.backbones import build_backbone, open_backbone
from ukd.bank import embed
from ukd.blocks import round_blocks
from ukd.checkpoint import export_backbone
from ukd.data import open_images
from ukd.store import open_store

pytestmark = pytest.mark.usefixtures("surroundings")


def export(folder: Path, arch: str) -> Path:
    folder.mkdir()
    export_backbone(folder, "student", build_backbone(arch=arch, size_px=16, crop_pct=1.0), {})
    return folder


def save_images(folder: Path, names: list[bytes]) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path, format="png")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def read_plainly(folder: Path) -> tuple[np.ndarray, dict[str, list[str]]]:  # type: ignore[type-arg]
    """The lines that the command's help promises."""
    files = sorted(Path(folder).glob("rows-*.safetensors"))
    rows = np.concatenate([load_file(file)["features"] for file in files])
    images = json.loads(Path(folder, "images.json").read_text())
    return rows, images


def test_a_run_is_stored_with_its_labels_for_plain_numpy(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["extract", "--ckpt", run, "--images", digits[0], "--output", "out"], monkeypatch) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^ student +pooled +300 +\d+ +float16 +0\.1 ", shown, re.MULTILINE)
    assert "written: out/run\n" in shown
    rows, images = read_plainly(Path("out/run"))
    options = {"size_px": 16, "crop_pct": 1.0, "device": torch.device("cpu"), "num_workers": 0}
    expected = embed(open_backbone(str(run)), open_images(str(digits[0])), **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(rows, round_blocks(expected))
    assert images["labels"] == np.load(digits[0])["labels"].tolist() and images["class_names"] is None
    assert images["ids"][:2] == ["#0", "#1"] and len(images["ids"]) == 300


def test_several_checkpoints_have_a_folder_each_and_several_kinds_an_output_each(
    tmp_path: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export(tmp_path / "vit", "test_vit"), export(tmp_path / "resnet", "test_resnet")
    common = ["--images", digits[1], "--output"]
    arguments = ["extract", "--ckpt", "vit", "--ckpt", "resnet/student.safetensors"]
    assert run_cli([*arguments, *common, "pooled"], monkeypatch) == 0
    assert len(re.findall(r"^ (vit|resnet\S+) +pooled +80 ", capsys.readouterr().out, re.MULTILINE)) == 2
    assert sorted(path.name for path in Path("pooled").iterdir()) == ["student", "vit"]
    assert run_cli(["extract", "--ckpt", "vit", *common, "last4", "--features", "last4+avg"], monkeypatch) == 0
    assert open_store(Path("last4/vit")).shape == (80, 320)
    assert run_cli([*arguments, *common, "cls", "--features", "cls"], monkeypatch) == 2
    assert "features: test_resnet has no cls; it has pooled, avg" in capsys.readouterr().err


def test_names_of_any_bytes_and_class_folders_are_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [b"a b/caf\xe9.png", b'a b/"\n\\.png', "c/雪.png".encode()]
    folder = save_images(tmp_path / "odd", names)
    assert run_cli(["extract", "--ckpt", run, "--images", folder, "--output", "out"], monkeypatch) == 0
    rows, images = read_plainly(Path("out/run"))
    assert [os.fsencode(name) for name in images["ids"]] == sorted(names) and len(rows) == 3
    assert (images["labels"], images["class_names"]) == ([0, 0, 1], ["a b", "c"])
    save_images(folder, [b"loose.png"])
    assert run_cli(["extract", "--ckpt", run, "--images", folder, "--output", "more"], monkeypatch) == 0
    assert read_plainly(Path("more/run"))[1]["labels"] is None


def test_without_an_output_it_fills_the_cache_of_the_tasks(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for images in digits:
        assert run_cli(["extract", "--ckpt", run, "--images", images], monkeypatch) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("cache").rglob("rows-*")}
    assert len(before) == 3
    assert run_cli(["knn", "--ckpt", run], monkeypatch) == 0
    after = {path: path.stat().st_mtime_ns for path in Path("cache").rglob("rows-*")}
    assert before.items() <= after.items() and len(after) == 4 * 3


def test_a_killed_extraction_is_continued_to_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "many.npy", rng.integers(0, 256, (2000, 16, 16, 3), dtype=np.uint8))
    export(tmp_path / "model", "test_resnet")
    arguments = ["extract", "--ckpt", "model", "--images", "many.npy", "--size-px", "96", "--device", "cpu", "--output"]
    process = start("ukd-eval", *arguments, "killed", "--num-workers", "0")
    wait_until(lambda: len(list(Path("killed").rglob("rows-*"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in Path("killed").rglob("rows-*")}
    assert 2 <= len(kept) < 8
    assert json.loads(Path("killed/model/features.json").read_text())["complete"] is False
    for output in ("killed", "whole"):
        assert run_cli([*arguments, output], monkeypatch) == 0
    assert files(Path("killed/model")) == files(Path("whole/model"))
    assert kept == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept}


def test_tasks_take_other_kinds_and_say_so(
    tmp_path: Path, digits: tuple[Path, Path], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path / "vit", "test_vit")
    sources = ["--train", digits[0], "--test", digits[1], "--output", "result.json"]
    for kind, dim in (("pooled", 64), ("last4", 256)):
        assert run_cli(["knn", "--ckpt", "vit", "--features", kind, *sources], monkeypatch) == 0
        assert (
            stored(Path("result.json"))[0]["features"]["kind"],
            stored(Path("result.json"))[0]["features"]["dim"],
        ) == (kind, dim)
    assert run_cli(["knn", "--ckpt", run, "--features", "avg", "--output", "run.json"], monkeypatch) == 0
    kinds = {each["model"]["role"]: each["features"]["kind"] for each in stored(Path("run.json"))}
    assert kinds == {"raw pixels": "pooled", "untrained student": "avg", "student": "avg", "teacher": "avg"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "clss"], "--features: no kind 'clss'; choose from pooled, cls, avg, cls+avg, last4, last4+avg"),
        (["--view", "dion"], "extract: no view 'dion'; choose from dino, kornblith"),
        (["--view", "dino", "--size-px", "16"], "extract: --view dino says what --size-px and --crop-pct say"),
        (["--ckpt", "run"], "would both be stored in out/run; extract them by two commands"),
        (["--images", "nowhere"], "data: nowhere does not exist"),
        (["--output", "test.npz"], "features: cannot use test.npz/run: Not a directory"),
        (
            ["--output", "stored", "--crop-pct", "0.5"],
            "of view.crop_pct 1.0 where 0.5 is asked for; name another folder",
        ),
        (["--ckpt", "spoiled"], "student (spoiled): NaN or infinity in the features of 80 of 80 images of test.npz"),
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
    common = ["extract", "--ckpt", "run", "--images", "test.npz", "--output"]
    assert run_cli([*common, "stored"], monkeypatch) == 0
    spoiled = build_backbone(arch="test_resnet")
    next(spoiled.parameters()).data.fill_(float("nan"))
    (tmp_path / "spoiled").mkdir()
    export_backbone(tmp_path / "spoiled", "student", spoiled, {})
    (tmp_path / "spoiled" / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    assert run_cli([*common, "out", *arguments], monkeypatch) == 2
    complaint = capsys.readouterr().err
    assert message in complaint and "Traceback" not in complaint


def test_views_by_name(run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for view, crop_pct in (("dino", 0.875), ("kornblith", 1.0)):
        arguments = ["extract", "--ckpt", run, "--images", digits[1], "--view", view, "--output", view]
        assert run_cli(arguments, monkeypatch) == 0
        key = json.loads(Path(view, "run", "features.json").read_text())["key"]
        assert key["view"] == {"size_px": 224, "crop_pct": crop_pct}
