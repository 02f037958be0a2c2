"""The processes of a run, which are many where `torchrun` or `srun` started it.

This is the only file that knows ranks; with one process everything in it is the identity.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ukd.errors import UserError

TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process; the others wait this long for the one that writes a large file."""


class _Launch(NamedTuple):
    rank: int
    world_size: int
    local_rank: int


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def num_local_processes() -> int:
    """Processes of the run on this machine."""
    # Slurm writes 4(x2) for two machines with four each, and 2,1 where they differ.
    per_node = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    return int(os.environ.get("LOCAL_WORLD_SIZE", per_node[0] if per_node else 1))


def is_main() -> bool:
    """Whether this is the process that writes files and speaks to the user, before and after a session too."""
    return (rank() if dist.is_initialized() else _launch().rank) == 0


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
    return torch.device("cuda", _launch().local_rank % torch.cuda.device_count())


@contextmanager
def session(device: str) -> Iterator[torch.device]:
    """Joins the processes of the run for the time of a `with` block: nccl on GPUs, gloo on CPU.

    Args:
        device: As in `local_device`.

    Yields:
        The device of this process.

    Raises:
        UserError: `srun` started many processes without saying where they meet, or there is no GPU.
    """
    launch, local = _launch(), local_device(device)
    if local.type == "cuda":
        torch.cuda.set_device(local)
    if launch.world_size == 1:
        yield local
        return
    dist.init_process_group(
        "nccl" if local.type == "cuda" else "gloo",
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=TIMEOUT,
        device_id=local if local.type == "cuda" else None,
    )
    try:
        yield local
    finally:
        dist.destroy_process_group()


def sum_over_processes(x: Tensor) -> Tensor:
    """Sum of x over all processes, exact in gradient for a loss that every process computes from the sum.

    DDP averages the processes' gradients, so each process back-propagates `world_size` times the gradient; as
    all of them hold the same gradient of the sum, this takes no communication.

    Args:
        x: Of equal shape in all processes.
    """
    if world_size() == 1:
        return x
    total: Tensor = _SumOverProcesses.apply(x)
    return total


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * world_size()


def gather_rows_with_grad(x: Tensor) -> Tensor:
    """Rows of all processes in rank order, exact in gradient for a loss of this process's rows against all of them.

    A process's rows get the gradient that all processes' losses have in them. With each loss the mean over the
    process's own rows, the mean that DDP takes is then the gradient of the mean over all rows, without a factor.

    Args:
        x: [n, ...], of equal shape in all processes.

    Returns:
        [world_size * n, ...]; those of this process are at `own_rows(n)`.
    """
    if world_size() == 1:
        return x
    rows: Tensor = _GatherRows.apply(x)
    return rows


def own_rows(num_rows: int) -> slice:
    """Where this process's rows stand among those of all processes, if each has `num_rows` of them."""
    return slice(rank() * num_rows, (rank() + 1) * num_rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        blocks = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(blocks, x)
        return torch.cat(blocks)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # The sum of all rows' gradients, of which one share is needed: gloo cannot scatter while it sums.
        total = grad.clone()
        dist.all_reduce(total)
        return total[own_rows(len(total) // world_size())]


@torch.no_grad()
def mean_over_processes(values: Tensor) -> Tensor:
    """Mean of floating-point values over all processes, without gradient."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().to(_collective_device(), copy=True)
    dist.all_reduce(total)
    return (total / world_size()).to(values.device)


@torch.no_grad()
def broadcast_from_main(tensors: Iterable[Tensor]) -> None:
    """Overwrites every process's tensors with those of the main process."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in at least one process; the same answer in all of them."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(int(flag), device=_collective_device())
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


@torch.no_grad()
def gather_rows(x: Tensor) -> Tensor:
    """Rows of all processes in rank order, without gradient.

    Args:
        x: [n_r, ...], where n_r may differ between processes and may be 0.

    Returns:
        [sum of n_r, ...] on the device of x.
    """
    if world_size() == 1:
        return x.detach()
    device = _collective_device()
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], device=device))
    num_rows = [int(count) for count in counts]
    padded = torch.zeros(max(num_rows), *x.shape[1:], dtype=x.dtype, device=device)
    padded[: len(x)] = x.detach()
    blocks = [torch.empty_like(padded) for _ in num_rows]
    dist.all_gather(blocks, padded)
    return torch.cat([block[:n] for block, n in zip(blocks, num_rows, strict=True)]).to(x.device)


def gather_numbers(numbers: Sequence[int]) -> list[int]:
    """Numbers of all processes in rank order."""
    return [int(number) for number in gather_rows(torch.tensor(numbers, dtype=torch.int64))]


def barrier() -> None:
    """Waits until every process is here."""
    if world_size() > 1:
        dist.barrier()


def _collective_device() -> torch.device:
    """Where a tensor must lie for the processes to exchange it."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _launch() -> _Launch:
    """Place of this process in the run, as `torchrun` or `srun` wrote it into the environment."""
    env = os.environ
    if "WORLD_SIZE" in env and "RANK" in env:
        return _Launch(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))
    # Unlike SLURM_NTASKS, this is not set in a batch script that runs the command without srun.
    num_tasks = int(env.get("SLURM_STEP_NUM_TASKS", 1))
    if num_tasks == 1:
        return _Launch(0, 1, 0)
    if "MASTER_ADDR" not in env or "MASTER_PORT" not in env:
        raise UserError(
            f"srun started {num_tasks} processes, but MASTER_ADDR and MASTER_PORT do not say where they "
            "meet; before srun: export MASTER_PORT=29500 "
            "MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)"
        )
    return _Launch(int(env["SLURM_PROCID"]), num_tasks, int(env["SLURM_LOCALID"]))
