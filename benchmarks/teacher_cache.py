"""The table of docs/bank.md: what it costs and saves to keep what the teacher makes of the images.

`coss` on JPEG-CIFAR-10 with each `teacher_cache`. Time is CPU time on one thread, of whole steps (loading, teacher or
its stored features, student, gradient, optimizer) taken in turn by all settings in one process, and of the passes that
fill the bank; memory on disk is what the stores take.

    python benchmarks/results.py coss --seeds 3     # the runs without a cache, and the teacher
    python benchmarks/teacher_cache.py              # the others, three seeds each, and the table
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from results import RECIPES, ROOT, RUNS, overlap, run, spread, top1_knn, write_between

from ukd import recipe_file
from ukd.cli.schema import options_for
from ukd.distill import build_run
from ukd.optim import build_optimizer
from ukd.recipe import DistillRecipe
from ukd.run import Run
from ukd.train import batches, take_step

NUM_SEEDS = 3
NUM_ROUNDS = 15
SETTINGS = {
    "none": ("coss", []),
    "fixed_view": ("coss_fixed", ["teacher_cache=fixed_view"]),
    "k_views, k = 2": ("coss_2views", ["teacher_cache=k_views", "cached_views=2"]),
    "k_views, k = 1": ("coss_1view", ["teacher_cache=k_views", "cached_views=1"]),
}
"""By what the table calls it: the name of the runs, and what is set on the command line."""


def main() -> None:
    """Train and evaluate what is missing, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only measure times and write the table of what is there")
    if not parser.parse_args().table:
        for name, overrides in SETTINGS.values():
            for seed in range(NUM_SEEDS):
                ensure(name, overrides, seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_between(ROOT / "docs" / "bank.md", table(costs(Path(folder))))


def ensure(name: str, overrides: list[str], seed: int) -> None:
    """Trains and evaluates a student, unless that is done."""
    output = RUNS / f"{name}_{seed}"
    if not (output / "results" / "knn.json").exists():
        run("ukd.cli.distill", RECIPES / "coss.yaml", f"seed={seed}", f"output={output}", "--resume", *overrides)
        run("ukd.eval.cli", "knn", "--ckpt", output, "--no-baselines")


def costs(folder: Path) -> dict[str, tuple[float, float, int]]:
    """Seconds of a step, seconds of what comes before the first, and bytes on disk, of each setting."""
    found, runs = {}, {}
    for number, (setting, (_, overrides)) in enumerate(SETTINGS.items()):
        bank = folder / str(number)
        start = time.process_time()
        runs[setting] = steps(build(overrides, bank))
        found[setting] = (time.process_time() - start, sum(path.stat().st_size for path in bank.rglob("*.safetensors")))
    times: dict[str, list[float]] = {setting: [] for setting in runs}
    for round_ in range(NUM_ROUNDS + 1):
        for setting, taken in runs.items():
            start = time.process_time()
            next(taken)
            if round_:  # The first one warms up.
                times[setting].append(time.process_time() - start)
    before = found["none"][0]
    return {
        setting: (statistics.median(times[setting]), max(0.0, seconds - before), size)
        for setting, (seconds, size) in found.items()
    }


def build(overrides: list[str], bank: Path) -> Run:
    """The parts of a run, its bank filled."""
    fp32 = ["precision=fp32", "data.num_workers=0", f"bank={bank}"]
    recipe = recipe_file.load(RECIPES / "coss.yaml", [*overrides, *fp32], DistillRecipe, options_for(DistillRecipe))
    return build_run(recipe, torch.device("cpu"))


def steps(run: Run) -> Iterator[None]:
    """One whole step at a time."""
    arguments = run.recipe.optimizer.model_dump(include={"name", "lr", "weight_decay", "momentum"})
    optimizer = build_optimizer(run.learner.parameters(), **arguments)
    for step, batch in enumerate(batches(run, 0)):
        take_step(run, run.learner, optimizer, batch, step)
        yield


def table(measured: dict[str, tuple[float, float, int]]) -> str:
    """All settings, in Markdown."""
    recipe = recipe_file.load(RECIPES / "coss.yaml", [], DistillRecipe, options_for(DistillRecipe))
    num_images = len(list(Path(str(recipe.data.train)).rglob("*.jpg")))
    num_steps = int(recipe.epochs * num_images / recipe.batch_size)
    step, _, _ = measured["none"]
    lines = [
        "| `teacher_cache` | seeds | kNN top-1, k=20 | overlap | images/s, once the bank is there "
        f"| in a run of {recipe.epochs:g} passes | bytes an image |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, (name, _) in SETTINGS.items():
        runs = [RUNS / f"{name}_{seed}" for seed in range(NUM_SEEDS)]
        done = [path for path in runs if (path / "results" / "knn.json").exists()]
        own, before, size = measured[setting]
        cells = [
            f"`{setting}`",
            str(len(done)),
            spread([*map(top1_knn, done)]),
            spread([*map(overlap, done)]),
            f"{step / own:.2f}",
            f"{num_steps * step / (num_steps * own + before):.2f}",
            f"{size / num_images:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
