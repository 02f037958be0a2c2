"""Stores: rows by number without reading the rest, and no trust in what is of something else."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ukd.blocks import block_path, blocks_of
from ukd.store import MANIFEST, Draft, Store, StoreError, digest_of, open_store

NUM, DIM = 600, 5
ROWS = np.random.default_rng(0).standard_normal((NUM, DIM)).astype(np.float16).astype(np.float32)
KEY: dict[str, Any] = {"weights": "aa", "images": "ii", "view": {"size_px": 16}, "fed": {"kwargs": {"channels": [8]}}}


def make(folder: Path, **changes: Any) -> Draft:
    draft = Draft(folder, {**KEY, **changes}, NUM, "photos")
    draft.begin()
    for block in blocks_of(NUM):
        draft.write(block, ROWS[block.start : block.stop], [])
    draft.finish(draft.open())
    return draft


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    make(folder)
    return open_store(folder, KEY)


def test_rows_are_mapped_and_not_read(store: Store) -> None:
    assert all(isinstance(block, np.memmap) for block in store.maps)
    assert [len(block) for block in store.maps] == [256, 256, 88]
    assert (store.shape, len(store), store.dtype) == ((NUM, DIM), NUM, np.float16)
    assert [len(block) for block in store.blocks()] == [256, 256, 88]
    np.testing.assert_array_equal(np.concatenate(list(store.blocks())), ROWS)


def test_its_digest_is_of_the_rows_and_of_their_key(store: Store, tmp_path: Path) -> None:
    assert make(tmp_path / "same").open().digest == store.digest
    assert make(tmp_path / "other", weights="bb").open().digest != store.digest
    edited = make(tmp_path / "edited")
    edited.write(range(512, NUM), ROWS[512:] + 1, [])
    assert edited.open().digest != store.digest
    restamped = make(tmp_path / "restamped")
    restamped.write(range(512, NUM), ROWS[512:], [], "1:ab")
    assert restamped.open().digest != store.digest


@given(st.lists(st.integers(0, NUM - 1)))
def test_rows_come_as_asked_for(store: Store, index: list[int]) -> None:
    asked = np.array(index, dtype=np.int32)
    assert store[asked].dtype == np.float32
    np.testing.assert_array_equal(store[asked], ROWS[asked])


@given(st.slices(NUM))
def test_slices_are_those_of_an_array(store: Store, rows: slice) -> None:
    np.testing.assert_array_equal(store[rows], ROWS[rows])


@pytest.mark.parametrize("index", [[NUM], [0, -1]])
def test_rows_that_are_not_there(store: Store, index: list[int]) -> None:
    with pytest.raises(IndexError, match="of 600"):
        store[np.array(index)]


def test_a_block_that_needs_more_keeps_it(tmp_path: Path) -> None:
    draft = make(tmp_path)
    draft.write(range(512, NUM), ROWS[512:] * np.float32(1e5), [])
    mixed = open_store(tmp_path)
    assert mixed.dtype == np.float32
    np.testing.assert_array_equal(mixed[:], np.concatenate([ROWS[:512], ROWS[512:] * np.float32(1e5)]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weights": "bb"}, "of other weights; name another folder"),
        ({"view": {"size_px": 24}}, "of view.size_px 16 where 24 is asked for;"),
        ({"fed": {"kwargs": {"channels": (16,)}}}, "of fed.kwargs.channels [8] where [16] is asked for;"),
        ({"fed": {"kwargs": {}}}, "of fed.kwargs.channels [8] where None is asked for;"),
        ({"weights": "bb", "images": "jj"}, "of other weights, of the same images before they changed on disk"),
    ],
)
def test_other_features_are_refused_with_what_differs(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    make(tmp_path)
    key = {**KEY, **changes}
    for refused in (
        lambda: open_store(tmp_path, key, "photos"),
        lambda: Draft(tmp_path, key, NUM, "photos").check(),
    ):
        with pytest.raises(StoreError, match=re.escape(reason)):
            refused()


def test_images_of_another_name_are_other_images(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(StoreError, match=r"holds features of other images;"):
        open_store(tmp_path, {**KEY, "images": "jj"}, "paintings")


def test_keys_are_compared_as_json_gives_them_back(tmp_path: Path) -> None:
    make(tmp_path)
    same = {**dict(reversed(KEY.items())), "fed": {"kwargs": {"channels": (8,)}}}
    assert digest_of(same) == digest_of(KEY)
    open_store(tmp_path, same)
    Draft(tmp_path, same, NUM, "photos").check()


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"holds no {MANIFEST}"):
        open_store(tmp_path)
    draft = Draft(tmp_path, KEY, NUM, "photos")
    draft.begin()
    with pytest.raises(StoreError, match="is not finished; the command that began it continues it"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match=r"rows-0000000000\.safetensors is missing"):
        draft.open()
    make(tmp_path)
    path = block_path(tmp_path, range(256, 512))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"rows-0000000256.safetensors is damaged \(.+\); extract again to repair it"):
        open_store(tmp_path)
    path.unlink()
    with pytest.raises(StoreError, match=r"rows-0000000256.safetensors is missing; extract again"):
        open_store(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": 1}')
    with pytest.raises(StoreError, match=r"is damaged \(it says nothing of complete, images, key, num_rows\)"):
        open_store(tmp_path)
    (tmp_path / MANIFEST).write_text(
        json.dumps({**dict.fromkeys(["images", "num_rows", "complete", "key"]), "format": 2})
    )
    with pytest.raises(StoreError, match="is of format 2, which this version does not read"):
        open_store(tmp_path, KEY)


@pytest.mark.parametrize("damage", [b"", b"[1, 2]", b'{"format": 1, "ima'])
def test_a_damaged_manifest_is_written_anew(damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draft = make(tmp_path)
    whole = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        draft.check()
    assert "is damaged and written anew" in caplog.text
    draft.begin()
    assert all(map(draft.holds, blocks_of(NUM)))
    draft.finish(draft.open())
    assert (tmp_path / MANIFEST).read_bytes() == whole


def test_blocks_that_are_not_whole_are_not_held(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draft = make(tmp_path)
    first, second, third = blocks_of(NUM)
    block_path(tmp_path, first).unlink()
    path = block_path(tmp_path, second)
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\x00")
    with caplog.at_level(logging.WARNING):
        assert [draft.holds(block) for block in (first, second, third)] == [False, False, True]
    assert caplog.text.count("damaged and extracted anew: its rows are not those that were written") == 1
    other = Draft(tmp_path, {**KEY, "weights": "bb"}, NUM, "photos")
    assert not other.holds(third)


def test_what_a_kill_left_half_written_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".rows-0000000000.safetensors.4321.tmp").write_bytes(b"half")
    make(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        MANIFEST,
        *(f"rows-{first:010d}.safetensors" for first in (0, 256, 512)),
    ]
