"""Features of a data set, extracted once and kept: every figure of every task starts from the same rows.

An entry of the cache is a store (`ukd.store`) in a folder named by the hash of all that its rows depend on. Rows
are stored in fp16 where that loses nothing that matters (`ukd.blocks.compact`) and always pass through the stored
type, so a figure is the same whether its features were cached or not.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ukd.bank import in_memory, on_disk
from ukd.blocks import Embeddings, round_blocks
from ukd.extractor import Extractor
from ukd.store import StoreError, digest_of

_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """Name the folder of cached features: `$UKD_CACHE`, else `~/.cache/ukd`, and `features` in it."""
    return Path(os.environ.get("UKD_CACHE") or Path.home() / ".cache" / "ukd") / "features"


def cache_entry(extractor: Extractor, cache: Path) -> Path:
    """Name the folder of a cache that holds what an extractor gives."""
    return cache / digest_of(extractor.key())[:32]


def cached_features(extractor: Extractor, cache: Path | None) -> Embeddings:
    """Extract the features of every image, or read them from the cache.

    What is damaged in the cache is reported and made anew. A cache that cannot be written is reported and done
    without.

    Args:
        extractor: What the features are of; its backbone is on its device.
        cache: Folder of cached features; None keeps nothing.

    Returns:
        float32 [n, D], in the order of the images, not normalised, rounded as `ukd.blocks.compact` says.

    Raises:
        DataError: An image cannot be read.
        UserError: The backbone does not have this kind of features.
    """
    if cache is None:
        return round_blocks(in_memory(extractor))
    try:
        return on_disk(extractor, cache_entry(extractor, cache))[:]
    except StoreError as error:
        _log.warning("features could not be cached: %s", error)
        return round_blocks(in_memory(extractor))
