"""The sections of a report, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ukd.eval.report import charts, spaces
from ukd.eval.report.collect import Curve, Run
from ukd.eval.report.figures import Column, Model
from ukd.eval.report.galleries import Gallery
from ukd.eval.report.markup import Node, node
from ukd.eval.report.pictures import SHARED_K, file_uri, neighbour_grids
from ukd.eval.report.spaces import Floats64, Index
from ukd.eval.report.tables import model_table, shown
from ukd.neighbours import nearest_others

MEASURED = ("knn_top1", "knn_overlap", "teacher_cosine", "rankme")
"""Curves that mean the same in every run; losses only do among runs of one objective."""
SPEED = ("lr", "images_per_s")
KS = (1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100)
VOTE_K = 10
NUM_PAIRS = 1500
MAX_CLASSES = 20
"""Classes of a chart of gaps; of more, those with the widest."""


class Drawn(NamedTuple):
    """What several sections draw of one gallery: neighbours of every space, and the colour of every student."""

    gallery: Gallery
    neighbours: dict[str, Index]
    colours: dict[str, int]


def drawn_of(gallery: Gallery, runs: Sequence[Run]) -> Drawn:
    """Find the neighbours in every space once; a student has the colour of its run."""
    k = min(max(KS), len(gallery.images) - 1)
    numbers = {run.name: number for number, run in enumerate(runs)}
    return Drawn(
        gallery,
        {sha256: nearest_others(space.features, k) for sha256, space in gallery.spaces.items()},
        {sha256: numbers.get(space.name, 0) for sha256, space in gallery.spaces.items()},
    )


def models(rows: Sequence[Model], columns: Sequence[Column], runs: Sequence[Run]) -> Node:
    """Every model with its most quoted figures, and what to run where there are none."""
    silent = [
        node("p", f"{run.name} has no results yet; make them with ", node("code", f"ukd-eval knn --ckpt {run.name}"))
        for run in runs
        if not run.results
    ]
    for each in silent:
        each.set("class", "missing")
    if not rows:
        return node("section", node("h2", "Models"), *silent)
    reading = (
        "Shares in per cent, ± half the 95 % interval. In brackets the gap to the teacher in points, and the share of "
        "the teacher's figure that the student keeps, under the same protocol on the same images."
    )
    table = node("div", model_table(rows, columns), class_="wide")
    return node("section", node("h2", "Models"), table, node("p", reading, class_="soft"), *silent)


def curves(runs: Sequence[Run]) -> Node:
    """Learning curves: what was monitored, the losses of each objective, their terms and the speed on demand."""
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    if not names:
        return node("section", node("h2", "Learning curves"), _missing("metrics.jsonl holds nothing yet"))
    main = []
    further = [_curve(name, name, runs) for name in SPEED if name in names]
    for objective in dict.fromkeys(run.objective for run in runs if run.curves):
        alike = [run for run in runs if run.objective == objective]
        main.append(_curve("loss", f"loss of {objective}", runs, alike))
        terms = dict.fromkeys(name for run in alike for name in run.curves if name not in ("loss", *MEASURED, *SPEED))
        further += [_curve(term, f"{term} ({objective})", runs, alike) for term in terms]
    main += [_curve(name, name, runs) for name in MEASURED if name in names]
    return node(
        "section",
        node("h2", "Learning curves"),
        charts.legend({number: run.name for number, run in enumerate(runs)}),
        node("div", *main, class_="charts"),
        node(
            "details",
            node("summary", "Terms of the loss, learning rate, speed"),
            node("div", *further, class_="charts"),
        ),
    )


def neighbours(drawn: Sequence[Drawn], runs: Sequence[Run], missing: Sequence[str]) -> Node:
    """Grids of nearest neighbours; the pictures that runs made of themselves where images are not at hand."""
    body: list[Node] = [_missing(reason) for reason in missing]
    shown_by = {space.name for each in drawn for space in each.gallery.spaces.values()}
    for each in drawn:
        text = (
            f"Nearest by cosine among {len(each.gallery.images):,} {each.gallery.what} of {each.gallery.images.name}. "
            f"Framed: also among the {SHARED_K} nearest of the teacher."
        )
        body += [node("p", text, class_="soft"), *neighbour_grids(each.gallery, each.neighbours)]
    for run in runs:
        if run.picture and run.name not in shown_by:
            picture = node("img", src=file_uri(run.picture), alt=f"neighbours of {run.name}", class_="whole")
            body.append(charts.figure(f"{run.name}, at the end of its training", picture))
    return node("section", node("h2", "Nearest neighbours"), *body)


def maps(drawn: Sequence[Drawn]) -> Node | None:
    """A map of every space, students' started from their teacher's."""
    body: list[Node] = []
    for each in drawn:
        gallery, laid = each.gallery, dict[str, Floats64]()
        coloured = _coloured_classes(gallery)
        colours: list[int | None] = [0] * len(gallery.images)
        if gallery.labels is not None:
            colours = [coloured.get(label) for label in gallery.labels.tolist()]
            body.append(charts.legend({colour: gallery.class_name(label) for label, colour in coloured.items()}))
        for sha256, space in gallery.spaces.items():
            laid[sha256] = spaces.flat_map(space.features, laid[space.teacher] if space.teacher else None)
        titles = ((sha256, f"{'student' if s.teacher else 'teacher'} {s.name}") for sha256, s in gallery.spaces.items())
        body.append(node("div", *(charts.map_chart(t, laid[sha256], colours) for sha256, t in titles), class_="charts"))
    if not body:
        return None
    text = (
        "t-SNE of the directions of features. A student's map starts from its teacher's and is turned to lie "
        "upon it, so an image is near its place there if the student keeps its neighbours; distances between groups "
        "mean little."
    )
    return node("section", node("h2", "Maps of the feature spaces"), node("p", text, class_="soft"), *body)


def classes(drawn: Sequence[Drawn]) -> Node | None:
    """For every student, class by class, what it and its teacher classify rightly."""
    figures = []
    for each in drawn:
        labels = each.gallery.labels
        if labels is None:
            continue
        k = min(VOTE_K, len(labels) - 1)
        right = {key: spaces.accuracy_by_class(s.features, labels, k) for key, s in each.gallery.spaces.items()}
        for sha256, space in each.gallery.spaces.items():
            if space.teacher:
                ours, theirs = right[sha256], right[space.teacher]
                widest = sorted(ours, key=lambda label: ours[label] - theirs[label])[:MAX_CLASSES]
                rows = [(each.gallery.class_name(label), ours[label], theirs[label]) for label in widest]
                figures.append(charts.gap_chart(space.name, rows, each.colours[sha256]))
    if not figures:
        return None
    text = (
        f"Accuracy in per cent by a majority of the {VOTE_K} nearest of the images shown above, each left out of its "
        "own vote: rougher than the table's protocols, but class by class. Ring: teacher; dot: student; widest gap "
        f"first, at most {MAX_CLASSES} classes."
    )
    body = (node("p", text, class_="soft"), node("div", *figures, class_="charts"))
    return node("section", node("h2", "Gap to the teacher by class"), *body)


def fidelity(drawn: Sequence[Drawn], rows: Sequence[Model], runs: Sequence[Run]) -> Node | None:
    """How alike students' spaces are to their teachers': shared neighbours, similarities, and what was measured."""
    figures: list[Node] = []
    for each in drawn:
        lines: dict[int, Curve] = {}
        scatters = []
        for sha256, space in each.gallery.spaces.items():
            if space.teacher:
                teacher, colour = each.gallery.spaces[space.teacher], each.colours[sha256]
                shared = spaces.shared_by_k(each.neighbours[sha256], each.neighbours[space.teacher], KS)
                lines[colour] = [(k, 100 * share) for k, share in shared]
                ours, theirs = spaces.similarities(space.features, teacher.features, NUM_PAIRS)
                caption = f"Cosine of {NUM_PAIRS:,} random pairs: {space.name}"
                scatters.append(charts.point_chart(caption, theirs, ours, "teacher", "student", colour))
        if lines:
            num = len(each.gallery.images)
            chance = [(k, 100 * k / (num - 1)) for k in KS if k < num]
            caption = "Neighbours shared with the teacher, % (dashed: chance)"
            figures += [charts.line_chart(caption, lines, "k", chance), *scatters]
    measured = list(_measured_fidelity(rows))
    if not figures and not measured:
        return None
    students = [run.name for run in runs if run.is_distillation]
    if not measured:
        command = f"ukd-eval fidelity {' '.join(f'--ckpt {name}' for name in students)}"
        measured = [node("p", "CKA, trustworthiness, RankMe and more: ", node("code", command), class_="missing")]
    numbered = {number: run.name for number, run in enumerate(runs) if run.is_distillation}
    legend = charts.legend(numbered)
    return node("section", node("h2", "Fidelity"), legend, node("div", *figures, class_="charts"), *measured)


def _measured_fidelity(rows: Sequence[Model]) -> Iterator[Node]:
    columns = list(dict.fromkeys(c for model in rows for c in model.cells if c.protocol.task == "fidelity"))
    compared = [model for model in rows if any(column in model.cells for column in columns)]
    if not columns:
        return
    heads = [node("th", "figure"), *(node("th", model.role, node("small", model.name)) for model in compared)]
    lines = []
    for column in columns:
        cells = [model.cells.get(column) for model in compared]
        texts = (node("td", shown(column, cell.metric) if cell else "-") for cell in cells)
        lines.append(node("tr", node("th", column.metric), *texts))
    yield node(
        "div", node("table", node("thead", node("tr", *heads)), node("tbody", *lines), class_="figures"), class_="wide"
    )


def _curve(name: str, caption: str, runs: Sequence[Run], among: Sequence[Run] | None = None) -> Node:
    shown_runs = runs if among is None else among
    lines = {number: run.curves[name] for number, run in enumerate(runs) if run in shown_runs and name in run.curves}
    return charts.line_chart(caption, lines, "step")


def _coloured_classes(gallery: Gallery) -> dict[int, int]:
    """Give the commonest classes colours, in the order of their numbers; the others stay grey."""
    if gallery.labels is None:
        return {}
    numbers, count = np.unique(gallery.labels, return_counts=True)
    commonest = np.sort(numbers[np.argsort(-count, kind="stable")[: charts.NUM_COLOURS]])
    return {int(number): colour for colour, number in enumerate(commonest)}


def _missing(text: str) -> Node:
    return node("p", text, class_="missing")
