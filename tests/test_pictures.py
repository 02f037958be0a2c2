"""The picture of neighbours: the right images in the right places, shared ones framed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from ukd.data import ArrayImages
from ukd.pictures import _SHARED, CELL_PX, GAP_PX, neighbour_picture

STEP, TOP = CELL_PX + GAP_PX, 28


def colours(num: int, height: int = 6, width: int = 9) -> ArrayImages:
    """Image i is of colour (i, 2 i, 200)."""
    each = np.stack([np.arange(num), 2 * np.arange(num), np.full(num, 200)], 1).astype(np.uint8)
    return ArrayImages("colours", np.broadcast_to(each[:, None, None], (num, height, width, 3)).copy())


def shown(canvas: Image.Image, left: int, row: int) -> int:
    """Which image stands in the cell."""
    red, green, blue = canvas.getpixel((left + CELL_PX // 2, TOP + row * STEP + CELL_PX // 2))  # type: ignore[misc]
    assert (green, blue) == (2 * red, 200)
    return int(red)


def framed(canvas: Image.Image, left: int, row: int) -> bool:
    return canvas.getpixel((left - 1, TOP + row * STEP + CELL_PX // 2)) == _SHARED


def test_every_cell_shows_its_image_and_shared_ones_are_framed() -> None:
    of_teacher = np.array([[1, 2, 3, 9], [0, 2, 3, 9], [8, 7, 6, 5]], dtype=np.int32)[[0, 1, 2] + [0] * 7]
    of_student = np.array([[4, 2, 9, 5], [5, 6, 7, 8], [5, 6, 7, 8]], dtype=np.int32)[[0, 1, 2] + [0] * 7]
    canvas = neighbour_picture(colours(10), of_teacher, of_student, num_queries=10, num_neighbours=3)
    starts = (GAP_PX, 4 * GAP_PX + STEP, 7 * GAP_PX + 4 * STEP)
    assert canvas.size == (starts[2] + 3 * STEP, TOP + 10 * STEP) and canvas.mode == "RGB"
    for row in range(3):
        assert shown(canvas, starts[0], row) == row
        for start, lists in ((starts[1], of_teacher), (starts[2], of_student)):
            assert [shown(canvas, start + column * STEP, row) for column in range(3)] == lists[row, :3].tolist()
    # Shared with the whole of the other list, also with what is not drawn of it: 9 is the teacher's fourth.
    frames = [[[framed(canvas, start + c * STEP, row) for c in range(3)] for start in starts[1:]] for row in range(3)]
    assert frames[0] == [[False, True, False], [False, True, True]]
    assert frames[1] == [[False, False, False], [False, False, False]]
    assert frames[2] == [[True, True, True], [True, True, True]]
    assert not framed(canvas, starts[0], 0)


@pytest.mark.parametrize(
    ("num", "asked", "rows"), [(3, {}, 3), (100, {"num_queries": 4}, 4), (20, {"num_neighbours": 50}, 8)]
)
def test_few_images_make_a_small_picture(num: int, asked: dict[str, Any], rows: int) -> None:
    lists = np.tile(np.arange(2, dtype=np.int32), (num, 1))
    canvas = neighbour_picture(colours(num), lists, lists, **asked)
    assert canvas.size == (7 * GAP_PX + 3 * STEP + 2 * STEP, TOP + rows * STEP)
    assert (shown(canvas, GAP_PX, 0), shown(canvas, GAP_PX, rows - 1)) == (0, num - 1)


def test_the_centre_of_a_long_image_is_shown_unstretched() -> None:
    pixels = np.zeros((2, 10, 30, 3), dtype=np.uint8)
    pixels[:, :, 10:20] = (7, 14, 200)
    lists = np.zeros((2, 1), dtype=np.int32)
    canvas = neighbour_picture(ArrayImages("long", pixels), lists, lists)
    cell = np.asarray(canvas)[TOP : TOP + CELL_PX, GAP_PX : GAP_PX + CELL_PX]
    assert (cell == (7, 14, 200)).all()
