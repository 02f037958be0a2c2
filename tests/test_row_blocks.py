"""Blocks are all rows in order, however often and wherever they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ukd import row_blocks
from ukd.blocks import blocks_of
from ukd.row_blocks import RowBlocks
from ukd.store import Draft

ROWS = np.random.default_rng(0).standard_normal((600, 3)).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("where", ["tensor", "array", "disk"])
def test_all_rows_in_order_every_time(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft(tmp_path, {}, len(ROWS), "photos")
    draft.begin()
    for block in blocks_of(len(ROWS)):
        draft.write(block, ROWS[block.start : block.stop], [])
    rows = {"tensor": torch.from_numpy(ROWS), "array": ROWS, "disk": draft.open()}[where]
    monkeypatch.setattr(row_blocks, "ROWS_AT_ONCE", 250)
    blocks = RowBlocks(rows)
    assert len(blocks) == 600 and [len(block) for block in blocks] == [250, 250, 100]
    for _ in range(2):
        assert torch.equal(torch.cat([*blocks]), torch.from_numpy(ROWS))
    changed = blocks.changed(lambda block: 2 * block).changed(lambda block: block[:, :1] - 1)
    assert torch.equal(torch.cat([*changed]), 2 * torch.from_numpy(ROWS)[:, :1] - 1)
