"""The queue of past teacher features that contrastive objectives compare with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ukd.distributed import gather_rows


class Queue(nn.Module):
    """The newest rows of all processes, first in, first out; the same in all of them.

    It starts empty: nothing is compared with random or zero rows. Its two buffers make resume exact.

    Args:
        size: Rows it holds at most.
        dim: Their width.
    """

    rows: Tensor
    num_enqueued: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("num_enqueued", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        """The rows enqueued so far, [K, dim] with K <= size, in no order that matters."""
        # A copy, because what autograd keeps for the backward pass must outlive the next `enqueue`.
        return self.rows[: int(self.num_enqueued)].clone()

    @torch.no_grad()
    def enqueue(self, rows: Tensor) -> None:
        """Takes in the rows of all processes, in rank order, in place of the oldest.

        Args:
            rows: [n, dim], this process's; n may be anything, also more than the queue holds.
        """
        rows = gather_rows(rows)
        places = torch.arange(len(rows), device=rows.device) + self.num_enqueued
        self.num_enqueued += len(rows)
        size = len(self.rows)
        self.rows[places[-size:] % size] = rows[-size:].to(self.rows.dtype)
