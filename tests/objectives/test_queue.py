from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import processes
from ukd import distributed
from ukd.objectives.queue import Queue


def rows(first: int, num: int) -> Tensor:
    """Rows that tell their number."""
    return torch.arange(first, first + num, dtype=torch.float32)[:, None].expand(num, 2)


def numbers(queue: Queue) -> list[int]:
    return sorted(int(row[0]) for row in queue())


def test_by_hand() -> None:
    queue = Queue(3, 2)
    assert queue().shape == (0, 2)
    queue.enqueue(rows(0, 2))
    assert numbers(queue) == [0, 1]
    queue.enqueue(rows(2, 2))
    assert numbers(queue) == [1, 2, 3]
    queue.enqueue(rows(4, 7))
    assert numbers(queue) == [8, 9, 10]


@given(size=st.integers(1, 9), batches=st.lists(st.integers(0, 20), max_size=8))
def test_holds_the_newest_rows_whatever_the_batches(size: int, batches: list[int]) -> None:
    queue, expected, first = Queue(size, 2), deque[int](maxlen=size), 0
    for num in batches:
        queue.enqueue(rows(first, num))
        expected.extend(range(first, first + num))
        first += num
    assert numbers(queue) == list(expected)


def test_state_dict_round_trip_continues_bit_for_bit() -> None:
    first, second = Queue(5, 2), Queue(5, 2)
    first.enqueue(rows(0, 7))
    second.load_state_dict(first.state_dict())
    for queue in (first, second):
        queue.enqueue(rows(7, 3))
    assert torch.equal(first(), second())


def test_what_was_read_stays_and_nothing_has_a_gradient() -> None:
    queue = Queue(4, 2)
    enqueued = torch.ones(2, 2, requires_grad=True)
    queue.enqueue(enqueued)
    read = queue()
    queue.enqueue(torch.zeros(4, 2))
    assert read.tolist() == [[1, 1], [1, 1]] and not read.requires_grad


def filled(num_rows: int) -> Tensor:
    rank, world_size, queue = distributed.rank(), distributed.world_size(), Queue(7, 2)
    for first in range(0, 4 * num_rows, num_rows):
        queue.enqueue(rows(first, num_rows).chunk(world_size)[rank])
    return queue()


@pytest.mark.parametrize("num_rows", [4, 10])
def test_two_processes_fill_it_as_one_would(tmp_path: Path, num_rows: int) -> None:
    for found in processes.run(filled, num_rows, folder=tmp_path):
        assert torch.equal(found, filled(num_rows))
