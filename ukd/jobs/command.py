"""A command inside a job: what submitit stores at submission and calls in every process of the job."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from submitit.core.job_environment import JobEnvironment
from submitit.helpers import DelayedSubmission

from ukd.jobs.settings import STOP_BEFORE_END_S

GRACE_S = STOP_BEFORE_END_S - 30
"""How long a command that was told to stop may take; the rest is left for putting the job back into the queue."""
REQUEUE_SIGNAL = signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
"""What Slurm sends ahead of the time limit, and what makes submitit requeue the job."""
_SHIELD = ("sh", "-c", f'trap "" {JobEnvironment.USR_SIG}; exec "$@"', "sh")
"""Runs a command that ignores the signal, as do the processes that it starts."""
_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)


class Command:
    """Runs a command as a process of its own; stops it and goes on with it in a requeued job.

    Slurm signals every process of a job, this one and the command's alike. Ahead of the time limit that is
    `REQUEUE_SIGNAL`, which the command must not see; it gets SIGINT, on which a training writes a checkpoint.
    Preemption is SIGTERM, which the command sees itself. Both may come, and a training would not survive a second
    signal of one kind.

    Args:
        argv: The command.
        resumes: Whether it knows `--resume`, with which it goes on; without, it is run again.
    """

    def __init__(self, argv: Sequence[str], resumes: bool) -> None:
        self.argv = list(argv)
        self.resumes = resumes
        self._pid = 0

    def __call__(self) -> None:
        """Runs the command to its end.

        Raises:
            SystemExit: It failed, with its status; or it was stopped and the job is in the queue again.
        """
        argv = self.argv_now()
        print(f"$ {shlex.join(argv)}", flush=True)
        child = subprocess.Popen([*_SHIELD, *argv])
        self._pid = child.pid
        status = child.wait()
        if status in _STOPPED:
            # submitit's handler would outlast the signal with which Slurm ends all processes of a requeued job.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if _state(patience_s=GRACE_S) == "RUNNING":
                os.kill(os.getpid(), REQUEUE_SIGNAL)  # submitit requeues in the first process, and does not return.
                # The others wait for their end: one that failed now would end the first before it has requeued.
                time.sleep(STOP_BEFORE_END_S)
        if status:
            raise SystemExit(status if status > 0 else 128 - status)

    def argv_now(self) -> list[str]:
        """The command; in a job that was started before, for whatever reason, it resumes."""
        again = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
        return [*self.argv, "--resume"] if again and self.resumes and "--resume" not in self.argv else self.argv

    def checkpoint(self) -> DelayedSubmission:
        """Stops the command, by force where it does not stop in time; called by submitit before it requeues the job.

        Raises:
            SystemExit: The job was cancelled meanwhile, or requeued by another.
        """
        with suppress(ProcessLookupError, ChildProcessError):  # It has ended already.
            if self._pid:
                self._stop()
        if _state() not in ("RUNNING", ""):
            raise SystemExit(128 + signal.SIGTERM)
        return DelayedSubmission(Command(self.argv, self.resumes))

    def _stop(self) -> None:
        deadline = time.monotonic() + GRACE_S
        os.kill(self._pid, signal.SIGINT)
        # What waits for the command is this very thread, interrupted; it must still find the command's status.
        while not os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.1)


def _state(patience_s: float = 0.0) -> str:
    """The job's state: one that is preempted still runs, one that was cancelled or requeued is completing.

    Empty where Slurm does not answer, which it may be too busy to do while it preempts many jobs.

    Args:
        patience_s: How long Slurm is asked again.
    """
    question = ["squeue", "--noheader", "--jobs", os.environ["SLURM_JOB_ID"], "--format=%T"]
    deadline = time.monotonic() + patience_s
    while True:
        answer = subprocess.run(question, capture_output=True, text=True)
        if answer.returncode == 0 or time.monotonic() > deadline:
            return answer.stdout.strip()
        time.sleep(1)
