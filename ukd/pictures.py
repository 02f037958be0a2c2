"""The picture a run makes of itself: nearest neighbours in the teacher's space beside those in the student's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ukd.data import Images, Pixels
from ukd.loading import read_or_next

CELL_PX = 56
GAP_PX = 6
_INK, _PAPER, _SHARED = (30, 30, 30), (255, 255, 255), (34, 139, 84)


def neighbour_picture(
    images: Images,
    of_teacher: npt.NDArray[np.int32],
    of_student: npt.NDArray[np.int32],
    num_queries: int = 8,
    num_neighbours: int = 6,
) -> Image.Image:
    """Draws a row a query: the query, its nearest in teacher space, its nearest in student space.

    Images that both lists hold are framed in green.

    Args:
        images: The images that the lists number.
        of_teacher: int32 [n, k], nearest first.
        of_student: int32 [n, k], nearest first.
        num_queries: Rows, spread evenly over the images.
        num_neighbours: Neighbours drawn on either side, k at most.
    """
    num_neighbours = min(num_neighbours, of_teacher.shape[1])
    queries = np.unique(np.linspace(0, len(images) - 1, min(num_queries, len(images)), dtype=int))
    step, top = CELL_PX + GAP_PX, 28
    starts = (GAP_PX, GAP_PX * 4 + step, GAP_PX * 7 + step * (1 + num_neighbours))
    width, height = starts[2] + num_neighbours * step, top + len(queries) * step
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    for title, left in zip(("query", "nearest: teacher", "nearest: student"), starts, strict=True):
        draw.text((left, 7), title, _INK, font)
    for row, query in enumerate(queries):
        y = top + row * step
        canvas.paste(_cell(read_or_next(images, int(query))[0]), (starts[0], y))
        shared = set(of_teacher[query]) & set(of_student[query])
        for left, listed in ((starts[1], of_teacher[query]), (starts[2], of_student[query])):
            for column, neighbour in enumerate(listed[:num_neighbours]):
                x = left + column * step
                canvas.paste(_cell(read_or_next(images, int(neighbour))[0]), (x, y))
                if neighbour in shared:
                    draw.rectangle((x - 2, y - 2, x + CELL_PX + 1, y + CELL_PX + 1), outline=_SHARED, width=2)
    return canvas


def _cell(pixels: Pixels) -> Image.Image:
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    scale = Image.Resampling.NEAREST if side < CELL_PX else Image.Resampling.LANCZOS
    return image.resize((CELL_PX, CELL_PX), scale, box=(left, top, left + side, top + side))
