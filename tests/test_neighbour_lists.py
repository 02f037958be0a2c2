"""Lists without near-copies against a full matrix; the same from blocks, from disk, and from several processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import processes
from ukd import neighbour_lists as module
from ukd import neighbours, search, unit_rows
from ukd.blocks import blocks_of
from ukd.errors import DataError
from ukd.neighbour_lists import NeighbourLists
from ukd.neighbours import nearest_others
from ukd.store import Draft, open_store

CPU = torch.device("cpu")


def lists_of(features: np.ndarray, k: int, max_cosine: float = 1.0) -> NeighbourLists:
    return module.neighbour_lists(features, k, max_cosine, CPU)


def bursts(num: int, seed: int = 0, copies: int = 4, width: int = 12) -> np.ndarray:
    """Images of which each was taken several times, some of the shots exact copies."""
    rng = np.random.default_rng(seed)
    shots = np.repeat(rng.standard_normal((-(-num // copies), width)), copies, axis=0)[:num]
    shots += rng.choice([0.0, 0.02, 0.2], (num, 1)) * rng.standard_normal((num, width))
    return (shots * 2.0 ** rng.integers(-3, 4, (num, 1)))[rng.permutation(num)].astype(np.float32)


def oracle(features: np.ndarray, k: int, max_cosine: float) -> tuple[list[list[int]], list[int]]:
    """One row at a time, in fp64."""
    wide = features.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = wide / np.where(length > 0, length, 1)
    nearest, num_too_near = [], []
    for row in range(len(unit)):
        similarity = (unit * unit[row]).sum(1)  # Equal rows have equal sums.
        others = [other for other in range(len(unit)) if other != row]
        kept = [other for other in others if similarity[other] <= max_cosine]
        nearest.append(sorted(kept, key=lambda other: (-similarity[other], other))[:k])
        num_too_near.append(len(others) - len(kept))
    return nearest, num_too_near


def small_blocks(patch: pytest.MonkeyPatch) -> None:
    """As if the bank were far too large for the memory."""
    for searching in (neighbours, module):
        patch.setattr(searching, "CPU_LIMITS", search.Limits(listed=60, bank=60, queries=4))
    patch.setattr(search, "GRID_ROWS", 5)
    patch.setattr(module, "SIMILARITIES", 60)
    patch.setattr(unit_rows, "UNIT_ENTRIES", 40)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    num=st.integers(8, 60),
    copies=st.integers(1, 30),
    k=st.integers(1, 6),
    max_cosine=st.sampled_from([0.3, 0.9, 0.98, 0.9999]),
    in_blocks=st.booleans(),
)
def test_equal_a_sort_of_what_is_left(
    seed: int, num: int, copies: int, k: int, max_cosine: float, in_blocks: bool
) -> None:
    features = bursts(num, seed, copies)
    with pytest.MonkeyPatch.context() as patch:
        if in_blocks:
            small_blocks(patch)
        found = lists_of(features, k, max_cosine)
    nearest, num_too_near = oracle(features, k, max_cosine)
    assert found.num_too_near.tolist() == num_too_near
    for row, listed in enumerate(found.nearest.tolist()):
        left = nearest[row]
        assert listed[len(left) :] == [-1] * (k - len(left))
        assert listed[: len(left)] == left


def test_copies_en_masse_leave_the_nearest_of_the_rest() -> None:
    """500 shots of one thing, 100 of them equal: an image's first 499 others are of no use to it."""
    rng = np.random.default_rng(0)
    thing, rest = rng.standard_normal((2, 1, 16)), rng.standard_normal((300, 16))
    shots = thing[0] + 0.01 * rng.standard_normal((500, 16))
    shots[:100] = shots[0]
    features = np.concatenate([shots, rest]).astype(np.float32)
    found = lists_of(features, 31, 0.97)
    assert found.nearest.tolist() == oracle(features, 31, 0.97)[0]
    assert (found.num_too_near[:500] == 499).all() and found.nearest[:500].min() >= 500
    plain = lists_of(features, 31).nearest
    assert plain[:500].max() < 500


def test_without_a_limit_the_lists_are_those_of_the_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.concatenate([bursts(300), np.zeros((3, 12), np.float32)])
    plain = nearest_others(features, 9)
    found = lists_of(features, 9)
    np.testing.assert_array_equal(found.nearest, plain)
    assert found.nearest.dtype == np.int32 and not found.num_too_near.any()
    small_blocks(monkeypatch)
    np.testing.assert_array_equal(lists_of(features, 9).nearest, plain)


def test_rows_of_zeros_are_near_to_nothing() -> None:
    features = np.zeros((5, 3), dtype=np.float32)
    found = lists_of(features, 2, 0.5)
    assert found.nearest.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]]
    assert found.num_too_near.tolist() == [0] * 5


def test_too_few_are_told_apart_from_none() -> None:
    features = np.array([[1, 0], [1, 0], [1, 0.01], [0, 1]], dtype=np.float32)
    found = lists_of(features, 2, 0.9)
    assert found.nearest.tolist() == [[3, -1], [3, -1], [3, -1], [2, 0]]
    assert found.num_too_near.tolist() == [2, 2, 2, 0]


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(DataError, match="k=5 but each of the 5 images has 4 others"):
        lists_of(bursts(5), 5, 0.5)


def stored(features: np.ndarray, folder: Path) -> None:
    draft = Draft(folder, {}, len(features), "photos")
    draft.begin()
    for block in blocks_of(len(features)):
        draft.write(block, features[block.start : block.stop], [])
    draft.finish(draft.open())


def found_by_each(folder: Path, max_cosine: float) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        found = module.neighbour_lists(open_store(folder), 5, max_cosine, CPU)
    return torch.from_numpy(np.concatenate([found.nearest, found.num_too_near[:, None]], axis=1))


@pytest.mark.parametrize("max_cosine", [0.95, 1.0])
def test_many_processes_share_the_work_and_find_the_same(max_cosine: float, tmp_path: Path) -> None:
    stored(bursts(80), tmp_path / "store")
    alone = found_by_each(tmp_path / "store", max_cosine)
    for found in processes.run(found_by_each, tmp_path / "store", max_cosine, folder=tmp_path, num=3):
        assert torch.equal(found, alone)
