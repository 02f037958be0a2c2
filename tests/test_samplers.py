"""The order of training: complete, the same for any number of processes, and a function of the step alone."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from ukd.samplers import BatchOrder, RankBatches, Sample


def neighbour_lists(num_images: int, nearest: int) -> npt.NDArray[np.int32]:
    """Image i's nearest are i+1, i+2, ..."""
    return ((np.arange(num_images)[:, None] + np.arange(1, nearest + 1)) % num_images).astype(np.int32)


@given(num_images=st.integers(1, 40), batch_size=st.integers(1, 100), seed=st.integers(0, 2**64 - 1))
def test_every_image_comes_once_in_every_pass(num_images: int, batch_size: int, seed: int) -> None:
    order = BatchOrder(num_images, batch_size, seed)
    num_steps = -(-3 * num_images // batch_size)
    samples = [sample for step in range(num_steps) for sample in order.batch(step)]
    passes = [[sample.image for sample in samples[i * num_images : (i + 1) * num_images]] for i in range(3)]
    for images in passes:
        assert sorted(images) == list(range(num_images))
    assert [sample.epoch for sample in samples] == [place // num_images for place in range(len(samples))]
    assert num_images < 8 or passes[0] != passes[1]


def test_a_batch_reaches_from_one_pass_into_the_next_and_over_several() -> None:
    order = BatchOrder(num_images=5, batch_size=12, seed=0)
    batch = order.batch(1)
    assert [sample.epoch for sample in batch] == [2] * 3 + [3] * 5 + [4] * 4
    assert {sample.image for sample in batch[3:8]} == set(range(5))
    assert {sample.image for sample in order.batch(0)[10:] + batch[:3]} == set(range(5))


@given(steps=st.lists(st.integers(0, 200), min_size=2, max_size=6), seed=st.integers(0, 99))
def test_a_batch_depends_on_its_step_alone(steps: list[int], seed: int) -> None:
    lists = neighbour_lists(23, 6)
    asked = BatchOrder(23, 8, seed, lists, k=3)
    for step in steps:
        assert asked.batch(step) == BatchOrder(23, 8, seed, lists, k=3).batch(step)


def test_another_seed_is_another_order() -> None:
    assert BatchOrder(50, 50, 0).batch(0) != BatchOrder(50, 50, 1).batch(0)


@given(
    num_images=st.integers(8, 60),
    num_bags=st.integers(1, 8),
    k=st.integers(0, 3),
    world_size=st.sampled_from([1, 2, 3, 4]),
    span=st.tuples(st.integers(0, 30), st.integers(0, 5)),
)
def test_ranks_together_are_one_process(
    num_images: int, num_bags: int, k: int, world_size: int, span: tuple[int, int]
) -> None:
    first, last = span[0], span[0] + span[1]
    lists = neighbour_lists(num_images, 7) if k else None
    order = BatchOrder(num_images, num_bags * (k + 1) * world_size, 5, lists, k)
    (alone,) = [list(RankBatches(order, first, last, 0, 1))]
    shares = [list(RankBatches(order, first, last, rank, world_size)) for rank in range(world_size)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == alone
    assert len(alone) == len(RankBatches(order, first, last, 0, 1)) == span[1]
    assert {len(part) for share in shares for part in share} <= {num_bags * (k + 1)}


def test_each_anchor_is_followed_by_its_own_neighbours() -> None:
    lists = neighbour_lists(40, 9)
    order = BatchOrder(40, 24, 3, lists, k=5)
    anchors = []
    for step in range(10):
        batch = order.batch(step)
        for bag in (batch[first : first + 6] for first in range(0, 24, 6)):
            anchor = bag[0].image
            assert bag[0] == Sample(anchor, anchor, bag[0].epoch)
            assert {(sample.anchor, sample.epoch) for sample in bag} == {(anchor, bag[0].epoch)}
            drawn = [sample.image for sample in bag[1:]]
            assert len(set(drawn)) == 5 and set(drawn) <= set(lists[anchor].tolist())
            anchors.append(anchor)
    assert sorted(anchors) == list(range(40))


def test_neighbours_change_from_pass_to_pass_and_come_equally_often() -> None:
    order = BatchOrder(8, 8 * 4, 0, neighbour_lists(8, 6), k=3)
    counts: Counter[int] = Counter()
    bags = set()
    for epoch in range(300):
        batch = order.batch(epoch)
        bag = [sample.image for sample in batch if sample.anchor == 0 and sample.image != 0]
        bags.add(tuple(bag))
        counts.update(bag)
    assert len(bags) > 80  # Of 6 * 5 * 4 = 120 possible ones.
    assert set(counts) == {1, 2, 3, 4, 5, 6} and all(120 < count < 180 for count in counts.values())


def test_all_of_the_nearest_can_be_asked_for() -> None:
    batch = BatchOrder(6, 4, 0, neighbour_lists(6, 3), k=3).batch(0)
    assert {sample.image for sample in batch[1:]} == {(batch[0].image + step) % 6 for step in (1, 2, 3)}
