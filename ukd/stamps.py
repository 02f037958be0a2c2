"""Whether image files are still those that features were computed from, at the cost of reading hardly any of them.

The fingerprint of a folder is of paths and sizes, so that a copy of a data set counts as the same. An edit that keeps a
file's size is found here: a stamp holds the time of the last change and a hash of the bytes. A file whose time is the
same is taken for unchanged, one whose time differs is read: so a copied file passes, and an edited one does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

from ukd.data import Images

MAX_READ = 4096
"""Files that are read at most, spread evenly over those of another time: that of a whole copy is all of them."""
NUM_THREADS = 16
UNREADABLE = "-"


def stamps_of(images: Images, block: range) -> str:
    """Stamps of a block of images, one word each; empty for images that are no files of their own."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return " ".join(filter(None, pool.map(lambda index: _stamp(images, index), block)))


def edited(images: Images, held: Iterable[tuple[range, str]]) -> list[int]:
    """Numbers of the images whose bytes are not those that were stamped.

    Args:
        images: The images as they are.
        held: Blocks of them with their stamps.
    """
    suspects: list[tuple[int, str]] = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for block, stamps in held:
            words = [word.split(":") for word in stamps.split()]
            now = pool.map(lambda index: _modified(images, index), block[: len(words)])
            suspects += [
                (index, digest)
                for index, time, (before, digest) in zip(block, now, words, strict=False)
                if time != before
            ]
        step = -(-len(suspects) // MAX_READ) or 1
        read = pool.map(lambda suspect: (*suspect, _digest(images, suspect[0])), suspects[::step])
        return [index for index, before, now in read if before != now]


def _stamp(images: Images, index: int) -> str:
    return f"{_modified(images, index)}:{_digest(images, index)}" if images.file(index) else ""


def _modified(images: Images, index: int) -> str:
    """When a file was last changed."""
    path = images.file(index)
    try:
        return UNREADABLE if path is None else f"{path.stat().st_mtime_ns:x}"
    except OSError:
        return UNREADABLE


def _digest(images: Images, index: int) -> str:
    path = images.file(index)
    try:
        return UNREADABLE if path is None else blake2b(path.read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return UNREADABLE
