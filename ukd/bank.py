"""Embeddings of a set of images: the one extraction that neighbour lists, monitors and every figure start from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from ukd import distributed
from ukd.backbones import Backbone
from ukd.data import Images
from ukd.errors import DataError
from ukd.loading import EvaluationViews, Unreadable, loader

Embeddings = npt.NDArray[np.float32]


@torch.no_grad()
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
    """Embeds every image once, in evaluation mode without autocast, over all processes; each gets the whole result.

    Batches are cut by image number, not by rank, so that any number of processes gives the same numbers.

    Args:
        backbone: Where the embeddings come from; its training mode is put back afterwards.
        images: What to embed.
        size_px: Side of the evaluation view.
        crop_pct: Its centre crop.
        device: Where the backbone is.
        batch_size: Images in one forward pass.
        num_workers: Loader processes; None takes this process's share of the cores.
        on_unreadable: Called with a line about each unreadable image, for which the next readable one then stands;
            None makes it an error.
        advance: Called with the number of images done since the last call, for a progress bar.

    Returns:
        float32 [n, D] pooled features in the order of the images, not normalised.

    Raises:
        DataError: An image cannot be read, or more than one in a hundred where they are skipped.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    batches = [list(range(first, min(first + batch_size, len(images)))) for first in range(0, len(images), batch_size)]
    mine = batches[rank::world_size]
    unreadable = Unreadable(images)
    rows, indices = [torch.empty(0, backbone.dim)], [torch.empty(0, dtype=torch.int64)]
    was_training = backbone.training
    backbone.eval()
    for batch in loader(EvaluationViews(images, size_px, crop_pct), mine, num_workers, device):
        lines = unreadable.report(batch.unreadable)
        if on_unreadable:
            for line in lines:
                on_unreadable(line)
        elif lines:
            raise DataError(f"data: cannot read {images.id(batch.unreadable[0])} in {images.name}; repair or remove it")
        (views,) = batch.to_views(device, backbone.mean.dtype)
        rows.append(backbone(views).pooled.float().cpu())
        indices.append(batch.index)
        if advance:
            advance(len(batch.index) * world_size)
    backbone.train(was_training)
    embeddings = torch.empty(len(images), backbone.dim)
    embeddings[distributed.gather_rows(torch.cat(indices))] = distributed.gather_rows(torch.cat(rows))
    return embeddings.numpy()
