"""Features of the images that a report shows, in every space that it compares: teachers' and students'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ukd.blocks import Embeddings
from ukd.data import Images, Labels, Subset, open_images, split_holdout
from ukd.errors import UserError
from ukd.eval.extraction import Extraction
from ukd.eval.fidelity import chosen_images
from ukd.eval.models import Subject, candidates, read_run, teacher_of
from ukd.eval.report.collect import Run
from ukd.recipe import DataSpec

MAX_IMAGES = 2000
"""Images in maps, grids and classes: as many points as a map of 360 pixels has room for."""
MIN_IMAGES = 4


@dataclass(frozen=True)
class Space:
    """What one backbone makes of the images.

    Attributes:
        name: Run folder or source.
        features: [n, D], not normalised.
        teacher: Hash of its teacher's weights, None for a teacher.
    """

    name: str
    features: Embeddings
    teacher: str | None


@dataclass(frozen=True)
class Gallery:
    """Images, and the spaces of every model that a run shows them to.

    Attributes:
        images: The images, n of them.
        labels: Their class numbers [n], None where they have none.
        class_names: Names of the class numbers, None where they have none.
        what: What they are, in words.
        spaces: Spaces by the hash of the weights; a teacher comes before its students.
    """

    images: Images
    labels: Labels | None
    class_names: Sequence[str] | None
    what: str
    spaces: dict[str, Space] = field(default_factory=dict)

    def class_name(self, number: int) -> str:
        """Name of a class, its number where it has no name."""
        return self.class_names[number] if self.class_names else f"class {number}"

    def students(self) -> Iterator[tuple[Space, Space]]:
        """Every student's space and its teacher's."""
        return ((each, self.spaces[each.teacher]) for each in self.spaces.values() if each.teacher)


def open_galleries(runs: Sequence[Run], extraction: Extraction) -> tuple[list[Gallery], list[str]]:
    """Extract the features of the images of every run, once for runs that show the same images in the same view.

    The images are the labelled test images that the recipe names, else those it held out, at most MAX_IMAGES, chosen
    by the hashes of their ids.

    Returns:
        The galleries, and for every run that has none the reason.
    """
    galleries: dict[tuple[str, int, float], Gallery] = {}
    missing: list[str] = []
    for run in runs:
        try:
            for subject, teacher in _subjects(run):
                gallery = _chosen(run)
                view = extraction.view_of(subject)
                gallery = galleries.setdefault((gallery.images.fingerprint(), *view), gallery)
                sha256 = subject.backbone.weights_hash()
                if sha256 not in gallery.spaces:
                    (features,) = extraction.features(subject, [gallery.images])
                    name = run.name if subject.source == run.name else subject.source
                    gallery.spaces[sha256] = Space(name, features, teacher)
        except UserError as error:
            missing.append(f"{run.name}: {error}")
    return [gallery for gallery in galleries.values() if gallery.spaces], missing


def _subjects(run: Run) -> Iterator[tuple[Subject, str | None]]:
    """Open a run's teacher, and then its student with the hash of that teacher's weights."""
    teacher = teacher_of(run.name)
    if teacher:
        yield teacher, None
    (student,) = candidates(run.name, baselines=False)
    yield student, teacher.backbone.weights_hash() if teacher else None


def _chosen(run: Run) -> Gallery:
    parts = read_run(run.name)
    assert parts is not None  # It holds a recipe.
    images, what = _images(parts.data, run.recipe["monitor"]["holdout_images"] if run.is_distillation else None)
    rows = chosen_images(images, MAX_IMAGES)
    shown = images if rows is None else Subset(images, rows)
    if len(shown) < MIN_IMAGES:
        raise UserError(f"{len(shown)} {what} are too few for a picture; {MIN_IMAGES} are the fewest")
    labels = images.labels if images.labels is None or rows is None else images.labels[rows]
    return Gallery(shown, labels, images.class_names, what)


def _images(data: DataSpec, num_holdout: int | None) -> tuple[Images, str]:
    """Open the labelled test images that a recipe names, else its held-out or, of a pretraining, its training images.

    Returns:
        The images, and what they are.
    """
    if data.labelled_test is not None:
        return open_images(data.labelled_test, root=Path(data.root), labelled=True), "labelled test images"
    images = open_images(data.train, root=Path(data.root))
    if num_holdout is None:
        return images, "training images"
    return Subset(images, split_holdout(len(images), num_holdout)[1]), "held-out images"
