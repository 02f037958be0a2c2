"""Blocks: how rows are cut and rounded, and files that vouch for every byte of themselves."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ukd.blocks import (
    ABOUT,
    MAX_BLOCK_ROWS,
    NUM_BLOCKS,
    DamagedError,
    Embeddings,
    block_path,
    blocks_of,
    check_rows,
    compact,
    map_block,
    round_blocks,
    stored_dtype,
    write_block,
)
from ukd.neighbours import nearest_others, shared_share

ROWS = np.random.default_rng(0).standard_normal((300, 7)).astype(np.float32)


@given(st.integers(1, 2 * NUM_BLOCKS * MAX_BLOCK_ROWS))
def test_blocks_are_all_rows_in_order(num_rows: int) -> None:
    blocks = blocks_of(num_rows)
    assert blocks[0].start == 0 and blocks[-1].stop == num_rows
    assert all(before.stop == after.start for before, after in pairwise(blocks))
    assert len({len(block) for block in blocks[:-1]}) <= 1 and 0 < len(blocks[-1]) <= len(blocks[0]) <= MAX_BLOCK_ROWS
    assert len(blocks) <= NUM_BLOCKS or len(blocks[0]) == MAX_BLOCK_ROWS


@pytest.mark.parametrize(
    ("num_rows", "size", "num"), [(1, 1, 1), (256, 256, 1), (257, 256, 2), (60_000, 512, 118), (1_281_167, 16_384, 79)]
)
def test_sizes_of_blocks(num_rows: int, size: int, num: int) -> None:
    assert (len(blocks_of(num_rows)[0]), len(blocks_of(num_rows))) == (size, num)


def test_ordinary_features_are_halved_and_keep_their_neighbours() -> None:
    rows = np.random.default_rng(0).standard_normal((2000, 64)).astype(np.float32) + 0.5
    stored = compact(rows)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(compact(stored.astype(np.float32)), stored)
    lists = [nearest_others(each.astype(np.float32), 20) for each in (rows, stored)]
    assert shared_share(*lists) > 0.999


WIDE = {
    "overflow": lambda noise: 1e5 * noise,
    "too small": lambda noise: 1e-7 * noise,
    "all alike": lambda noise: 1 + 1e-3 * noise,
    "NaN": lambda noise: np.where(noise > 2, np.nan, noise),
    "one row": lambda noise: noise[:1],
}


@pytest.mark.parametrize("name", WIDE)
def test_what_half_precision_would_spoil_stays_whole(name: str) -> None:
    wide: Embeddings = WIDE[name](np.random.default_rng(0).standard_normal((500, 64))).astype(np.float32)
    np.testing.assert_array_equal(compact(wide), wide)
    assert compact(wide).dtype == np.float32 and stored_dtype(wide) == np.float32


def test_each_block_is_rounded_for_itself() -> None:
    """A block of rows that fp16 would spoil neither spoils nor is spoilt by the others."""
    rows = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    rows[256:512] *= 1e5
    rounded = round_blocks(rows.copy())
    np.testing.assert_array_equal(rounded[:256], rows[:256].astype(np.float16))
    np.testing.assert_array_equal(rounded[256:512], rows[256:512])
    np.testing.assert_array_equal(rounded[512:], rows[512:].astype(np.float16))
    assert stored_dtype(rounded) == np.float32 and stored_dtype(rounded[:256]) == np.float16


def test_a_block_is_a_file_of_safetensors_that_is_mapped_and_not_read(tmp_path: Path) -> None:
    path = block_path(tmp_path, range(256, 556))
    write_block(path, "key", ROWS, [257, 300])
    block = map_block(path, "key", 300)
    assert isinstance(block.rows, np.memmap) and not block.rows.flags.writeable
    check_rows(block)
    assert block.unreadable == [257, 300] and block.rows.dtype == np.float16
    np.testing.assert_array_equal(block.rows, ROWS.astype(np.float16))
    np.testing.assert_array_equal(load_file(path)["features"], block.rows)
    names = [block_path(tmp_path, range(first, first + 1)).name for first in (0, 9_999_999, 10_000_000, 4_000_000_000)]
    assert names == sorted(names)


def test_equal_blocks_are_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        write_block(tmp_path / name, "key", ROWS, [])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@given(st.data())
def test_no_byte_of_a_block_is_trusted(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damage") / "block"
    write_block(path, "key", ROWS[:5], [3])
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    path.write_bytes(whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DamagedError):
        check_rows(map_block(path, "key", 5))


def test_what_is_whole_but_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "block"
    with pytest.raises(FileNotFoundError):
        map_block(path, "key", 300)
    write_block(path, "key", ROWS, [])
    with pytest.raises(DamagedError, match="it belongs to other features"):
        map_block(path, "another key", 300)
    with pytest.raises(DamagedError, match=r"it holds \[300, 7\] where 299 rows are wanted"):
        map_block(path, "key", 299)
    save_file({"features": ROWS}, path)
    with pytest.raises(DamagedError):
        map_block(path, "key", 300)
    with safe_open(_with(path, "weights", ROWS), framework="numpy") as file:
        assert json.loads(file.metadata()[ABOUT])["key"] == "key"
    with pytest.raises(DamagedError, match="features"):
        map_block(path, "key", 300)
    with pytest.raises(DamagedError):
        map_block(_with(path, "features", ROWS.astype(np.int32)), "key", 300)


def _with(path: Path, name: str, rows: np.ndarray) -> Path:  # type: ignore[type-arg]
    save_file({name: rows}, path, {ABOUT: json.dumps({"key": "key", "sha256": "", "unreadable": []})})
    return path
