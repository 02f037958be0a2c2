"""What a step of every objective costs beside the others: time over SimReg's, and the memory that a step takes.

Each recipe of recipes/jpeg_cifar10 is built with random weights, and a whole step (teacher, student, loss, gradient,
optimizer) is taken on the same 256 images of noise by each in turn, in one process on one thread, in CPU time. Memory
is what the resident set of a process of its own grows by in three steps. The figures also go into objectives.json
beside this file, from which docs/results.md takes them.

    python benchmarks/objectives.py
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ukd import recipe_file
from ukd.cli.schema import options_for
from ukd.distill import build_run
from ukd.loading import PixelBatch
from ukd.optim import build_optimizer
from ukd.recipe import DistillRecipe, PretrainRecipe, TeacherSpec
from ukd.run import Run
from ukd.train import batches, take_step

FOLDER = Path(__file__).parent.parent / "recipes" / "jpeg_cifar10"
NUM_IMAGES = 5000
NUM_ROUNDS = 7
REFERENCE = "cosine"


def teachers() -> dict[str, TeacherSpec]:
    """The untrained teachers by the run folders that their recipes name."""
    options = options_for(PretrainRecipe)
    files = [path for path in FOLDER.glob("*.yaml") if "\nbackbone:" in path.read_text()]
    recipes = [recipe_file.load(path, [], PretrainRecipe, options) for path in files]
    return {recipe.output: TeacherSpec(**recipe.backbone.model_dump()) for recipe in recipes}


class Steps:
    """A run of a recipe with random weights, one step at a time."""

    def __init__(self, name: str, images: Path) -> None:
        recipe = recipe_file.load(FOLDER / f"{name}.yaml", [], DistillRecipe, options_for(DistillRecipe))
        data = recipe.data.model_copy(
            update={"train": str(images), "labelled_train": None, "labelled_test": None, "num_workers": 0}
        )
        first, *more = (teachers()[str(spec.weights)] for spec in (recipe.teacher, *recipe.more_teachers))
        untrained = {"teacher": first, "more_teachers": more}
        recipe = recipe.model_copy(update={"data": data, "precision": "fp32", **untrained})
        self.run: Run = build_run(recipe, torch.device("cpu"), trial=True)
        optimizer = recipe.optimizer.model_dump(include={"name", "lr", "weight_decay", "momentum"})
        self._optimizer = build_optimizer(self.run.learner.parameters(), **optimizer)
        self._batch: PixelBatch = next(iter(batches(self.run, 0)))
        self._step = 0

    def take(self) -> float:
        """Takes a step; CPU seconds."""
        start = time.process_time()
        take_step(self.run, self.run.learner, self._optimizer, self._batch, self._step)
        self.run.learner.after_step((self._step + 1) / self.run.num_steps)
        self._step += 1
        return time.process_time() - start


def names() -> list[str]:
    """The recipes that distil, the reference first."""
    found = [path.stem for path in sorted(FOLDER.glob("*.yaml")) if "\nteacher:" in path.read_text()]
    return sorted(found, key=lambda name: name != REFERENCE)


def memory_mb(name: str, images: Path) -> float:
    """What the resident set of this process grows by in three steps, in MB; Linux tells its peak."""
    steps = Steps(name, images)
    Path("/proc/self/clear_refs").write_text("5")  # From here on, the peak is that of what follows.
    before = _peak_mb()
    for _ in range(3):
        steps.take()
    return _peak_mb() - before


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        print(memory_mb(sys.argv[1], Path(sys.argv[2])))
        return
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "noise.npy"
        np.save(images, np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8))
        runs = {name: Steps(name, images) for name in names()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for round_ in range(NUM_ROUNDS + 1):
            for name, steps in runs.items():
                seconds = steps.take()
                if round_:  # The first one warms up.
                    times[name].append(seconds)
        print("| recipe | step time over `cosine` | memory of a step, MB |\n|---|---|---|")
        costs = {}
        for name, own in times.items():
            ratio = statistics.median(a / b for a, b in zip(own, times[REFERENCE], strict=True))
            command = [sys.executable, __file__, name, str(images)]
            memory = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            costs[name] = {"time": round(ratio, 3), "memory_mb": round(memory)}
            print(f"| `{name}` | {ratio:.2f} | {memory:.0f} |", flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(costs, indent=1) + "\n")


if __name__ == "__main__":
    main()
