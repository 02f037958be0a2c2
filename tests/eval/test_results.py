"""The result file: complete, atomic, and free of numbers that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ukd.errors import UserError
from ukd.eval import results
from ukd.eval.results import Metric, Result, write_results

RESULT = Result(
    task="knn",
    model={"role": "student", "sha256": "00", "arch": "resnet18"},
    data={"test": {"name": "digits", "n": 10, "fingerprint": "11"}},
    features={"dtype": "float16", "dim": 512},
    engine={"search": "faiss", "device": "cpu", "versions": {"torch": "2"}},
    seed=0,
    preset="dino",
    preset_hash="22",
    protocol={"ks": (10,)},
    metrics={"top1_k10": Metric(0.5, 10, (0.2, 0.8)), "loss": Metric(1.5, 10)},
    wall_s=1.5,
    warnings=("k=20 left out",),
)


def test_what_is_written_is_what_was_measured(tmp_path: Path) -> None:
    path = tmp_path / "results" / "knn.json"
    write_results(path, [RESULT, replace(RESULT, preset="ukd")])
    document = json.loads(path.read_text())
    assert document["schema"] == 1
    first, second = document["results"]
    assert first["metrics"]["top1_k10"] == {"value": 0.5, "n": 10, "ci": [0.2, 0.8]}
    assert first["metrics"]["loss"]["ci"] is None
    assert first["warnings"] == ["k=20 left out"]
    assert (first["preset"], second["preset"]) == ("dino", "ukd")
    assert [each.name for each in path.parent.iterdir()] == ["knn.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_refused_by_name(tmp_path: Path, value: float) -> None:
    path = tmp_path / "knn.json"
    write_results(path, [RESULT])
    before = path.read_text()
    broken = replace(RESULT, metrics={"top1_k10": Metric(0.5, 10, (0.2, value))})
    with pytest.raises(UserError, match=r"results.0.metrics.top1_k10.ci.1 is not finite"):
        write_results(path, [broken])
    assert path.read_text() == before


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "knn.json"
    write_results(path, [RESULT])
    monkeypatch.setattr(results, "write_atomically", full)
    with pytest.raises(UserError, match=r"cannot write .*knn.json: No space left on device"):
        write_results(path, [])
    assert len(json.loads(path.read_text())["results"]) == 1
