"""Embeddings of a set of images, in memory or on disk: where neighbour lists, monitors and every figure start from.

Each process of the run embeds blocks of its own. Blocks are cut by the number of images alone, so any number of
processes gives the same rows, and what a kill left behind is continued as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from ukd import distributed
from ukd.backbones import Backbone
from ukd.blocks import Embeddings as Embeddings
from ukd.blocks import blocks_of
from ukd.data import Images
from ukd.extractor import Extractor
from ukd.loading import Unreadable
from ukd.stamps import edited, stamps_of
from ukd.store import Draft, Store, StoreError

NAMED = 5
"""Edited images that an error names."""


def embed(
    backbone: Backbone,
    images: Images,
    *,
    size_px: int,
    crop_pct: float,
    device: torch.device,
    batch_size: int = 256,
    num_workers: int | None = None,
    on_unreadable: Callable[[str], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> Embeddings:
    """Embeds the pooled feature of every image in memory; as `in_memory`, with the arguments of `Extractor`."""
    return in_memory(
        Extractor(
            backbone,
            images,
            size_px,
            crop_pct,
            device,
            batch_size=batch_size,
            num_workers=num_workers,
            on_unreadable=on_unreadable,
            advance=advance,
        )
    )


def in_memory(extractor: Extractor) -> Embeddings:
    """Embeds every image once, over all processes; each gets the whole result.

    Returns:
        fp32 [n, D], in the order of the images, not normalised.

    Raises:
        DataError: An image cannot be read, or more than one in a hundred where they are skipped.
        UserError: The backbone does not have this kind of features.
    """
    num_rows, world_size = len(extractor.images), distributed.world_size()
    embeddings = torch.empty(num_rows, extractor.width())
    mine = blocks_of(num_rows)[distributed.rank() :: world_size]
    with extractor.in_step(mine):
        for block, features, _ in _for_all(extractor, mine).run(mine, Unreadable(extractor.images)):
            embeddings[block.start : block.stop] = torch.from_numpy(features)
    if world_size > 1:
        rows = torch.tensor([row for block in mine for row in block], dtype=torch.int64)
        embeddings[distributed.gather_rows(rows)] = distributed.gather_rows(embeddings[rows])
    return embeddings.numpy()


def on_disk(extractor: Extractor, folder: Path) -> Store:
    """Embeds every image that the store does not hold yet, over all processes; never more than a block in memory.

    Args:
        extractor: What the rows are of.
        folder: The store, which all processes must see; made if it is not there. Blocks that are there are checked
            and kept, damaged ones are made anew.

    Returns:
        fp16 or fp32 [n, D], as `blocks.compact` says, in the order of the images, not normalised.

    Raises:
        DataError: An image cannot be read, or more than one in a hundred where they are skipped.
        StoreError: The folder holds other features, or those of files that were edited since, or cannot be written.
        UserError: The backbone does not have this kind of features.
    """
    extractor.width()
    images = extractor.images
    draft = Draft(folder, extractor.key(), len(images), images.name)
    with _together(folder):
        draft.check()
        if distributed.is_main():
            draft.begin()
    mine = blocks_of(len(images))[distributed.rank() :: distributed.world_size()]
    unreadable, shared = Unreadable(images), _for_all(extractor, mine)
    with _together(folder):
        missing = [block for block in mine if not _holds(draft, block, images)]
        _refuse_edited(draft, images, [block for block in mine if block not in missing])
        kept = sum(map(len, mine)) - sum(map(len, missing))
        if shared.advance and kept:
            shared.advance(kept)
    with _together(folder), extractor.in_step(missing):
        for extracted in shared.run(missing, unreadable):
            draft.write(*extracted, stamps_of(images, extracted.block))
    with _together(folder):
        store = draft.open()
        if distributed.is_main():
            draft.finish(store)
    extractor.report(unreadable, store.unreadable)
    return store


def _holds(draft: Draft, block: range, images: Images) -> bool:
    """Whether a block is there, whole, and says which files it is of."""
    return draft.holds(block) and (images.file(block.start) is None or bool(draft.stamps(block)))


def _refuse_edited(draft: Draft, images: Images, blocks: list[range]) -> None:
    """Refuses features of images that changed on disk without changing the fingerprint."""
    found = edited(images, ((block, draft.stamps(block)) for block in blocks))
    if found:
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        named = ", ".join(map(images.id, found[:NAMED])) + more
        raise StoreError(
            f"features: {draft.folder} holds features of the same images before some changed on disk: {named} "
            "(of the same size, but of other bytes); name another folder, or delete this one"
        )


def _for_all(extractor: Extractor, mine: list[range]) -> Extractor:
    """Lets the progress of this process stand for that of all, each of which has about as much to do."""
    advance, num_mine = extractor.advance, sum(map(len, mine))
    if advance is None:
        return extractor
    done = 0

    def count(num: int) -> None:
        nonlocal done
        before, done = done, done + num
        advance(done * len(extractor.images) // num_mine - before * len(extractor.images) // num_mine)

    return replace(extractor, advance=count)


@contextmanager
def _together(folder: Path) -> Iterator[None]:
    """Ends in an error in every process where one of them fails at the store; nobody goes on before all are done."""
    failure: StoreError | None = None
    try:
        yield
    except StoreError as error:
        failure = error
    except OSError as error:
        failure = StoreError(f"features: cannot use {folder}: {error.strerror}")
    if distributed.any_process(failure is not None):
        raise failure or StoreError(f"features: {folder} cannot be used by another process; all must see and write it")
