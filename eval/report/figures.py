"""Every figure of every model with its protocol, and how far a student's is from its teacher's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ukd.eval.report.collect import Run
from ukd.eval.results import Metric, Result

ROLES = ("teacher", "student", "model", "initial student", "initial", "untrained student", "untrained", "raw pixels")
"""Order of the table."""
HEADLINES: Mapping[str, tuple[str, ...]] = {
    "knn": ("top1_k20", "top1_k10", "top1_k1"),
    "linear": ("top1_selected_on_heldout",),
    "logreg": ("top1",),
}
"""The figures that stand in the first table, the first that was measured; else a task's first."""
FIDELITY = ("mutual_knn_k20", "mutual_knn_k10", "cka_unbiased")


@dataclass(frozen=True)
class Protocol:
    """What must be equal for two figures to be compared: every setting, and every image.

    Attributes:
        task: What was measured.
        preset: The protocol's name.
        preset_hash: Hash of its settings.
        images: Fingerprint of each set of images.
        view: Side and centre crop of the view, and kind of the features, as far as the task says.
        shown_on: The images by the name that a user gave them; it makes no difference.
    """

    task: str
    preset: str
    preset_hash: str
    images: tuple[str, ...]
    view: tuple[object, ...]
    shown_on: str = field(default="", compare=False)


@dataclass(frozen=True)
class Column:
    """One figure under one protocol."""

    protocol: Protocol
    metric: str

    @property
    def title(self) -> str:
        """For example `knn · dino · top1_k20`."""
        return f"{self.protocol.task} · {self.protocol.preset} · {self.metric}"

    @property
    def is_share(self) -> bool:
        """Whether it is a share in [0, 1], shown as per cent; of fidelity, only shared neighbours are."""
        return self.protocol.task != "fidelity" or self.metric.startswith("mutual_knn")


@dataclass(frozen=True)
class Cell:
    """A figure, and the teacher's under the same protocol; None where that was not measured."""

    metric: Metric
    teacher: Metric | None

    @property
    def gap(self) -> float | None:
        """Figure less the teacher's."""
        return None if self.teacher is None else self.metric.value - self.teacher.value

    @property
    def kept(self) -> float | None:
        """Share of the teacher's figure; None also where that is 0."""
        return None if self.teacher is None or not self.teacher.value else self.metric.value / self.teacher.value


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        name: Run folder or source.
        role: Its role there.
        num_parameters: Its parameters.
        sha256: Hash of its weights.
        cells: Its figures.
    """

    name: str
    role: str
    num_parameters: int
    sha256: str
    cells: Mapping[Column, Cell]


def models_of(runs: Sequence[Run]) -> list[Model]:
    """List every model once, teachers first, although several runs may have measured it.

    A student's teacher is known by the hash of its weights in the student's file; a teacher that the same result
    files call so is taken where the student's file does not say.
    """
    teachers = {
        (result.model["sha256"], column): metric
        for run in runs
        for result in (*run.results, *run.teacher_results)
        if result.model["role"] == "teacher"
        for column, metric in _columns(result)
    }
    rows: dict[tuple[str, str, str], Model] = {}
    for run in runs:
        theirs = run.teacher_sha256 or next(
            (r.model["sha256"] for r in run.results if r.model["role"] == "teacher"), ""
        )
        for result in (*run.results, *run.teacher_results):
            role, sha256 = result.model["role"], result.model["sha256"]
            name = run.name if role == "student" else result.model["source"]
            cells = {
                column: Cell(metric, teachers.get((theirs, column)) if role == "student" else None)
                for column, metric in _columns(result)
            }
            # Two runs may end at equal weights, yet be two rows; a baseline of both is one.
            key = (role, sha256, run.name if role == "student" else "")
            known = rows.get(key)
            rows[key] = Model(
                known.name if known else name,
                role,
                result.model["num_parameters"],
                sha256,
                {**(known.cells if known else {}), **cells},
            )
    return sorted(rows.values(), key=lambda model: ROLES.index(model.role) if model.role in ROLES else len(ROLES))


def headlines(models: Sequence[Model]) -> list[Column]:
    """Choose the columns of the first table: for each protocol its most quoted figure, for fidelity two."""
    by_protocol: dict[Protocol, list[Column]] = {}
    for model in models:
        for column in model.cells:
            known = by_protocol.setdefault(column.protocol, [])
            if column not in known:
                known.append(column)
    chosen: list[Column] = []
    for protocol, columns in by_protocol.items():
        named = {column.metric: column for column in columns}
        if protocol.task == "fidelity":
            shared = [named[name] for name in FIDELITY if name in named]
            chosen += [*shared[:1], *(each for each in shared[1:] if each.metric == "cka_unbiased")]
        else:
            wanted = [named[name] for name in HEADLINES.get(protocol.task, ()) if name in named]
            chosen += wanted[:1] or columns[:1]
    return chosen


def titles(columns: Sequence[Column]) -> list[str]:
    """Title the columns of one table; alike ones also say of which images, in which view and by which settings."""
    found = [column.title for column in columns]
    for telling in ("shown_on", "view", "preset_hash", "images"):
        times = Counter(found)
        for number, column in enumerate(columns):
            if times[found[number]] > 1:
                told = getattr(column.protocol, telling)
                found[number] += " · " + (told if isinstance(told, str) else ", ".join(map(str, told)))
    return found


def _columns(result: Result) -> Iterator[tuple[Column, Metric]]:
    sets = [facts for facts in result.data.values() if isinstance(facts, dict) and "fingerprint" in facts]
    protocol = Protocol(
        result.task,
        result.preset,
        result.preset_hash,
        tuple(facts["fingerprint"] for facts in sets),
        (result.data.get("size_px"), result.data.get("crop_pct"), result.features.get("kind")),
        sets[-1]["name"] if sets else "",
    )
    return ((Column(protocol, name), metric) for name, metric in result.metrics.items())
