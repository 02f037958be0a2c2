"""`ukd-eval retrieval KIND` from end to end, on small data sets laid out as the published ones."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.eval.commands import run_cli, stored
from tests.eval.retrieval.fakes import make_copydays, make_forb, make_landmarks, save, scene
from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone

pytestmark = pytest.mark.usefixtures("surroundings")
LEVELS = ("easy", "medium", "hard")
ROLES = ["untrained student", "student", "teacher"]


def retrieve(*arguments: object) -> list[str | Path]:
    return ["retrieval", *(each if isinstance(each, Path) else str(each) for each in arguments)]


def values(result: dict) -> dict[str, float]:  # type: ignore[type-arg]
    return {name: metric["value"] for name, metric in result["metrics"].items()}


def test_classes_are_found_among_the_queries_themselves(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(retrieve("class", "--ckpt", run), monkeypatch) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown[: shown.index("written: ")].splitlines())) <= 80
    assert "Retrieval by class, leave-one-out" in shown and "student keeps " in shown
    results = stored(run / "results" / "retrieval_class.json")
    assert [each["model"]["role"] for each in results] == ["raw pixels", *ROLES]
    pixels = results[0]
    assert list(pixels["metrics"]) == [
        *("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "r_precision", "map_at_r", "map_full")
    ]
    assert values(pixels)["recall_at_1"] > 0.7 and pixels["metrics"]["recall_at_1"]["n"] == 80
    assert (pixels["task"], pixels["preset"]) == ("retrieval_class", "cub")
    assert pixels["data"]["queries"]["queries"]["n"] == pixels["data"]["database"][0]["n"] == 80
    assert pixels["data"]["view"] == {"size_px": 16, "crop_pct": 1.0}
    assert (pixels["features"]["kind"], pixels["features"]["norm"], pixels["reference"]) == ("pooled", "l2", {})


def test_classes_are_found_in_a_database(
    run: Path, digits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = digits
    arguments = ["class", "--ckpt", run, "--no-baselines", "--queries", test, "--database", train, "--k", 3, "--k", 1]
    assert run_cli(retrieve(*arguments), monkeypatch) == 0
    assert "leave-one-out" not in capsys.readouterr().out
    (result,) = stored(run / "results" / "retrieval_class.json")
    assert result["preset"] == "cub-custom" and result["protocol"]["ks"] == [1, 3]
    assert result["data"]["database"][0]["n"] == 300


def test_a_teachers_database_answers_its_students_queries(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    teacher = run.parent / "pretrained"
    files = [tmp_path / f"{number}.json" for number in range(3)]
    run_cli(retrieve("class", "--ckpt", run, "--against", teacher, "--output", files[0]), monkeypatch)
    run_cli(retrieve("class", "--ckpt", teacher, "--no-baselines", "--output", files[1]), monkeypatch)
    copied = ["--ckpt", teacher, "--against", teacher, "--no-baselines", "--output", files[2]]
    run_cli(retrieve("class", *copied), monkeypatch)
    asked, (alone,), (by_itself,) = map(stored, files)
    assert [each["model"]["role"] for each in asked] == ROLES  # Raw pixels have another width.
    assert asked[-1]["metrics"] == alone["metrics"] == by_itself["metrics"] != asked[1]["metrics"]
    assert asked[1]["reference"]["sha256"] == build_backbone(arch="test_resnet", seed=8).weights_hash()
    assert (asked[1]["preset"], alone["preset"]) == ("cub-asymmetric", "cub")
    assert asked[1]["preset_hash"] != alone["preset_hash"]
    assert any("projection head" in warning for warning in asked[1]["warnings"])


def test_codes_are_found_by_hamming_distance(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(retrieve("hash", "--ckpt", run, "--k", 50), monkeypatch) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown[: shown.index("written: ")].splitlines())) <= 80
    pixels = stored(run / "results" / "retrieval_hash.json")[0]
    found = values(pixels)
    assert found["map_at_50_over_retrieved"] > found["map_at_50_over_min_r_k"] >= found["map_at_50_over_all"] > 0.2
    assert found["precision_at_50"] > 0.3
    assert (pixels["protocol"]["coder"], pixels["features"]["dim"]) == ("sign", 768)


def test_landmarks_are_found_better_where_queries_are_cropped(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_landmarks(tmp_path)
    assert run_cli(retrieve("roxford", "--ckpt", run, "--data", tmp_path), monkeypatch) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown[: shown.index("written: ")].splitlines())) <= 80
    assert "hard: 1 of 5 queries have no answer at this level and do not count" in shown
    results = stored(run / "results" / "retrieval_roxford.json")
    assert [each["model"]["role"] for each in results] == ROLES
    student = results[1]
    (row, _) = re.findall(r"^ student +(.*\d) *$", shown, re.MULTILINE)
    in_json = [values(student)[f"map_trapz_{level}_{how}"] for how in ("cropped", "whole") for level in LEVELS]
    assert row.split() == [f"{100 * value:.1f}" for value in in_json]
    assert len(student["metrics"]) == 2 * 3 * 4 and student["metrics"]["map_trapz_hard_whole"]["n"] == 4
    assert values(student)["map_trapz_easy_cropped"] > 0.8 > values(student)["map_trapz_easy_whole"]
    assert values(student)["mp_at_1_easy_cropped"] == 1
    assert student["data"]["view"] == {"image_px": 224, "squash": False, "scales": [1.0], "gem": None}
    assert set(student["data"]["queries"]) == {"cropped", "whole"}


def test_paris_has_scales_and_whitening_is_fitted_on_oxford(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paris, oxford = make_landmarks(tmp_path, "rparis6k"), tmp_path / "oxford"
    for number in range(40):
        save(oxford / f"{number}.jpg", scene(300 + number, 2))
    arguments = ["rparis", "--ckpt", run, "--data", paris, "--no-baselines", "--whiten", oxford]
    assert run_cli(retrieve(*arguments), monkeypatch) == 0
    (result,) = stored(run / "results" / "retrieval_rparis.json")
    assert result["data"]["view"]["scales"] == [1.0, 0.5**0.5, 0.5]
    assert result["features"]["whitening"]["n"] == 40 and result["features"]["whitening"]["dim"] <= 39
    assert result["preset"] == "dino-whitened"
    assert any("whitening: 40 images vary in" in warning for warning in result["warnings"])


def test_copies_lead_to_their_originals(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copydays = make_copydays(tmp_path / "copydays")
    for number in range(20):
        save(tmp_path / "distractors" / f"{number}.jpg", scene(400 + number))
    arguments = ["copydays", "--ckpt", run, "--no-baselines", "--data", copydays, "--image-px", 32]
    assert run_cli(retrieve(*arguments, "--distractors", tmp_path / "distractors"), monkeypatch) == 0
    assert "no distractors" not in capsys.readouterr().out
    (result,) = stored(run / "results" / "retrieval_copydays.json")
    found = values(result)
    assert list(found) == [
        f"map_trapz_at_20_{block}" for block in ("crops/50", "jpegqual/3", "jpegqual/75", "strong", "jpegqual", "crops")
    ]
    assert found["map_trapz_at_20_jpegqual/75"] == 1
    assert found["map_trapz_at_20_jpegqual"] == pytest.approx(
        (found["map_trapz_at_20_jpegqual/3"] + found["map_trapz_at_20_jpegqual/75"]) / 2
    )
    assert result["metrics"]["map_trapz_at_20_strong"]["n"] == 12
    assert [each["n"] for each in result["data"]["database"]] == [6, 20]
    assert (result["features"]["kind"], result["preset"]) == ("pooled+gem4", "dino-custom")
    assert run_cli(retrieve(*arguments), monkeypatch) == 0
    assert "note: no distractors" in capsys.readouterr().out


def test_flat_objects_are_found_or_not_there(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    forb = make_forb(tmp_path / "forb")
    arguments = ["forb", "--ckpt", run, "--data", forb, "--preset", "one-scale"]
    assert run_cli(retrieve(*arguments), monkeypatch) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown[: shown.index("note: ")].splitlines())) <= 80
    assert "2 of 8 kinds of objects (logos, paintings): not FORB's own figure" in shown
    results = stored(run / "results" / "retrieval_forb.json")
    assert [each["model"]["role"] for each in results] == ["raw pixels", *ROLES]
    found = values(results[2])
    assert found["map_at_1_over_all"] >= found["tmap_at_1"] > 0.5
    assert {f"tmap_at_5_{level}" for level in LEVELS} < set(found)
    assert results[2]["metrics"]["tmap_at_5_easy"]["n"] == 4


def test_the_scales_of_forb_are_averaged(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forb = make_forb(tmp_path / "forb")
    assert run_cli(retrieve("forb", "--ckpt", run, "--no-baselines", "--data", forb), monkeypatch) == 0
    (result,) = stored(run / "results" / "retrieval_forb.json")
    assert result["data"]["view"]["scales"] == [1.414, 1.0, 0.707]
    assert result["data"]["database_view"]["scales"] == [2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25]
    assert values(result)["map_at_1_over_all"] > 0.3  # By chance 1 in 24.


@pytest.mark.parametrize("kind", ["class", "roxford"])
def test_warm_figures_are_the_cold_ones(kind: str, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_landmarks(tmp_path)
    files = [tmp_path / name for name in ("cold.json", "warm.json", "uncached.json")]
    for file, extra in zip(files, ([], [], ["--no-cache"]), strict=True):
        data = ["--data", tmp_path] if kind == "roxford" else []
        run_cli(retrieve(kind, "--ckpt", run, "--no-baselines", "--output", file, *data, *extra), monkeypatch)
    cold, warm, uncached = ([each["metrics"] for each in stored(file)] for file in files)
    assert cold == warm == uncached


def test_a_vit_of_one_size_sees_landmarks_whole(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_landmarks(tmp_path)
    (tmp_path / "vit").mkdir()
    vit = build_backbone(arch="test_vit", kwargs={"img_size": 32, "patch_size": 8}, size_px=32)
    export_backbone(tmp_path / "vit", "student", vit, {})
    file = tmp_path / "vit" / "student.safetensors"
    assert run_cli(retrieve("roxford", "--ckpt", file, "--data", tmp_path), monkeypatch) == 0
    (result,) = stored(tmp_path / "vit" / "student.retrieval_roxford.json")
    assert values(result)["map_trapz_easy_cropped"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["class", "--ckpt", "run/student.safetensors"], "retrieval class: no labelled images: give --queries"),
        (["class", "--ckpt", "run", "--database", "train.npz"], "--database and --queries go together"),
        (["hash", "--ckpt", "run", "--queries", "test.npz"], "--database and --queries go together"),
        (["hash", "--ckpt", "run"], "k=1000 but the database holds 300 images; choose k <= 300"),
        (["class", "--ckpt", "run", "--preset", "cars"], "no preset 'cars'; choose from cub, sop, inshop"),
        (["class", "--ckpt", "run", "--whiten", "test.npz"], "--whiten: test.npz holds 80 of the 80 images"),
        (["class", "--ckpt", "run", "--whiten", "nowhere"], "nowhere does not exist"),
        (["class", "--ckpt", "run", "--against", "narrow"], "96 wide, but those of the database by narrow are 64 wide"),
        (["roxford", "--ckpt", "run", "--data", "empty"], "gnd_roxford5k.pkl: No such file"),
        (["roxford", "--ckpt", "run", "--data", "harmful"], "it asks for builtins.eval"),
        (["roxford", "--ckpt", "run", "--data", "other"], "is not the ground truth of roxford5k: KeyError 'qimlist'"),
        (["roxford", "--ckpt", "run", "--data", "lacking"], "1 of 5 images are missing in "),
        (["roxford", "--ckpt", "fixed", "--data", "."], "test_vit_relpos takes images of one size only"),
        (["copydays", "--ckpt", "run", "--data", "bank"], "has no originals; wanted are original/"),
        (["forb", "--ckpt", "run", "--data", "bank"], "holds no *_gt.ndjson"),
        (["class", "--ckpt", "spoiled"], "student (spoiled): NaN or infinity in the features of 80 of 80 images"),
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
    _make_mistakes(tmp_path, run)
    assert run_cli(retrieve(*arguments), monkeypatch) == 2
    complaint = capsys.readouterr().err
    assert message in complaint and "Traceback" not in complaint


def _make_mistakes(folder: Path, run: Path) -> None:
    make_landmarks(folder)
    save(folder / "bank" / "a.jpg", scene(0))
    for name, data in (("harmful", b"cbuiltins\neval\n(S'1'\ntR."), ("other", b"(dp0\nS'imlist'\n(lp1\ns.")):
        (folder / name).mkdir()
        (folder / name / "gnd_roxford5k.pkl").write_bytes(data)
    (make_landmarks(folder / "lacking") / "jpg" / "query_3.jpg").unlink()
    for name, arch, kwargs in (
        ("narrow", "test_vit2", {}),
        ("fixed", "test_vit_relpos", {}),
        ("spoiled", "test_resnet", {}),
    ):
        backbone = build_backbone(arch=arch, kwargs=kwargs)
        if name == "spoiled":
            next(backbone.parameters()).data.fill_(float("nan"))
            (folder / name).mkdir()
            (folder / name / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
        (folder / name).mkdir(exist_ok=True)
        export_backbone(folder / name, "student", backbone, {})


@pytest.mark.parametrize("kind", ["class", "hash", "roxford", "rparis", "copydays", "forb"])
def test_help_needs_no_torch(kind: str) -> None:
    code = f"import sys; sys.argv = ['ukd-eval', 'retrieval', '{kind}', '--help']\nfrom ukd.eval.cli import main\n"
    code += "try:\n  main()\nfinally:\n"
    code += "  print('heavy' if {'torch', 'faiss', 'timm', 'sklearn'} & set(sys.modules) else 'light')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "--ckpt" in shown and "--against" in shown and shown.endswith("light\n")
