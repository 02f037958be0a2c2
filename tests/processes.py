"""Runs a function in several gloo processes on this machine, as torchrun or srun would start them."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.multiprocessing

from ukd import distributed

Launcher = Literal["torchrun", "srun"]


def run(
    function: Callable[..., Any], *args: Any, folder: Path, num: int = 2, launcher: Launcher = "torchrun"
) -> list[Any]:
    """Calls function(*args) in every process inside a session and returns the results in rank order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # One server process imports torch; every process of every test is a fork of it.
    multiprocessing.set_forkserver_preload(["torch.nn.parallel"])
    torch.multiprocessing.start_processes(
        _call, (num, launcher, port, folder, function, args), nprocs=num, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(num)]


def _call(
    rank: int, num: int, launcher: Launcher, port: int, folder: Path, function: Callable[..., Any], args: Any
) -> None:
    names = {
        "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    }[launcher]
    os.environ.update(dict(zip(names, map(str, (rank, num, rank)), strict=True)))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with distributed.session("cpu"):
        torch.save(function(*args), folder / f"{rank}.pt")
