"""A command inside a job: how it is run, stopped and begun again. Slurm's signals are sent by hand."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.jobs.conftest import Program
from ukd.jobs import command as module
from ukd.jobs.command import REQUEUE_SIGNAL, Command

TRAINING = """
import os, signal, sys, time
from pathlib import Path
from ukd.stopping import stop_signals

with stop_signals() as stop:
    while not Path("go").exists():
        time.sleep(0.01)
    for name in sys.argv[1:]:
        for process in (os.getppid(), os.getpid()):
            os.kill(process, signal.Signals[name])
    while not stop:
        time.sleep(0.01)
    time.sleep(0.3)
    Path("saved").write_text(signal.Signals(stop[0]).name)
    sys.exit(128 + stop[0])
"""
"""What the loop does when it is to stop; it plays Slurm too, whose signals go to all processes of a job."""


class Requeued(Exception):
    """What ends the first process in the place of submitit's exit."""


@pytest.fixture(autouse=True)
def job(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The surroundings of a job's first process; Slurm says that the job runs."""
    monkeypatch.chdir(tmp_path)
    program("squeue", '[ "$3" = 7 ] && echo RUNNING')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, REQUEUE_SIGNAL)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def in_job(*argv: str) -> Command:
    """A command that submitit would stop as the first process of a job; `go` is there once its process is known."""
    command = Command(argv, resumes=True)
    marker = Path("go").absolute()  # The test may be over, and its folder left, when the thread comes to it.

    def requeue(number: int, frame: FrameType | None) -> None:
        command.checkpoint()
        raise Requeued

    def go() -> None:
        while not command._pid:
            time.sleep(0.01)
        marker.touch()

    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.signal(REQUEUE_SIGNAL, requeue)
    threading.Thread(target=go, daemon=True).start()
    return command


def training(*signals: str) -> Command:
    """A training in whose middle Slurm sends signals."""
    return in_job(sys.executable, "-c", TRAINING, *signals)


def has_ended(command: Command) -> bool:
    try:
        os.kill(command._pid, 0)
        return os.waitid(os.P_PID, command._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except (ProcessLookupError, ChildProcessError):
        return True


def test_it_runs_and_says_what(capfd: pytest.CaptureFixture[str]) -> None:
    Command(["echo", "two words"], resumes=True)()
    assert capfd.readouterr().out == "$ echo 'two words'\ntwo words\n"


@pytest.mark.parametrize(("lines", "status"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_a_failure_is_the_jobs(lines: str, status: int) -> None:
    with pytest.raises(SystemExit) as stopped:
        in_job("sh", "-c", lines)()
    assert stopped.value.code == status


@pytest.mark.parametrize(
    ("argv", "resumes", "restarts", "now"),
    [
        (["train"], True, None, ["train"]),
        (["train"], True, "0", ["train"]),
        (["train"], True, "2", ["train", "--resume"]),
        (["train", "--resume"], True, "1", ["train", "--resume"]),
        (["measure"], False, "1", ["measure"]),
    ],
)
def test_a_requeued_job_resumes_what_can_be_resumed(
    argv: list[str], resumes: bool, restarts: str | None, now: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if restarts is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    assert Command(argv, resumes).argv_now() == now


def test_ahead_of_the_time_limit_the_command_saves_before_the_job_is_requeued() -> None:
    command = training("SIGUSR2")
    with pytest.raises(Requeued):
        command()
    assert Path("saved").read_text() == "SIGINT" and has_ended(command)
    again = command.checkpoint().function
    assert (again.argv, again.resumes) == (command.argv, True)


def test_a_job_that_is_stopped_before_its_command_has_begun_is_requeued_too() -> None:
    command = Command(["train"], resumes=True)
    assert command.checkpoint().function.argv == command.argv


def test_a_command_that_slurm_has_told_already_still_saves() -> None:
    with pytest.raises(Requeued):
        training("SIGTERM", "SIGUSR2")()
    assert Path("saved").read_text() == "SIGTERM"


def test_a_command_that_does_not_stop_is_killed_in_time_to_requeue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.2)
    until_alone = "while kill -0 $PPID; do sleep 0.02; done"
    deaf = f"trap '' TERM INT; until [ -e go ]; do sleep 0.02; done; kill -USR2 $PPID; {until_alone}"
    command = in_job("sh", "-c", deaf)
    with pytest.raises(Requeued):
        command()
    assert has_ended(command)


def test_a_preempted_job_is_requeued() -> None:
    with pytest.raises(Requeued):
        training("SIGTERM")()
    assert Path("saved").read_text() == "SIGTERM"


def test_the_other_processes_wait_for_the_first_to_requeue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_BEFORE_END_S", 0)
    command, received = in_job("sh", "-c", "exit 143"), []
    signal.signal(REQUEUE_SIGNAL, lambda number, frame: received.append(number))
    with pytest.raises(SystemExit) as stopped:
        command()
    assert received == [REQUEUE_SIGNAL] and stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_process_that_slurm_ends_does_not_outlast_the_requeued_job(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_BEFORE_END_S", 0)
    program("squeue", "kill -TERM $PPID; echo RUNNING")  # The first process has requeued the job meanwhile.
    process = os.fork()
    if process == 0:
        try:
            in_job("sh", "-c", "exit 143")()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGTERM


def test_slurm_is_asked_again_where_it_is_too_busy_to_answer(program: Program) -> None:
    program("squeue", "[ -e asked ] && echo RUNNING && exit; touch asked; exit 1")
    with pytest.raises(Requeued):
        training("SIGTERM")()


@pytest.mark.parametrize("squeue", ["echo COMPLETING", "echo slurm_load_jobs error >&2; exit 1"])
def test_a_job_that_was_cancelled_is_not_requeued(
    squeue: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0)
    program("squeue", squeue)
    with pytest.raises(SystemExit) as stopped:
        training("SIGTERM")()
    assert stopped.value.code == 143 and Path("saved").exists()


def test_a_job_that_is_cancelled_while_it_stops_is_not_requeued(program: Program) -> None:
    program("squeue", "echo COMPLETING")
    with pytest.raises(SystemExit) as stopped:
        training("SIGUSR2")()
    assert stopped.value.code == 143 and Path("saved").exists()


def test_a_job_is_requeued_at_its_time_limit_even_if_slurm_is_too_busy_to_say_that_it_runs(program: Program) -> None:
    program("squeue", "exit 1")
    with pytest.raises(Requeued):
        training("SIGUSR2")()
