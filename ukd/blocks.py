"""Blocks of features: how rows are cut, rounded, and kept in one file a block."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ukd.files import write_atomically

Embeddings = npt.NDArray[np.float32]

NUM_BLOCKS, MIN_BLOCK_ROWS, MAX_BLOCK_ROWS = 128, 256, 65_536
"""At most so many blocks, as long as none need be longer than the last of these."""
MAX_ROUNDING = 2e-3
"""Features are stored in fp16 if its rounding error stays below this share of their spread."""
TILE_ROWS = 256
ABOUT = "ukd"
"""Name of the entry of a block's header that says what it is."""
_DTYPES = {"F16": np.float16, "F32": np.float32}


class Rows(Protocol):
    """Features [n, D], in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> Embeddings:
        """Rows by number."""


class DamagedError(ValueError):
    """A file that does not hold what it should; the message says why."""


class Block(NamedTuple):
    """A stored block.

    Attributes:
        rows: fp16 or fp32 [b, D], memory-mapped.
        sha256: Checksum of the rest, as it was written.
        unreadable: Numbers of the images that could not be read.
        stamps: Of the images' files, as `ukd.stamps` has them.
    """

    rows: np.memmap[Any, Any]
    sha256: str
    unreadable: list[int]
    stamps: str


def blocks_of(num_rows: int) -> list[range]:
    """Cuts rows into blocks, all but the last of one size; a function of their number alone, not of processes."""
    size = 1 << ((num_rows - 1) // NUM_BLOCKS).bit_length()
    size = max(MIN_BLOCK_ROWS, min(MAX_BLOCK_ROWS, size))
    return [range(first, min(first + size, num_rows)) for first in range(0, num_rows, size)]


def compact(features: Embeddings) -> npt.NDArray[np.float16] | Embeddings:
    """Rounds features [n, D] to fp16 where its 11 bits are enough, else leaves them in fp32.

    They are enough if the rounding error is below MAX_ROUNDING of the spread about the mean feature, both as
    root mean square. Overflow beyond 65,504, features too small for fp16, and those of an untrained or
    collapsed network, which differ from one another by little more than fp16 can tell, stay in fp32.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    rounded = np.empty(features.shape, dtype=np.float16)
    error = spread = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(features), TILE_ROWS):
            rows = features[start : start + TILE_ROWS]
            rounded[start : start + TILE_ROWS] = rows
            error += float(np.square(rounded[start : start + TILE_ROWS] - rows, dtype=np.float64).sum())
            spread += float(np.square(rows - mean).sum())
    return rounded if error < MAX_ROUNDING**2 * spread else features


def round_blocks(features: Embeddings) -> Embeddings:
    """Rounds features [n, D] in place to what a store of them would give back."""
    for block in blocks_of(len(features)):
        features[block.start : block.stop] = compact(features[block.start : block.stop])
    return features


def stored_dtype(features: Embeddings) -> np.dtype[Any]:
    """The dtype that features from a store were stored in: fp16 if it holds every one of them, else fp32."""
    tiles = (features[start : start + TILE_ROWS] for start in range(0, len(features), TILE_ROWS))
    with np.errstate(over="ignore"):
        whole = all(np.array_equal(tile.astype(np.float16), tile) for tile in tiles)
    return np.dtype(np.float16 if whole else np.float32)


def block_path(folder: Path, block: range) -> Path:
    """Where a block lies; names sort in the order of the rows."""
    return folder / f"rows-{block.start:010d}.safetensors"


def write_block(path: Path, key: str, features: Embeddings, unreadable: Sequence[int], stamps: str = "") -> None:
    """Writes the features [b, D] of a block, all of them or nothing.

    Args:
        path: Where.
        key: Hash of all that the rows depend on.
        features: The rows, not yet rounded.
        unreadable: Numbers of the images that could not be read.
        stamps: Of the images' files, as `ukd.stamps` has them.

    Raises:
        OSError: The disk is full or not writable.
    """
    rows = np.ascontiguousarray(compact(features))
    checksum = _checksum(rows, unreadable, stamps)
    about = {"key": key, "sha256": checksum, "unreadable": list(unreadable), "stamps": stamps}
    # One entry: safetensors writes several in any order, and equal blocks are to be equal files.
    write_atomically(path, save({"features": rows}, {ABOUT: json.dumps(about)}))


def map_block(path: Path, key: str, num_rows: int) -> Block:
    """Maps a block into memory; its header is read, its rows are not.

    Raises:
        FileNotFoundError: There is none.
        DamagedError: It is not whole, or not the block that is wanted.
    """
    size_bytes = path.stat().st_size
    try:
        with safe_open(path, framework="numpy") as file:
            about, held = json.loads(file.metadata()[ABOUT]), file.get_slice("features")
            shape, dtype = held.get_shape(), np.dtype(_DTYPES[held.get_dtype()])
        if about["key"] != key:
            raise DamagedError("it belongs to other features")
        if len(shape) != 2 or shape[0] != num_rows:
            raise DamagedError(f"it holds {shape} where {num_rows} rows are wanted")
        # safetensors made sure that its one array reaches to the end of the file.
        rows = np.memmap(path, dtype, "r", size_bytes - shape[0] * shape[1] * dtype.itemsize, tuple(shape))
        return Block(rows, about["sha256"], about["unreadable"], about.get("stamps", ""))
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DamagedError(str(error)) from None


def check_rows(block: Block) -> None:
    """Reads a block's rows and compares them with their checksum.

    Raises:
        DamagedError: They are not those that were written.
    """
    if _checksum(block.rows, block.unreadable, block.stamps) != block.sha256:
        raise DamagedError("its rows are not those that were written")


def _checksum(rows: npt.NDArray[Any], unreadable: Sequence[int], stamps: str) -> str:
    digest = hashlib.sha256(f"{json.dumps(list(unreadable))}{stamps}".encode())
    digest.update(rows.data)
    return digest.hexdigest()
