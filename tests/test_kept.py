"""What was computed from a bank is computed once, and never taken for something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ukd.kept import Arrays, kept
from ukd.store import StoreError

KEY = {"features": "aa", "nearest": 3}
ARRAYS: Arrays = {"lists": np.arange(12, dtype=np.int32).reshape(4, 3), "sizes": np.array([1.5, 2.5])}


class Work:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Arrays:
        self.times += 1
        return ARRAYS


def same(found: Arrays) -> bool:
    return found.keys() == ARRAYS.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array) for name, array in ARRAYS.items()
    )


def test_it_is_computed_once(tmp_path: Path) -> None:
    work = Work()
    assert all(same(kept(tmp_path / "lists.safetensors", KEY, work)) for _ in range(3))
    assert work.times == 1
    assert [path.name for path in tmp_path.iterdir()] == ["lists.safetensors"]


@pytest.mark.parametrize("change", [{"features": "bb"}, {"nearest": 4}, {"max_cosine": 0.9}])
def test_of_anything_else_it_is_computed_anew(change: dict[str, object], tmp_path: Path) -> None:
    work = Work()
    kept(tmp_path / "lists", KEY, work)
    assert same(kept(tmp_path / "lists", {**KEY, **change}, work)) and work.times == 2
    kept(tmp_path / "lists", KEY, work)
    assert work.times == 3


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_damaged_it_is_computed_anew(damage: str, tmp_path: Path) -> None:
    path, work = tmp_path / "lists", Work()
    kept(path, KEY, work)
    whole = path.read_bytes()
    damaged = {"truncated": whole[:-9], "flipped": whole[:-1] + b"\x01", "empty": b"", "foreign": b"a" * 99}
    path.write_bytes(damaged[damage])
    assert same(kept(path, KEY, work)) and work.times == 2
    assert path.read_bytes()[-20:] == whole[-20:]


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"features: cannot write .+none/lists: No such file or directory"):
        kept(tmp_path / "none" / "lists", KEY, Work())
