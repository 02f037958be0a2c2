"""Pictures of the images in a page: thumbnails as data URIs, and grids of nearest neighbours."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from ukd.data import Pixels
from ukd.eval.report.galleries import Gallery
from ukd.eval.report.markup import Node, node
from ukd.eval.report.spaces import Index

SIDE_PX = 80
"""Side of a thumbnail, sharp at the 40 pixels of a telephone and good enough at the 56 of a screen."""
NUM_QUERIES, NUM_NEIGHBOURS = 8, 6
SHARED_K = 20
"""A student's neighbour is framed if it is among so many of the teacher's."""


def neighbour_grids(gallery: Gallery, neighbours: dict[str, Index]) -> Iterator[Node]:
    """Draw each query beside its nearest neighbours in every space; a student's that its teacher shares are framed.

    Args:
        gallery: The images and their spaces.
        neighbours: Nearest other images [n, k] of each space, by the hash of its weights.
    """
    thumbnails: dict[int, str] = {}

    def picture(number: int, class_: str | None = None) -> Node:
        if number not in thumbnails:
            thumbnails[number] = data_uri(gallery.images.read(number))
        return node(
            "img", src=thumbnails[number], alt=_name(gallery, number), title=_name(gallery, number), class_=class_
        )

    queries = np.unique(np.linspace(0, len(gallery.images) - 1, min(NUM_QUERIES, len(gallery.images)), dtype=int))
    for query in queries.tolist():
        rows = []
        for sha256, space in gallery.spaces.items():
            listed = neighbours[sha256][query]
            shared = set(neighbours[space.teacher][query, :SHARED_K].tolist()) if space.teacher else set()
            pictures = (picture(i, "shared" if i in shared else None) for i in listed[:NUM_NEIGHBOURS].tolist())
            role = "student" if space.teacher else "teacher"
            rows.append(node("div", node("small", f"{role} {space.name}"), node("div", *pictures), class_="row"))
        yield node(
            "div",
            node("div", node("small", "query"), picture(query), class_="query"),
            node("div", *rows, class_="rows"),
            class_="grid-of",
        )


def data_uri(pixels: Pixels) -> str:
    """Write the centre square of an image as a data URI: small images as they are, larger ones shrunk, as JPEG."""
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side <= SIDE_PX:
        return _encoded(image, "png")
    return _encoded(image.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS), "jpeg")


def file_uri(png: bytes) -> str:
    """Put a PNG file into a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _encoded(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=85, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _name(gallery: Gallery, number: int) -> str:
    name = gallery.images.id(number)
    return name if gallery.labels is None else f"{gallery.class_name(int(gallery.labels[number]))}: {name}"
