"""The options of jobs beside a command's own, and the command line that a job runs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from tests import tiny
from tests.commands import BIN, invoke
from tests.jobs.conftest import Program
from tests.tiny import World
from ukd.cli import distill, pretrain
from ukd.errors import UserError
from ukd.jobs.options import Arguments, submittable, without

Calls = list[Any]
FLAG, VALUE = {"--flag": False}, {"--time": True}


@pytest.mark.parametrize(
    ("line", "rest"),
    [
        ("knn --time 4:00 --ckpt a", "knn --ckpt a"),
        ("--time=4:00 knn", "knn"),
        ("knn --flag a", "knn a"),
        ("train.yaml time=3 --times 4 --flagged", "train.yaml time=3 --times 4 --flagged"),
        ("knn --time", "knn"),
        ("knn --time 1 --flag --time 2", "knn"),
    ],
)
def test_a_command_line_loses_the_options_of_jobs_alone(line: str, rest: str) -> None:
    assert without(line.split(), FLAG | VALUE) == rest.split()


@pytest.fixture
def calls(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What was called with what; Slurm is a stand-in that accepts every job and has none in its queue."""
    monkeypatch.chdir(tmp_path)
    program("srun", "")
    program("squeue", "")
    program("sbatch", "echo Submitted batch job 41")
    return []


def app_of(calls: Calls, **how: Any) -> typer.Typer:
    """A program with one command."""
    app = typer.Typer(pretty_exceptions_enable=False)

    def probe(
        ckpt: Annotated[list[str], typer.Option()],
        output: Path | None = None,
        fast: Annotated[bool, typer.Option("--fast")] = False,
    ) -> None:
        """Probes."""
        calls.append(("probe", ckpt, output, fast))

    app.command()(submittable(**how)(probe))
    return app


def test_without_slurm_the_command_runs_here(calls: Calls) -> None:
    done = invoke(app_of(calls), "--ckpt", "a", "--fast")
    assert done.exit_code == 0 and calls == [("probe", ["a"], None, True)]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--gpus", "4"], "--gpus: "),
        (["--dry-run"], "--dry-run: "),
        (["--array", "--time", "3"], "--time, --array: "),
        (["--sbatch", "mem=4G", "--slurm-folder", "x"], "--sbatch, --slurm-folder: "),
    ],
)
def test_options_of_jobs_need_slurm(options: list[str], named: str, calls: Calls) -> None:
    error = invoke(app_of(calls), "--ckpt", "a", *options).exception
    assert isinstance(error, UserError) and str(error).startswith(named) and "add --slurm" in str(error)
    assert calls == []


def test_a_command_of_one_process_asks_for_one_gpu(calls: Calls) -> None:
    for options in (["--gpus", "2"], ["--nodes", "2"], ["--nodes", "2", "--gpus", "0"]):
        error = invoke(app_of(calls, many_processes=False), "--ckpt", "a", "--slurm", *options).exception
        assert isinstance(error, UserError) and "probe: runs in one process" in str(error)
    assert invoke(app_of(calls, many_processes=False), "--ckpt", "a", "--slurm", "--dry-run").exit_code == 0


def test_what_could_not_work_is_not_submitted(calls: Calls) -> None:
    def check(ckpt: Sequence[str], output: Path | None, fast: bool) -> None:
        calls.append(("check", ckpt, output, fast))
        raise UserError("no")

    assert str(invoke(app_of(calls, check=check), "--ckpt", "a", "--slurm", "--fast").exception) == "no"
    assert calls == [("check", ["a"], None, True)] and not Path("slurm").exists()


def test_a_submission_says_where_to_look(calls: Calls) -> None:
    after = lambda *args: calls.append(args)  # noqa: E731
    done = invoke(app_of(calls, after=after), "--ckpt", "a", "--slurm")
    assert done.stdout.splitlines() == [
        "submitted  job 41",
        "log        tail -F slurm/41_0_log.out",
        "state      squeue --jobs 41",
        "cancel     scancel 41",
    ]
    arguments = {"ckpt": ["a"], "output": None, "fast": False}
    assert calls == [(arguments, [arguments], False)]


@pytest.mark.parametrize("has_results", [True, False])
def test_an_array_has_one_checkpoint_a_job_and_its_own_result_file(
    has_results: bool, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "--ckpt a --ckpt=b --fast --output out/t.json --slurm --array --time 8:00:00"
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "probe", *line.split()])
    after: Callable[..., None] | None = (lambda *args: calls.append(args)) if has_results else None
    shown = invoke(app_of(calls, after=after), *line.split(), "--dry-run").stdout
    name = "out/t.{}.json" if has_results else "out/t.json"
    for number, checkpoint in enumerate("ab"):
        own = f"--ckpt {checkpoint} --output {name.format(number)}"
        assert f"\n# {sys.executable} -m probe --fast {own}\n" in shown
    assert "#SBATCH --array=0-1%2\n" in shown and calls == []


def test_waiting_names_the_jobs_that_failed_and_hands_on_the_others(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after(arguments: Arguments, parts: Sequence[Arguments], are_over: bool) -> None:
        calls.append(([part["ckpt"] for part in parts], are_over))

    Path("slurm").mkdir()
    Path("slurm/41_1_0_result.pkl").write_bytes(pickle.dumps(("success", None)))
    done = invoke(app_of(calls, after=after), "--ckpt", "a", "--ckpt", "b", "--slurm", "--array", "--wait")
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "--wait: not finished: job 41_0 (log: slurm/41_0_0_log.out)"
    assert calls == [([["b"]], True)]
    assert "submitted  job 41, 2 commands\n" in done.stdout


@pytest.mark.parametrize("command", ["ukd-distill", "ukd-pretrain", "ukd-eval knn"])
def test_every_command_has_the_options(command: str, tmp_path: Path) -> None:
    name, *task = command.split()
    shown = subprocess.run([BIN / name, *task, "--help"], capture_output=True, text=True, check=True).stdout
    options = ["--slurm", "--nodes", "--gpus", "--cpus", "--time", "--partition", "--account", "--qos", "--sbatch"]
    for option in [*options, "--requeues", "--slurm-folder", "--wait", "--dry-run"]:
        assert f" {option} " in shown
    assert ("--array" in shown) == (name == "ukd-eval")


@pytest.mark.parametrize("command", ["ukd-distill", "ukd-pretrain"])
def test_a_training_is_checked_before_it_is_queued(command: str, world: World, tmp_path: Path) -> None:
    app = {"ukd-distill": distill.app, "ukd-pretrain": pretrain.app}[command]
    raw = {"ukd-distill": world.distillation, "ukd-pretrain": world.pretraining}[command](tmp_path / "run")
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", raw)
    shown = invoke(app, recipe, "--slurm", "--dry-run", "--nodes", "2", "--gpus", "8")
    assert shown.exit_code == 0 and "#SBATCH --gpus-per-node=8\n" in shown.stdout
    typo = invoke(app, recipe, "optimiser.lr=1", "--slurm", "--dry-run")
    assert typo.exit_code == 2 and "optimiser: " in typo.stderr
    lonely = invoke(app, recipe, "--nodes", "2")
    assert lonely.exit_code == 2 and "add --slurm" in lonely.stderr
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    taken = invoke(app, recipe, "--slurm", "--dry-run")
    assert taken.exit_code == 2 and "is not empty and holds no run" in taken.stderr
