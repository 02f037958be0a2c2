"""Jobs from commands: the sbatch script, its submission, and the wait for the end."""

from __future__ import annotations

import io
import logging
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError, pickle_load
from submitit.slurm.slurm import SlurmExecutor

from ukd.errors import UserError
from ukd.jobs.command import Command
from ukd.jobs.settings import STOP_BEFORE_END_S, Settings

POLL_S = 5.0
"""How often Slurm is asked whether a job is over."""
_MEETING_POINT = (
    'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
    "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
)
"""Where the processes of a job find each other."""


@dataclass(frozen=True)
class Job:
    """A submitted job.

    Attributes:
        id: Its number, ARRAY_INDEX in an array.
        log: What its first process prints.
        outcome: Where submitit writes how its command ended.
    """

    id: str
    log: Path
    outcome: Path

    @property
    def succeeded(self) -> bool:
        """Whether its command has succeeded."""
        return self.outcome.exists() and pickle_load(self.outcome)[0] == "success"


class _Executor(SlurmExecutor):
    """submitit's, which would not even write a script where there is no Slurm."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def script(self, num_commands: int) -> str:
        """The text that sbatch is given."""
        if num_commands > 1:
            self.parameters["map_count"] = num_commands
        return self._make_submission_file_text(self._submitit_command_str, uid="")


def script(name: str, commands: Sequence[Command], settings: Settings) -> str:
    """The sbatch script under which `submit` would run the commands.

    Args:
        name: The job's name.
        commands: One for each job; several make an array.
        settings: What is asked of the cluster.

    Raises:
        UserError: The settings make no sense.
    """
    return _executor(name, commands, settings).script(len(commands))


def submit(name: str, commands: Sequence[Command], settings: Settings) -> list[Job]:
    """Puts the commands into Slurm's queue; arguments as in `script`.

    Raises:
        UserError: The settings make no sense, or there is no Slurm here, or it refuses the job.
    """
    executor = _executor(name, commands, settings)
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise UserError(
                f"--slurm: there is no {program} on the PATH; run this where jobs are submitted from, "
                "or look at the job with --dry-run"
            )
    try:
        with redirect_stderr(io.StringIO()):  # submitit prints what the error says again.
            submitted = executor.submit_array(commands)
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"--slurm: sbatch refuses the job: {str(error).strip()}") from None
    except OSError as error:
        raise UserError(f"--slurm-folder {settings.slurm_folder}: cannot be written: {error.strerror}") from None
    paths = [(job.job_id, job.paths) for job in submitted]
    return [Job(job_id, _short(path.stdout), path.result_pickle) for job_id, path in paths]


def wait(jobs: Sequence[Job]) -> list[Job]:
    """Waits until Slurm has none of the jobs in its queue any more; returns those whose command did not succeed.

    Accounting, which not every cluster has, is not asked.
    """
    job_ids = {job.id.partition("_")[0] for job in jobs}
    queue = ["squeue", "--noheader", "--me", "--format=%F"]
    while True:
        listed = subprocess.run(queue, capture_output=True, text=True)
        if listed.returncode == 0 and not job_ids & set(listed.stdout.split()):
            return [job for job in jobs if not job.succeeded]
        time.sleep(POLL_S)


def _executor(name: str, commands: Sequence[Command], settings: Settings) -> _Executor:
    logging.getLogger("submitit").setLevel(logging.ERROR)
    executor = _Executor(settings.slurm_folder, max_num_timeout=settings.requeues)
    executor.update_parameters(**_parameters(name, commands, settings))
    return executor


def _parameters(name: str, commands: Sequence[Command], settings: Settings) -> dict[str, Any]:
    srun = ["--kill-on-bad-exit=1"]
    if settings.cpus:
        srun.append(f"--cpus-per-task={settings.cpus}")  # Since Slurm 22.05 srun does not take it from sbatch.
    return {
        "job_name": name,
        "time": settings.minutes,
        "nodes": settings.nodes,
        "ntasks_per_node": settings.processes_per_node,
        "gpus_per_node": settings.gpus or None,
        "cpus_per_task": settings.cpus,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "signal_delay_s": STOP_BEFORE_END_S,
        "stderr_to_stdout": True,
        "wckey": None,
        "setup": [*map(_comment, commands), *_MEETING_POINT],
        "srun_args": srun,
        "additional_parameters": {"requeue": True, **settings.other_options},
    }


def _comment(command: Command) -> str:
    """What the job runs, which the script itself does not tell, as submitit stores it beside the script."""
    return f"# {shlex.join(command.argv)}".replace("\n", " ")


def _short(path: Path) -> Path:
    """The path from here, where it lies below."""
    return path.relative_to(os.getcwd()) if path.is_relative_to(os.getcwd()) else path
