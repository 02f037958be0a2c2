"""`ukd-eval gather`: what was measured apart, and alike, in one table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ukd.eval.cli import main
from ukd.eval.results import Metric, Result, write_results

Gather = Callable[..., tuple[int, str]]


@pytest.fixture
def gather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Gather:
    """Runs the command; its exit code, and what it prints and complains of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ukd-eval", "gather", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out + shown.err

    return run


def result(
    source: str, metrics: dict[str, Metric], *, images: str = "abc", preset_hash: str = "1", **more: Any
) -> Result:
    return Result(
        task="knn",
        model={"role": "student", "source": source, "num_parameters": 1200},
        data={"test": {"name": "digits", "n": 80, "fingerprint": images}, "size_px": 16},
        engine={},
        seed=0,
        preset="dino",
        preset_hash=preset_hash,
        metrics=metrics,
        **{"features": {}, **more},
    )


def top1(value: float) -> dict[str, Metric]:
    return {"top1": Metric(value, 80, (value - 0.05, value + 0.05))}


def rows(shown: str) -> list[list[str]]:
    """The rows of a table, without its title, its line and the second lines of its rows."""
    table = shown[shown.index(" model ") :].splitlines()
    return [line.split() for line in table if line.split() and not set("±─") & set(line)]


def test_figures_of_one_protocol_and_the_same_images_share_a_table(gather: Gather) -> None:
    write_results(Path("runs/a/results/knn.json"), [result("x", top1(0.5))])
    write_results(Path("runs/b/results/knn.json"), [result("x", {**top1(0.25), "top5": Metric(12345.678, 80)})])
    write_results(Path("c.json"), [result("c.safetensors", top1(1.0))])
    status, shown = gather("runs/a", "runs/b", "c.json")
    assert status == 0 and shown.count("preset dino") == 1 and "test digits (n=80)" in " ".join(shown.split())
    assert rows(shown) == [
        ["model", "top1", "top5"],
        ["runs/a", "0.5", "-"],
        ["runs/b", "0.25", "1.235e+04"],
        ["c.safetensors", "1", "-"],
    ]
    assert shown.count("±0.05") == 3


def test_what_was_not_measured_alike_has_tables_of_its_own(gather: Gather) -> None:
    measured = [
        result("a", top1(0.1)),
        result("b", top1(0.2), images="xyz"),
        result("c", top1(0.3), preset_hash="2"),
        result("d", top1(0.4), reference={"sha256": "f", "source": "runs/teacher"}),
        result("e", top1(0.5), features={"kind": "cls"}),
    ]
    write_results(Path("all.json"), measured)
    status, shown = gather("all.json")
    words = " ".join(shown.split())
    assert status == 0 and words.count("knn, preset dino") == 5
    assert "dino; against runs/teacher; test" in words and "dino; cls features; test" in words


def test_all_results_can_be_written_to_one_file(gather: Gather) -> None:
    write_results(Path("a.json"), [result("a", top1(0.5), selection={"C": [0.1, 1.0]}, warnings=["small bank"])])
    write_results(Path("b.json"), [result("b", top1(0.25), wall_s=1.5), result("b", {"rank": Metric(3.0, 9)})])
    assert gather("a.json", "b.json", "--output", "both.json")[0] == 0
    a, b, both = (json.loads(Path(f"{name}.json").read_text()) for name in ("a", "b", "both"))
    assert both == {"schema": 1, "results": [*a["results"], *b["results"]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "gather: it.json does not exist"),
        ("", "it.json is no result file of ukd-eval"),
        ("[1]", "it.json is no result file of ukd-eval"),
        ('{"schema": 2, "results": []}', "it.json has schema 2, and only 1 is understood here"),
        ('{"schema": 1, "results": [{"metrics": {}, "task": "knn"}]}', "it.json is no result file of ukd-eval"),
    ],
)
def test_what_is_no_result_file_is_named(text: str | None, message: str, gather: Gather) -> None:
    if text is not None:
        Path("it.json").write_text(text)
    status, shown = gather("it.json")
    assert status == 2 and message in shown and "Traceback" not in shown


def test_a_run_without_results_says_how_to_get_them(gather: Gather) -> None:
    Path("runs/a").mkdir(parents=True)
    status, shown = gather("runs/a")
    assert status == 2
    assert "gather: runs/a holds no results; evaluate it first, for example ukd-eval knn --ckpt runs/a" in shown
