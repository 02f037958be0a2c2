"""The processes of a run, which are many where `torchrun` or `srun` started it.

This is the only file that knows ranks; with one process everything in it is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ukd.launch import launch, local_device, num_local_processes

__all__ = [
    "any_process",
    "barrier",
    "broadcast_from_main",
    "gather_numbers",
    "gather_rows",
    "gather_rows_with_grad",
    "is_main",
    "local_device",
    "mean_over_processes",
    "num_local_processes",
    "own_rows",
    "rank",
    "session",
    "shard",
    "sum_over_processes",
    "world_size",
]

TIMEOUT = timedelta(minutes=30)
"""Longest wait for another process; the others wait this long for the one that writes a large file."""


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and speaks to the user, before and after a session too."""
    return (rank() if dist.is_initialized() else launch().rank) == 0


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
    place, local = launch(), local_device(device)
    if local.type == "cuda":
        torch.cuda.set_device(local)
    if place.world_size == 1:
        yield local
        return
    dist.init_process_group(
        "nccl" if local.type == "cuda" else "gloo",
        rank=place.rank,
        world_size=place.world_size,
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


def shard(module: nn.Module, parts: Iterable[nn.Module], methods: Iterable[str], device: torch.device) -> None:
    """Spreads a frozen module's weights over the processes; each part is whole only while it runs.

    From then on every process has to call the module equally often.

    Args:
        module: The module, on any device.
        parts: Its parts, each of which runs by being called.
        methods: Names of the module's methods that are called beside `forward`.
        device: Where this process computes.
    """
    if world_size() == 1:
        return
    # It takes seconds to import, and few runs need it.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world_size(),))
    for each in (*parts, module):
        fully_shard(each, mesh=mesh)
    for name in methods:
        register_fsdp_forward_method(module, name)


@contextmanager
def main_first() -> Iterator[None]:
    """Lets the main process go through a `with` block before the others, which then find what it has made."""
    if not is_main():
        barrier()
    try:
        yield
    finally:
        if is_main():
            barrier()


def _collective_device() -> torch.device:
    """Where a tensor must lie for the processes to exchange it."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
