"""Where a process stands among those that `torchrun` or `srun` started, and on which device it computes."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

import torch

from ukd.errors import UserError


class Launch(NamedTuple):
    """Place of a process in the run."""

    rank: int
    world_size: int
    local_rank: int


def launch() -> Launch:
    """Place of this process in the run, as `torchrun` or `srun` wrote it into the environment."""
    env = os.environ
    if "WORLD_SIZE" in env and "RANK" in env:
        return Launch(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))
    # Unlike SLURM_NTASKS, this is not set in a batch script that runs the command without srun.
    num_tasks = int(env.get("SLURM_STEP_NUM_TASKS", 1))
    if num_tasks == 1:
        return Launch(0, 1, 0)
    if "MASTER_ADDR" not in env or "MASTER_PORT" not in env:
        raise UserError(
            f"srun started {num_tasks} processes, but MASTER_ADDR and MASTER_PORT do not say where they "
            "meet; before srun: export MASTER_PORT=29500 "
            "MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)"
        )
    return Launch(int(env["SLURM_PROCID"]), num_tasks, int(env["SLURM_LOCALID"]))


def num_local_processes() -> int:
    """Processes of the run on this machine."""
    # Slurm writes 4(x2) for two machines with four each, and 2,1 where they differ.
    per_node = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    return int(os.environ.get("LOCAL_WORLD_SIZE", per_node[0] if per_node else 1))


def local_device(device: str) -> torch.device:
    """The device on which this process computes.

    Args:
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        UserError: A GPU is asked for and there is none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"device: {device} is asked for, but torch sees no CUDA GPU; use device: cpu or auto")
    # Where the scheduler shows each process its own GPU only, that GPU has number 0 in every process.
    return torch.device("cuda", launch().local_rank % torch.cuda.device_count())


def device_beside(number: int) -> torch.device:
    """The GPU that this process has beside its own: that of the number for the first process of a machine, then on.

    Args:
        number: A GPU behind those on which the machine's processes compute.

    Raises:
        UserError: There is no such GPU, or a process computes on it.
    """
    num_processes, num_gpus = num_local_processes(), torch.cuda.device_count()
    if not num_processes <= number <= num_gpus - num_processes:
        free = f"choose cuda:{num_processes}" if 2 * num_processes <= num_gpus else "leave it out"
        raise UserError(
            f"teacher.device: there is no cuda:{number} for every process beside the GPUs that the run computes on "
            f"({num_processes} of {num_gpus}); {free}"
        )
    return torch.device("cuda", number + launch().local_rank)
