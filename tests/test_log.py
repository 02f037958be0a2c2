"""The log of a run: nothing twice after a resume, nothing half."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ukd import distributed
from ukd.log import RunLog, progress


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def run(folder: Path, first_step: int, last_step: int, loss: float) -> None:
    with RunLog(folder, first_step, 10) as log:
        for _ in range(first_step, last_step):
            log.advance(num_images=4)
            log.metrics({"loss": loss})


def test_figures_after_the_resumed_step_are_forgotten(tmp_path: Path) -> None:
    run(tmp_path, 0, 6, loss=1.0)
    run(tmp_path, 4, 8, loss=2.0)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        *[(step, 1.0) for step in (1, 2, 3, 4)],
        *[(step, 2.0) for step in (5, 6, 7, 8)],
    ]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [event.step for event in events] == sorted({event.step for event in events})
    assert [event.value for event in events if event.step >= 5] == [2.0] * 4


def test_a_line_cut_short_by_a_kill_is_forgotten(tmp_path: Path) -> None:
    run(tmp_path, 0, 3, loss=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    run(tmp_path, 3, 4, loss=1.0)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_figures_keep_their_digits_great_or_small(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, 10) as log:
        log.advance(4)
        log.metrics({"lr": 1.25e-7, "loss": -138.0625, "odd": math.nan})
        log.metrics({})
    (line,) = lines(tmp_path)
    assert (line["step"], line["lr"], line["loss"]) == (1, 1.25e-7, -138.0625) and math.isnan(line["odd"])


def test_notes_are_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path, 7, 10) as log:
        log.note("skipped [a].jpg")
    assert (tmp_path / "log.txt").read_text().endswith(" step 7: skipped [a].jpg\n")
    captured = capsys.readouterr()
    assert captured.err == "skipped [a].jpg\n" and captured.out == ""


def test_without_a_terminal_there_is_a_plain_line_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunLog(tmp_path, 4, 10) as log:
        log.advance(4)
        log.metrics({"loss": -139.5})
        assert capsys.readouterr().err == ""
        monkeypatch.setattr("ukd.log.PLAIN_EVERY_S", 0.0)
        log.metrics({"knn_overlap": 0.25, "images_per_s": 2045.6, "lr": 0.1})
    assert capsys.readouterr().err == "step 5/10  loss -140  knn overlap 0.25  images/s 2046  lr 0.1\n"


def test_speed_counts_the_images_since_it_was_last_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("ukd.log.time.monotonic", lambda: now[0])
    log = RunLog(tmp_path, 0, 10)
    log.advance(30)
    log.advance(30)
    now[0] = 104.0
    assert log.speed() == 15.0
    now[0] = 105.0
    assert log.speed() == 0.0


def test_other_processes_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    with RunLog(tmp_path, 0, 10) as log, progress("embedding", 10) as advance:
        log.advance(4)
        log.metrics({"loss": 1.0})
        log.note("hello")
        advance(10)
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err == ""
