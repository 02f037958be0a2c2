"""Features on disk: written block by block by any number of processes, read as one memory-mapped array.

A store is a folder of `rows-*.safetensors`, each a block of consecutive rows, and `features.json`, which says what
the rows are of. Blocks, rather than one file that grows or that all processes write into: a block is renamed into
place whole, so that a kill at any moment leaves nothing to distrust; no two machines ever write into the same file,
which network file systems do not survive; and neither names nor contents tell how many processes there were. Every
block carries the hash of its key, without which it is never used, and a checksum of its rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ukd.blocks import Block, DamagedError, Embeddings, block_path, blocks_of, check_rows, map_block, write_block
from ukd.errors import UserError
from ukd.files import write_atomically

FORMAT = 1
MANIFEST = "features.json"
_log = logging.getLogger(__name__)


class StoreError(UserError):
    """Stored features that are not those asked for, not whole, or cannot be written."""


class Store:
    """Rows of features [n, D] on disk, in the order of the images; what is not asked for is not read.

    Attributes:
        folder: Where it is.
        digest: Hash of its rows and of all that they depend on.
        shape: (n, D).
        dtype: What rows are stored in: fp16, or fp32 if some block needs it. They are read as fp32.
        maps: The blocks, memory-mapped; all but the last have the same number of rows.
        unreadable: Numbers of the images that could not be read; the rows of readable ones stand in their place.
    """

    def __init__(self, folder: Path, blocks: Sequence[Block], key: Mapping[str, Any]) -> None:
        self.folder = folder
        # The key alone would not tell the rows of images that were edited at equal size from those before.
        self.digest = digest_of({"key": key, "blocks": [block.sha256 for block in blocks]})
        self.maps = [block.rows for block in blocks]
        self.unreadable = sorted({index for block in blocks for index in block.unreadable})
        self.shape = (sum(map(len, self.maps)), int(self.maps[0].shape[1]))
        self.dtype = np.result_type(*{each.dtype for each in self.maps})

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | npt.NDArray[np.integer[Any]]) -> Embeddings:
        """Reads rows by number, in the order asked for: fp32 [m, D].

        Raises:
            IndexError: There is no such row.
        """
        index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"rows {index.min()} to {index.max()} of {len(self)}")
        read = np.empty((len(index), self.shape[1]), dtype=np.float32)
        block, place = np.divmod(index, len(self.maps[0]))
        for number in np.unique(block):
            asked = np.flatnonzero(block == number)
            read[asked] = self.maps[number][place[asked]]
        return read

    def blocks(self) -> Iterator[Embeddings]:
        """Reads all rows, one block fp32 [b, D] at a time."""
        for each in self.maps:
            yield each.astype(np.float32)


@dataclass(frozen=True)
class Draft:
    """A store that is being written; each process writes blocks of its own, one of them begins and finishes it.

    Attributes:
        folder: Where; all processes must see it.
        key: All that the rows depend on, as JSON values.
        num_rows: Rows that it will hold.
        images: What the user calls the images, for messages.
    """

    folder: Path
    key: Mapping[str, Any]
    num_rows: int
    images: str

    def check(self) -> None:
        """Refuses a folder that holds other features.

        Raises:
            StoreError: Says in what they differ.
        """
        try:
            _refuse_others(self.folder, _read_manifest(self.folder), self.key, self.images)
        except FileNotFoundError:
            return
        except DamagedError as error:
            # The blocks vouch for themselves.
            _log.warning("features: %s is damaged and written anew: %s", self.folder / MANIFEST, error)

    def begin(self) -> None:
        """Makes the folder and says in it what its rows will be of.

        Raises:
            OSError: It cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_manifest({"complete": False})

    def holds(self, block: range) -> bool:
        """Whether a block is there, whole; a damaged one is reported."""
        path = block_path(self.folder, block)
        try:
            check_rows(map_block(path, digest_of(self.key), len(block)))
        except FileNotFoundError:
            return False
        except DamagedError as error:
            _log.warning("features: %s is damaged and extracted anew: %s", path, error)
            return False
        return True

    def stamps(self, block: range) -> str:
        """Stamps of the images of a block that is there."""
        return map_block(block_path(self.folder, block), digest_of(self.key), len(block)).stamps

    def write(self, block: range, features: Embeddings, unreadable: Sequence[int], stamps: str = "") -> None:
        """Writes a block, as `blocks.write_block`."""
        write_block(block_path(self.folder, block), digest_of(self.key), features, unreadable, stamps)

    def open(self) -> Store:
        """Opens what is written.

        Raises:
            StoreError: A block is missing or not whole.
        """
        return _open(self.folder, self.key, self.num_rows)

    def finish(self, store: Store) -> None:
        """Says that every block is there.

        Raises:
            OSError: The disk is full or not writable.
        """
        facts = {"complete": True, "dim": store.shape[1], "dtype": store.dtype.name, "unreadable": store.unreadable}
        self._write_manifest(facts)
        for half_written in self.folder.glob(".*.tmp"):  # By a process that was killed.
            half_written.unlink(missing_ok=True)

    def _write_manifest(self, facts: Mapping[str, Any]) -> None:
        manifest = {"format": FORMAT, "images": self.images, "num_rows": self.num_rows, **facts, "key": self.key}
        write_atomically(self.folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def open_store(folder: Path, key: Mapping[str, Any] | None = None, images: str = "") -> Store:
    """Opens a store, reading no rows; whether they are intact, `Draft.holds` says.

    Args:
        folder: Where it is.
        key: What its rows must be of; None takes what is there.
        images: What the user calls the images, for messages.

    Raises:
        StoreError: There is none, it is of something else or not finished, or a block is missing or not whole.
    """
    try:
        manifest = _read_manifest(folder)
    except FileNotFoundError:
        raise StoreError(f"features: {folder} holds no {MANIFEST}, so no features are stored there") from None
    except DamagedError as error:
        raise StoreError(f"features: {folder / MANIFEST} is damaged ({error}); extract again to repair it") from None
    if key is not None:
        _refuse_others(folder, manifest, key, images)
    if not manifest["complete"]:
        raise StoreError(f"features: {folder} is not finished; the command that began it continues it")
    return _open(folder, manifest["key"], manifest["num_rows"])


def digest_of(key: Mapping[str, Any]) -> str:
    """sha256 hex of a key, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _open(folder: Path, key: Mapping[str, Any], num_rows: int) -> Store:
    digest, blocks = digest_of(key), []
    for block in blocks_of(num_rows):
        path = block_path(folder, block)
        try:
            blocks.append(map_block(path, digest, len(block)))
        except (DamagedError, FileNotFoundError) as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else f"damaged ({error})"
            raise StoreError(f"features: {path} is {reason}; extract again to repair it") from None
    return Store(folder, blocks, key)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = dict(json.loads((folder / MANIFEST).read_bytes()))
    except (ValueError, TypeError) as error:
        raise DamagedError(str(error)) from None
    missing = {"format", "images", "num_rows", "complete", "key"} - set(manifest)
    if missing:
        raise DamagedError(f"it says nothing of {', '.join(sorted(missing))}")
    return manifest


def _refuse_others(folder: Path, manifest: Mapping[str, Any], key: Mapping[str, Any], images: str) -> None:
    """Refuses a store of something else, and says in what it differs."""
    if manifest["format"] != FORMAT:
        raise StoreError(f"features: {folder} is of format {manifest['format']}, which this version does not read")
    held, asked = dict(_leaves(manifest["key"])), dict(_leaves(key))
    differing = [name for name in {**held, **asked} if held.get(name) != asked.get(name)]
    if not differing:
        return
    changed = "the same images before they changed on disk (some added, removed, renamed or of another size)"
    said = {"weights": "other weights", "images": changed if manifest["images"] == images else "other images"}
    reasons = [said.get(name) or f"{name} {held.get(name)} where {asked.get(name)} is asked for" for name in differing]
    raise StoreError(
        f"features: {folder} holds features of {', of '.join(reasons)}; name another folder, or delete this one"
    )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            # As JSON gives it back: a tuple is a list there.
            yield f"{prefix}{name}", json.loads(json.dumps(value))
