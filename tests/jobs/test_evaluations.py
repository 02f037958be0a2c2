"""Evaluations as jobs: what the commands of `ukd-eval` say and gather. Slurm is a stand-in."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.jobs.conftest import Program
from ukd.eval.cli import main
from ukd.eval.results import Metric, Result, write_results

Evaluate = Callable[[str], tuple[int, str]]


@pytest.fixture
def evaluate(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Evaluate:
    """Runs `ukd-eval` where Slurm accepts every job, and has ended it at once; exit code, and what it shows."""
    monkeypatch.chdir(tmp_path)
    program("srun", "")
    program("squeue", "")
    program("sbatch", "echo Submitted batch job 41")

    def run(line: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ukd-eval", *line.split()])
        monkeypatch.setattr(sys, "orig_argv", ["python", "bin/ukd-eval", *line.split()])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out + shown.err

    return run


def write(path: str, name: str) -> None:
    model = {"role": "student", "source": name, "num_parameters": 1}
    data = {"test": {"name": "digits", "n": 80, "fingerprint": "abc"}}
    figures = {"top1": Metric(0.5, 80)}
    write_results(Path(path), [Result("knn", model, data, {}, {}, 0, preset="dino", metrics=figures)])


def finish(number: int) -> None:
    Path("slurm").mkdir(exist_ok=True)
    Path(f"slurm/41_{number}_0_result.pkl").write_bytes(pickle.dumps(("success", None)))


def test_a_submission_says_how_its_results_are_gathered(evaluate: Evaluate) -> None:
    Path("runs/a").mkdir(parents=True)
    status, shown = evaluate("knn --ckpt runs/a --ckpt b.safetensors --ckpt timm:resnet18 --slurm")
    assert status == 0 and shown.endswith("\ngather     ukd-eval gather runs/a/results/knn.json b.knn.json\n")
    status, shown = evaluate("logreg --ckpt runs/a --ckpt b.safetensors --slurm --array --output t.json")
    assert status == 0 and shown.endswith("\ngather     ukd-eval gather t.0.json t.1.json\n")


def test_what_has_no_results_says_nothing_of_gathering(evaluate: Evaluate) -> None:
    for line in ("knn --ckpt timm:resnet18 --slurm", "extract --ckpt runs/a --images photos --slurm"):
        status, shown = evaluate(line)
        assert status == 0 and "gather" not in shown


def test_waiting_gathers_the_results_of_the_jobs_that_ended_well(evaluate: Evaluate) -> None:
    """The second job failed, so the figures that an earlier one left in its place are not shown."""
    write("t.0.json", "a")
    write("t.1.json", "b")
    finish(0)
    status, shown = evaluate("knn --ckpt a --ckpt b --slurm --array --wait --output t.json")
    assert status == 2 and "not finished: job 41_1 (log: slurm/41_1_0_log.out)" in shown
    assert shown.count(" 0.5 ") == 1 and "written: t.json" in shown
    assert Path("t.json").read_text() == Path("t.0.json").read_text()


@pytest.mark.parametrize("task", ["knn", "logreg", "fidelity"])
def test_tasks_of_one_process_refuse_more(task: str, evaluate: Evaluate) -> None:
    status, shown = evaluate(f"{task} --ckpt a --slurm --gpus 8")
    assert status == 2 and f"{task}: runs in one process; ask for --nodes 1 and at most --gpus 1" in shown


def test_a_mistake_is_found_before_anything_is_queued(evaluate: Evaluate) -> None:
    for line, message in (
        ("knn --ckpt a --slurm --time 4h", "--time 4h: no time that Slurm understands"),
        ("knn --ckpt a --gpus 1 --partition gpu", "--partition: set for a Slurm job; add --slurm"),
        ("knn --ckpt a --slurm --k 0", "Invalid value for '--k'"),
    ):
        status, shown = evaluate(line)
        assert status == 2 and message in shown and "Traceback" not in shown
    assert not Path("slurm").exists()
