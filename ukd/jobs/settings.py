"""What a job asks of the cluster: the options of every command that can be one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ukd.errors import UserError

STOP_BEFORE_END_S = 120
"""How long before its time limit a job is asked to stop; a checkpoint has to be written in that time."""
MIN_MINUTES = 5
"""Shortest time limit, as Slurm may ask a job to stop up to a minute early and is asked for two minutes."""
_OWN_OPTION = {
    **{name: name for name in ("nodes", "time", "partition", "account", "qos", "array")},
    **{"gpus": "gpus", "gpus_per_node": "gpus", "cpus_per_task": "cpus", "cpus": "cpus"},
    **{"output": "slurm-folder", "error": "slurm-folder"},
}
_KEPT = frozenset({"signal", "requeue", "no_requeue", "open_mode", "wrap"})
_option = partial(typer.Option, rich_help_panel="Slurm")


@dataclass(frozen=True)
class Settings:
    """A job's settings; the fields are options of the command line."""

    slurm: Annotated[bool, _option("--slurm", help="Run this command as a Slurm job.")] = False
    nodes: Annotated[int, _option(min=1, help="Machines.")] = 1
    gpus: Annotated[int, _option(min=0, help="GPUs of each machine, one process each; 0: one process on CPU.")] = 1
    cpus: Annotated[
        int | None, _option(min=1, help="CPU cores of each process.", show_default="the cluster's default")
    ] = None
    time: Annotated[str, _option(help="Time limit, as Slurm writes it: 4:00:00, 2-12, 90.")] = "1:00:00"
    partition: Annotated[str | None, _option(show_default="the cluster's default")] = None
    account: Annotated[str | None, _option(show_default="the user's default")] = None
    qos: Annotated[str | None, _option(show_default="the account's default")] = None
    sbatch: Annotated[
        list[str] | None, _option(metavar="KEY=VALUE", help="Any other option of sbatch: mem=64G; repeatable.")
    ] = None
    requeues: Annotated[
        int, _option(min=0, help="How often a job that ran into its time limit goes on; preemptions do not count.")
    ] = 10
    slurm_folder: Annotated[Path, _option(help="Folder of logs and scripts, shared by all machines.")] = Path("slurm")
    array: Annotated[bool, _option("--array", help="One job for each --ckpt.")] = False
    wait: Annotated[bool, _option("--wait", help="Wait for the end of the job.")] = False
    dry_run: Annotated[bool, _option("--dry-run", help="Print what sbatch would be given; submit nothing.")] = False

    @property
    def processes_per_node(self) -> int:
        """Processes on each machine."""
        return max(1, self.gpus)

    @property
    def minutes(self) -> int:
        """The time limit.

        Raises:
            UserError: It is not written as Slurm writes times, or too short to stop in.
        """
        match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", self.time, re.ASCII)
        if match is None:
            raise UserError(
                f"--time {self.time}: no time that Slurm understands; write minutes, minutes:seconds, "
                "hours:minutes:seconds, days-hours, days-hours:minutes or days-hours:minutes:seconds"
            )
        days, *clock = [int(part) if part else None for part in match.groups()]
        # One or two numbers without days begin with minutes, every other time with hours.
        numbers = [0, *clock] if days is None and clock[2] is None else clock
        hours, minutes, seconds = (number or 0 for number in numbers[:3])
        total = (days or 0) * 1440 + hours * 60 + minutes - (-seconds // 60)
        if total < MIN_MINUTES:
            raise UserError(
                f"--time {self.time}: {total} minutes; a job is asked to stop {STOP_BEFORE_END_S // 60} minutes before "
                f"its end, so give it at least {MIN_MINUTES}"
            )
        return total

    @property
    def other_options(self) -> Mapping[str, Any]:
        """What `--sbatch` says, by the option's name with underscores; True where it has no value.

        Raises:
            UserError: An option is one that has its own way to be set here, or must not be set.
        """
        options: dict[str, Any] = {}
        for text in self.sbatch or []:
            name, has_value, value = text.removeprefix("--").partition("=")
            key = name.replace("-", "_")
            if key in _OWN_OPTION:
                raise UserError(f"--sbatch {text}: this is set by --{_OWN_OPTION[key]}")
            if key in _KEPT:
                raise UserError(f"--sbatch {text}: ukd sets this itself, so that a job can be stopped and go on")
            if not re.fullmatch(r"[a-z][a-z_]*", key):
                raise UserError(f"--sbatch {text}: write it as KEY=VALUE with a long option of sbatch, or as KEY")
            options[key] = value if has_value else True
        return options
