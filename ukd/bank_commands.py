"""What `ukd-bank` does: builds the bank of a recipe, and says what there is in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ukd import distributed
from ukd.assemble import hold_out, open_training_images, seeded_teacher
from ukd.clusters import near_copies
from ukd.errors import UserError
from ukd.files import write_atomically
from ukd.neighbours import search_on
from ukd.recipe import DistillRecipe
from ukd.teacher_space import TeacherSpace

NUM_SHOWN = 20
"""Clusters, or pairs, that are printed; the rest is in the file."""


def build_bank(recipe: DistillRecipe) -> list[str]:
    """Extracts what the recipe's bank holds, as a run of it would.

    Returns:
        A line for each store: its folder, rows, width and size.

    Raises:
        UserError: The recipe names no bank, or something in it cannot be used.
    """
    with _space(recipe) as (space, _):
        return space.extract_all()


def cluster_bank(recipe: DistillRecipe, num: int) -> list[str]:
    """Clusters the recipe's training images in the teacher's space, and writes which image is in which cluster.

    Returns:
        Lines about the largest clusters: number, images, mean cosine to the centre, and the most typical image.

    Raises:
        UserError: As `build_bank`, or there are fewer images than clusters.
    """
    with _space(recipe) as (space, folder):
        of, cosine, _ = space.clusters(num)
        name = space.images.id
    order = np.lexsort((-cosine, of))
    path = folder / f"clusters-{num}.csv"
    rows = ((name(row), int(of[row]), f"{cosine[row]:.4f}") for row in order)
    _write(path, ("image", "cluster", "cosine"), rows)
    sizes = np.bincount(of, minlength=num)
    first = np.cumsum(sizes) - sizes
    lines = ["cluster  images  cosine  most typical"]
    for cluster in np.argsort(-sizes, kind="stable")[:NUM_SHOWN]:
        if sizes[cluster]:
            mean, typical = cosine[of == cluster].mean(), name(int(order[first[cluster]]))
            lines.append(f"{cluster:>7}  {sizes[cluster]:>6,}  {mean:>6.3f}  {typical}")
    filled = sizes[sizes > 0]
    empty = f", {num - len(filled)} empty" if len(filled) < num else ""
    return [*lines, f"{num} clusters of {filled.min():,} to {filled.max():,} images{empty}; all of them: {path}"]


def list_duplicates(recipe: DistillRecipe, min_cosine: float) -> list[str]:
    """Finds near-copies among the recipe's training images in the teacher's space, and writes the pairs.

    Returns:
        Lines about the first pairs: cosine and both images.

    Raises:
        UserError: As `build_bank`.
    """
    with _space(recipe) as (space, folder):
        pairs = sorted(near_copies(space.centre, min_cosine, space.device))
        name = space.images.id
    path = folder / f"duplicates-{min_cosine:g}.csv"
    rows = ((name(first), name(second), f"{cosine:.4f}") for first, second, cosine in pairs)
    _write(path, ("image", "other", "cosine"), rows)
    lines = [f"{cosine:.4f}  {name(first)}  {name(second)}" for first, second, cosine in pairs[:NUM_SHOWN]]
    later = len({second for _, second, _ in pairs})
    return [
        *lines,
        f"{len(pairs):,} pairs of cosine above {min_cosine:g}; {later:,} of {len(space.images):,} images are nearly "
        f"the same as one before them; all of them: {path}",
    ]


@contextmanager
def _space(recipe: DistillRecipe) -> Iterator[tuple[TeacherSpace, Path]]:
    """The teacher's space of the recipe's training images, and the folder of its bank."""
    if recipe.bank is None:
        raise UserError(
            "bank: the recipe names no folder for it; add `bank: FOLDER`, or bank=FOLDER on the command line"
        )
    with distributed.session(recipe.device) as device:
        search_on(device)
        images, _ = hold_out(open_training_images(recipe), recipe)
        teacher = seeded_teacher(recipe, recipe.teacher, device)
        yield TeacherSpace(recipe, teacher, images, device), Path(recipe.bank)


def _write(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    if distributed.is_main():
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(names)
        table.writerows(rows)
        write_atomically(path, text.getvalue().encode(errors="surrogateescape"))
