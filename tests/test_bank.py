"""Embeddings: one row an image, in order, whoever computes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import processes
from ukd.backbones import Backbone, build_backbone
from ukd.bank import Embeddings, embed
from ukd.data import ArrayImages, Pixels
from ukd.errors import DataError
from ukd.views import evaluation_view

NUM, SIZE_PX = 23, 16


class Photos(ArrayImages):
    """Noise; the images named cannot be read."""

    def __init__(self, damaged: set[int] = frozenset(), num: int = NUM) -> None:  # type: ignore[assignment]
        rng = np.random.default_rng(0)
        super().__init__("photos", rng.integers(0, 256, (num, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))
        self._damaged = damaged

    def read(self, index: int) -> Pixels:
        if index in self._damaged:
            raise OSError("damaged")
        return super().read(index)


def backbone() -> Backbone:
    return build_backbone(arch="resnet10t", kwargs={"channels": [8, 8, 16, 32], "stem_width": 8}, seed=1)


def embedded(images: Photos, model: Backbone | None = None, batch_size: int = 5, **options: object) -> Embeddings:
    cpu = torch.device("cpu")
    return embed(
        model or backbone(),
        images,
        size_px=16,
        crop_pct=1.0,
        device=cpu,
        batch_size=batch_size,
        num_workers=0,
        **options,
    )  # type: ignore[arg-type]


def test_rows_are_the_images_in_order_in_evaluation_mode() -> None:
    model = backbone()
    rows = embedded(Photos(), model)
    assert rows.shape == (NUM, 32) and rows.dtype == np.float32
    assert model.training and model.weights_hash() == backbone().weights_hash()
    model.eval()
    for index in (0, 4, 5, 22):
        pixels = torch.from_numpy(evaluation_view(Photos().read(index), 16, 1.0).copy())
        alone: Tensor = model((pixels.permute(2, 0, 1) / 255).unsqueeze(0)).pooled
        np.testing.assert_allclose(rows[index], alone[0].detach().numpy(), rtol=1e-4, atol=1e-6)
    embedded(Photos(), model)
    assert not model.training


def test_fp64_backbones_give_fp32_rows() -> None:
    rows = embedded(Photos(), backbone().double())
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, embedded(Photos()), rtol=1e-3, atol=1e-5)


def test_progress_adds_up() -> None:
    counts: list[int] = []
    embedded(Photos(), advance=counts.append)
    assert counts == [5, 5, 5, 5, 3]


def test_an_unreadable_image_is_an_error_unless_it_may_be_skipped() -> None:
    with pytest.raises(DataError, match=r"cannot read #150 in photos; repair or remove it"):
        embedded(Photos({150}, 200), batch_size=100)
    lines: list[str] = []
    rows = embedded(Photos({150}, 200), batch_size=100, on_unreadable=lines.append)
    assert lines == ["unreadable image skipped: #150 (1 so far)"]
    np.testing.assert_allclose(rows[150], rows[151], rtol=1e-5)
    with pytest.raises(DataError, match=r"1 of 23 images in photos cannot be read \(at most 1% may\): #3"):
        embedded(Photos({3}), on_unreadable=lines.append)


def rows_of_a_process() -> dict[str, Tensor]:
    """Rows of more batches than processes, and of fewer, so that one has nothing to do."""
    return {name: torch.from_numpy(embedded(Photos(num=num))) for name, num in (("many", NUM), ("few", 3))}


def test_any_number_of_processes_gives_the_same_numbers(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = rows_of_a_process()
    torch.set_num_threads(before)
    for rows in processes.run(rows_of_a_process, folder=tmp_path):
        assert torch.equal(rows["many"], alone["many"]) and torch.equal(rows["few"], alone["few"])
