"""What the engine adds to a training step: its time over the time of the bare parts, on one thread of a CPU.

The real loop of `ukd.train` runs. The batches it is given come from a generator, which sees when the loop asks
for the next one: between two requests lies one whole turn of the loop. In between, the same generator takes
the bare step by hand: teacher, student, loss, gradient, optimizer. So both are measured in turns in
one process, on the same batches, in CPU time, and what slows the machine down slows down both.

    python benchmarks/step.py
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import timm
import torch
from torch import Tensor, nn

from ukd import train
from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone
from ukd.distill import build_run
from ukd.loading import PixelBatch
from ukd.recipe import DistillRecipe

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@dataclass(frozen=True)
class Case:
    """A pair of models and a batch.

    Attributes:
        teacher: timm name and arguments.
        student: timm name and arguments.
        source_px: Side of the images.
        size_px: Side of the views.
        batch_size: Images in a step.
        num_steps: Steps in one measurement: a multiple of the ten between two lines of metrics.
        num_repeats: Measurements of each kind.
    """

    teacher: tuple[str, dict[str, Any]]
    student: tuple[str, dict[str, Any]]
    source_px: int
    size_px: int
    batch_size: int
    num_steps: int = 10
    num_repeats: int = 9

    def __str__(self) -> str:
        return f"{self.teacher[0]} to {self.student[0]}, {self.size_px} px, {self.batch_size}"


CASES = [
    Case(
        ("resnet10t", {"output_stride": 16}),
        ("resnet10t", {"output_stride": 16, "channels": [16, 32, 64, 128], "stem_width": 16}),
        *(28, 28, 256),
    ),
    Case(("resnet50", {}), ("resnet18", {}), 96, 64, 32),
]


@dataclass
class Times:
    """CPU seconds per step, one entry a measurement."""

    bare: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    with_loading: list[float] = field(default_factory=list)


class Bare:
    """The parts of a CoSS step and nothing else, on plain timm models."""

    def __init__(self, case: Case) -> None:
        self.teacher, self.student = (
            timm.create_model(arch, num_classes=0, **kwargs).to(memory_format=torch.channels_last)
            for arch, kwargs in (case.teacher, case.student)
        )
        self.teacher.eval().requires_grad_(False)
        narrow, wide = cast(int, self.student.num_features), cast(int, self.teacher.num_features)
        self.head = nn.Sequential(nn.Linear(narrow, 2048), nn.ReLU(), nn.Linear(2048, wide))
        parameters = [*self.student.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True)

    def seconds(self, batches: list[PixelBatch]) -> float:
        """CPU seconds a step, over one step on each batch."""
        start = time.process_time()
        for batch in batches:
            self._step(batch.views[0])
        return (time.process_time() - start) / len(batches)

    def _step(self, views: Tensor) -> None:
        views = (views - MEAN) / STD
        with torch.no_grad():
            target = self.teacher(views)
        feature = self.head(self.student(views))
        rows, columns = (nn.functional.cosine_similarity(feature, target, dim=dim).mean() for dim in (1, 0))
        self.optimizer.zero_grad()
        (-70 * (rows + columns)).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def measure(case: Case, folder: Path) -> Times:
    """Runs the loop once, from warm-up to the last repeat."""
    rng = np.random.default_rng(0)
    shape = (20 * case.batch_size, case.source_px, case.source_px, 3)
    np.save(folder / "images.npy", rng.integers(0, 256, shape, dtype=np.uint8))
    (folder / "teacher").mkdir()
    arch, kwargs = case.teacher
    export_backbone(folder / "teacher", "teacher", build_backbone(arch=arch, kwargs=kwargs), {})
    recipe = _recipe(case, folder)
    run = build_run(recipe, torch.device("cpu"))
    times, bare, batches = Times(), Bare(case), train.batches

    def timed(*arguments: Any) -> Iterator[PixelBatch]:
        loading = iter(batches(*arguments))
        loaded = [next(loading) for _ in range(case.num_steps)]
        yield from loaded  # Warm-up, of the bare parts too.
        bare.seconds(loaded)
        for _ in range(case.num_repeats):
            times.bare.append(bare.seconds(loaded))
            for source, into in ((iter(loaded), times.engine), (loading, times.with_loading)):
                start = time.process_time()
                for _ in range(case.num_steps):
                    yield next(source)
                into.append((time.process_time() - start) / case.num_steps)
        yield loaded[0]  # The last step ends in evaluation and checkpoint, which are no part of a step.

    with mock.patch.object(train, "batches", timed):
        train.train(run, None)
    return times


def _recipe(case: Case, folder: Path) -> DistillRecipe:
    num_steps = case.num_steps * (1 + 2 * case.num_repeats) + 1
    rare = {"every_epochs": 1e6}
    return DistillRecipe.model_validate(
        {
            "output": str(folder / "run"),
            "device": "cpu",
            "data": {"train": str(folder / "images.npy"), "num_workers": 0},
            "views": {"size_px": case.size_px},
            "batch_size": case.batch_size,
            "epochs": num_steps / 19,
            "optimizer": {"lr": 1e-4},
            "teacher": {"weights": str(folder / "teacher")},
            "student": dict(zip(("arch", "kwargs"), case.student, strict=True)),
            "objective": "coss",
            "monitor": {**rare, "holdout_images": case.batch_size},
            "checkpoint": rare,
        }
    )


def main() -> None:
    """Measures every case and prints the table."""
    torch.set_num_threads(1)
    print("| models, view, batch | what | median ms | minimum ms | ratio to the bare parts |")
    print("|---|---|---:|---:|---:|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            times = measure(case, Path(folder))
        rows = {"bare parts": times.bare, "the loop": times.engine, "the loop with loading": times.with_loading}
        for name, seconds in rows.items():
            median, least = 1000 * statistics.median(seconds), 1000 * min(seconds)
            ratio = statistics.median(each / bare for each, bare in zip(seconds, times.bare, strict=True))
            print(f"| {case} | {name} | {median:.1f} | {least:.1f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
