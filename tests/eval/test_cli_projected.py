"""What a run's projector is for: a student of half its teacher's width in its teacher's space, and codes of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.preprocessing import normalize

from tests import tiny
from tests.eval import transfer_world
from tests.eval.commands import run_cli, stored
from tests.eval.retrieval.fakes import make_copydays
from tests.tiny import World
from ukd.backbones import build_backbone, open_backbone
from ukd.bank import embed
from ukd.blocks import round_blocks
from ukd.checkpoint import export_backbone
from ukd.data import open_images
from ukd.distill import distill
from ukd.projection import Projection, read_projection
from ukd.store import open_store

pytestmark = pytest.mark.usefixtures("surroundings")
Rows = npt.NDArray[np.float32]
BITS = 20
OBJECTIVES: dict[str, dict[str, Any]] = {
    "coss": {"name": "coss", "scale": 1.0, "hidden_dim": 64},
    "standardised": {"name": "regression", "target": "standardised", "hidden_dim": 16, "norm": "batch"},
    "hash": {"name": "hash", "bits": BITS, "num_clusters": 4},
    "rkd": {"name": "rkd", "angle_weight": 0.0},
}


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs of a student of width 32 and its teacher of width 64, and the labelled images that they name."""
    folder = tmp_path_factory.mktemp("projected")
    held = np.load(world.arrays)
    for name, rows in (("train", slice(0, 120)), ("test", slice(120, None))):
        np.savez(folder / f"{name}.npz", images=held["images"][rows], labels=held["labels"][rows])
    labelled = {f"labelled_{name}": str(folder / f"{name}.npz") for name in ("train", "test")}
    data = {"train": str(world.arrays), "num_workers": 0, **labelled}
    made = {}
    for name, objective in OBJECTIVES.items():
        raw = world.distillation(folder / name, objective=objective, data=data, epochs=0.7)
        made[name] = distill(tiny.parse(raw))
    return made


@pytest.fixture
def here(runs: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies of the runs in the folder of the test."""
    return {name: shutil.copytree(run, tmp_path / name) for name, run in runs.items()}


def features(checkpoint: Path, images: Path) -> torch.Tensor:
    """Pooled features, by another road than the command's."""
    shown = open_images(str(images))
    options: dict[str, Any] = {"size_px": tiny.SIZE_PX, "crop_pct": 1.0, "device": torch.device("cpu")}
    return torch.from_numpy(embed(open_backbone(str(checkpoint)), shown, num_workers=0, **options))


def projection_of(run: Path) -> Projection:
    found = read_projection(run / "student.safetensors")
    assert found is not None
    return found.projection


def kept(rows: torch.Tensor) -> Rows:
    """What a store would give back."""
    return round_blocks(rows.numpy())


def nearest_is_right(queries: Rows, query_labels: Any, database: Rows, labels: Any) -> float:
    similarity = normalize(queries.astype(np.float64)) @ normalize(database.astype(np.float64)).T
    return float((labels[similarity.argmax(1)] == query_labels).mean())


def labels_of(runs: dict[str, Path]) -> tuple[Path, Path, Any, Any]:
    train, test = (next(iter(runs.values())).parent / f"{name}.npz" for name in ("train", "test"))
    return train, test, np.load(train)["labels"], np.load(test)["labels"]


def by_role(path: str) -> dict[str, dict[str, Any]]:
    return {each["model"]["role"]: each for each in stored(Path(path))}


@pytest.mark.parametrize("name", ["coss", "standardised"])
def test_a_narrow_student_is_asked_in_its_teachers_bank(
    name: str, runs: dict[str, Path], here: dict[str, Path], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test, train_labels, test_labels = labels_of(runs)
    arguments: list[str | Path] = ["knn", "--ckpt", here[name], "--preset", "ukd", "--bank-ckpt"]
    assert run_cli([*arguments, "teacher", "--output", "own.json"], monkeypatch) == 0
    found = by_role("own.json")
    assert list(found) == ["student", "teacher"]  # Nothing leads an untrained student there.
    sides = projection_of(runs[name])
    bank = kept(sides.teacher(features(world.teacher, train)))
    asked = {"student": kept(sides.student(features(runs[name], test)))}
    asked["teacher"] = kept(sides.teacher(features(world.teacher, test)))
    for role, queries in asked.items():
        expected = nearest_is_right(queries, test_labels, bank, train_labels)
        assert found[role]["metrics"]["top1_k1"]["value"] == pytest.approx(expected), role
        assert found[role]["features"] | {"dtype": ""} == {"dim": 64, "kind": "projected", "norm": "l2", "dtype": ""}
    plain = open_backbone(str(here[name])).weights_hash()
    assert found["student"]["model"]["sha256"] == plain != found["student"]["model"]["projected_sha256"]
    assert run_cli([*arguments, world.teacher, "--output", "given.json"], monkeypatch) == 0
    assert by_role("given.json")["student"]["metrics"] == found["student"]["metrics"]


def test_a_teachers_database_answers_a_narrow_student(
    runs: dict[str, Path],
    here: dict[str, Path],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train, test, train_labels, test_labels = labels_of(runs)
    both = ["--ckpt", here["coss"], "--ckpt", here["standardised"]]
    files = ["--queries", test, "--database", train, "--against", world.teacher, "--output", "found.json"]
    assert run_cli(["retrieval", "class", *both, *files], monkeypatch) == 0
    assert "a student's queries pass the projector that it was trained with" in capsys.readouterr().out
    results = stored(Path("found.json"))
    assert [each["model"]["role"] for each in results] == ["student", "teacher"] * 2
    for each, name in ((results[0], "coss"), (results[2], "standardised")):
        sides = projection_of(runs[name])
        queries, database = sides.student(features(runs[name], test)), sides.teacher(features(world.teacher, train))
        expected = nearest_is_right(kept(queries), test_labels, kept(database), train_labels)
        assert each["metrics"]["recall_at_1"]["value"] == pytest.approx(expected), name
        assert (each["features"]["kind"], each["preset"]) == ("projected", "cub-asymmetric")
        assert each["reference"]["sha256"] == open_backbone(str(world.teacher)).weights_hash()


def test_landmarks_and_copies_pass_the_projector_too(
    here: dict[str, Path], world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = make_copydays(Path("copydays"))
    arguments: list[str | Path] = ["retrieval", "copydays", "--ckpt", here["coss"], "--against", world.teacher]
    arguments += ["--data", copies, "--image-px", "32", "--no-baselines", "--output", "copies.json"]
    assert run_cli([*arguments, "--preset", "pooled"], monkeypatch) == 0
    (found,) = stored(Path("copies.json"))
    assert (found["features"]["kind"], found["features"]["dim"]) == ("projected", 64)
    capsys.readouterr()
    assert run_cli(arguments, monkeypatch) == 2
    assert "takes the pooled feature, not pooled+gem4" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["knn", "logreg", "linear", "robust", "transfer"])
def test_projected_features_are_those_after_the_projector(
    command: str, here: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "knn": ["--preset", "ukd"],
        "logreg": ["--num-c", "2"],
        "linear": ["--epochs", "1"],
        "robust": ["--head", "knn"],
        "transfer": [],
    }[command]
    if command == "transfer":
        transfer_world.folders(Path("a"), 12)
        lines = ["name: mine", "sets:", "  a:", "    metric: top1", "    train: a", "    train_per_class: 8"]
        transfer_world.save_text(Path("suite.yaml"), lines)
        options = ["--suite", "suite.yaml", "--root", ".", "--num-c", "2"]
    arguments = [command, "--ckpt", here["coss"], *options, "--features", "projected", "--output", "found.json"]
    assert run_cli(arguments, monkeypatch) == 0
    found = by_role("found.json")
    assert found["student"]["features"]["kind"] == found["teacher"]["features"]["kind"] == "projected"
    assert found["student"]["features"]["dim"] == found["teacher"]["features"]["dim"] == 64
    untrained = found["untrained student"]["features"]
    assert (untrained["kind"], untrained["dim"]) == ("pooled", 32)


def test_extracted_rows_are_the_projected_ones(
    runs: dict[str, Path], here: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, test, *_ = labels_of(runs)
    arguments = ["extract", "--ckpt", here["coss"], "--images", test, "--features"]
    for kind in ("pooled", "projected"):
        assert run_cli([*arguments, kind, "--output", kind], monkeypatch) == 0
    assert "projected" in capsys.readouterr().out
    rows = open_store(Path("projected/coss"))[:]
    expected = projection_of(runs["coss"]).student(features(runs["coss"], test))
    np.testing.assert_array_equal(rows, kept(expected))
    assert open_store(Path("pooled/coss")).shape[1] == 32


def test_fidelity_compares_dimensions_after_the_projector(
    runs: dict[str, Path], here: dict[str, Path], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["fidelity", "--ckpt", here["coss"], "--no-baselines", "--output"]
    assert run_cli([*arguments, "pooled.json"], monkeypatch) == 0
    assert run_cli([*arguments, "projected.json", "--features", "projected"], monkeypatch) == 0
    pooled, projected = (by_role(name)["student"] for name in ("pooled.json", "projected.json"))
    assert any("--features projected compares what comes after it" in each for each in pooled["warnings"])
    assert "dimension_cosine" not in pooled["metrics"] and projected["features"]["dim"] == 64
    _, test, *_ = labels_of(runs)
    ours, theirs = (
        kept(projection_of(runs["coss"]).student(features(runs["coss"], test))),
        features(world.teacher, test),
    )
    expected = torch.cosine_similarity(torch.from_numpy(ours), torch.from_numpy(kept(theirs)), dim=0).mean().item()
    assert projected["metrics"]["dimension_cosine"]["value"] == pytest.approx(expected, abs=1e-5)
    assert projected["metrics"]["rankme_teacher"] == pooled["metrics"]["rankme_teacher"]


@pytest.mark.parametrize("against", [False, True])
def test_codes_are_those_that_the_run_trained(
    against: bool,
    runs: dict[str, Path],
    here: dict[str, Path],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, test, train_labels, test_labels = labels_of(runs)
    arguments: list[str | Path] = ["retrieval", "hash", "--ckpt", here["hash"], "--k", "10", "--output", "found.json"]
    assert run_cli([*arguments, *(["--against", world.teacher] if against else [])], monkeypatch) == 0
    found = by_role("found.json")
    others = [] if against else ["raw pixels", "untrained student"]
    assert list(found) == [*others, "student", "teacher"]
    assert any("have the codes that it trained" in each for each in found["student"]["warnings"])
    sides = projection_of(runs["hash"])
    queries = sides.student(features(runs["hash"], test)) >= 0
    searched = sides.student(features(runs["hash"], train)) >= 0
    if against:
        searched = sides.teacher(features(world.teacher, train)) >= 0
    distance = (queries[:, None] != searched).sum(-1)
    expected = precision_at_10(distance.numpy(), test_labels[:, None] == train_labels)
    student = found["student"]
    assert student["metrics"]["precision_at_10"]["value"] == pytest.approx(expected)
    assert (student["protocol"]["coder"], student["features"]["dim"]) == ("head", BITS)
    assert student["preset"] == "hashing-custom-own-codes" + ("-asymmetric" if against else "")
    assert found["teacher"]["protocol"]["coder"] == "head"
    if not against:
        assert found["untrained student"]["protocol"]["coder"] == "sign"


def precision_at_10(distance: npt.NDArray[Any], right: npt.NDArray[Any]) -> float:
    """Mean over the queries, in expectation over the orders of equal distances."""
    values = []
    for row, is_right in zip(distance, right, strict=True):
        tenth = np.sort(row)[9]
        inside, tied = row < tenth, row == tenth
        values.append(is_right[inside].sum() + (10 - inside.sum()) * is_right[tied].mean())
    return float(np.mean(values)) / 10


def test_other_features_of_a_run_with_codes_are_searched_by_their_signs(
    here: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["retrieval", "hash", "--ckpt", here["hash"], "--k", "10", "--no-baselines", "--output", "found.json"]
    assert run_cli([*arguments, "--features", "avg"], monkeypatch) == 0
    (found,) = stored(Path("found.json"))
    assert (found["protocol"]["coder"], found["features"]["dim"]) == ("sign", 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["knn", "--ckpt", "rkd", "--features", "projected"], "rkd has no projector; only a run has one"),
        (["linear", "--ckpt", "rkd", "--features", "projected"], "rkd has no projector; only a run has one"),
        (["knn", "--ckpt", "rkd", "--bank-ckpt", "teacher"], "both must be of one width, and rkd has no projector"),
        (["knn", "--ckpt", "coss", "--bank-ckpt", "other"], "leads to the teacher of that run, which other is not"),
        (["knn", "--ckpt", "coss", "--bank-ckpt", "teacher", "--features", "avg"], "takes the pooled feature, not avg"),
        (["retrieval", "class", "--ckpt", "coss", "--against", "other"], "teacher of that run, which other is not"),
        (["retrieval", "class", "--ckpt", "rkd", "--against", "other"], "of one width, and rkd has no projector"),
        (["fidelity", "--ckpt", "coss", "--against", "other", "--features", "projected"], "which other is not"),
        (["retrieval", "hash", "--ckpt", "hash", "--k", "5", "--whiten", "other.npz"], "leave --whiten out"),
        (["linear", "--ckpt", "coss", "--features", "cls"], "features: resnet10t has no cls; it has pooled, avg"),
        (["linear", "--ckpt", "coss", "--features", "mean"], "--features: no kind 'mean'; choose from pooled, cls"),
        (["knn", "--ckpt", "broken"], "broken/projector.json belongs to another student"),
    ],
)
def test_mistakes_end_in_their_message_and_exit_code_2(
    arguments: list[str],
    message: str,
    here: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("other").mkdir()
    export_backbone(Path("other"), "teacher", build_backbone(**tiny.TEACHER, seed=5, size_px=24, crop_pct=1.0), {})
    np.savez("other.npz", images=np.random.default_rng(0).integers(0, 256, (60, 24, 24, 3), dtype=np.uint8))
    shutil.copytree(here["coss"], "broken")
    shutil.copy(here["rkd"] / "student.safetensors", "broken/student.safetensors")
    assert run_cli([*arguments, "--no-baselines"], monkeypatch) == 2
    complaint = capsys.readouterr().err
    assert message in complaint and "Traceback" not in complaint
