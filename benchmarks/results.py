"""The tables of docs/results.md: every objective on JPEG-CIFAR-10, each from the same teacher and images.

Pretrains the teachers where their run folders are missing, distils and evaluates every recipe of recipes/jpeg_cifar10,
and writes the tables. What is done already is not done again, so that it can be stopped and continued.

    make results                                          # every recipe, seed 0
    python benchmarks/results.py --seeds 3 coss cosine    # some of them, with seeds 0, 1 and 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ukd import recipe_file
from ukd.cli.schema import options_for
from ukd.recipe import DistillRecipe, PretrainRecipe

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes" / "jpeg_cifar10"
COSTS = ROOT / "benchmarks" / "objectives.json"
TABLES = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
RUNS = Path("runs") / "results"


@dataclass(frozen=True)
class Figures:
    """What is known of one run, in percent."""

    knn: float
    linear: float
    overlap: float | None
    from_bank: bool
    """Whether the teacher was read from a bank of the same views."""


def main() -> None:
    """Train, evaluate, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="names without .yaml; none means all")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tables", action="store_true", help="only write the tables of what is there")
    arguments = parser.parse_args()
    recipes = distillations()
    for name in arguments.recipes or recipes:
        for seed in range(0 if arguments.tables else arguments.seeds):
            ensure(name, recipes[name], seed)
    write_tables(recipes)


def distillations() -> dict[str, DistillRecipe]:
    """The recipes that distil, by name."""
    files = [path for path in sorted(RECIPES.glob("*.yaml")) if "\nteacher:" in path.read_text()]
    options = options_for(DistillRecipe)
    return {path.stem: recipe_file.load(path, [], DistillRecipe, options) for path in files}


def pretrainings() -> dict[str, str]:
    """Names of the recipes that pretrain, by run folder."""
    files = [path for path in sorted(RECIPES.glob("*.yaml")) if "\nbackbone:" in path.read_text()]
    options = options_for(PretrainRecipe)
    return {recipe_file.load(path, [], PretrainRecipe, options).output: path.stem for path in files}


def ensure(name: str, recipe: DistillRecipe, seed: int) -> None:
    """Trains and evaluates a student, and the teacher before it, unless that is done."""
    teacher = Path(str(recipe.teacher.weights))
    if not (teacher / "results" / "linear.json").exists():
        run("ukd.cli.pretrain", RECIPES / f"{pretrainings()[str(teacher)]}.yaml", "--resume")
        evaluate(teacher)
    output = RUNS / f"{name}_{seed}"
    if not (output / "results" / "linear.json").exists():
        run("ukd.cli.distill", RECIPES / f"{name}.yaml", f"seed={seed}", f"output={output}", "--resume")
        evaluate(output)


def evaluate(checkpoint: Path) -> None:
    """Nearest neighbours and a linear probe; the result files lie in the run folder."""
    for task in ("knn", "linear"):
        run("ukd.eval.cli", task, "--ckpt", checkpoint, "--no-baselines")


def run(module: str, *arguments: object) -> None:
    """Runs one of our commands."""
    print("+", module, *arguments, flush=True)
    code = f"from {module} import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)


def figures(folder: Path) -> Figures | None:
    """The figures of a run folder; None where it is not evaluated yet."""
    if not all((folder / "results" / f"{task}.json").exists() for task in ("knn", "linear")):
        return None
    (linear, *_) = own_results(folder, "linear")
    return Figures(
        knn=top1_knn(folder),
        linear=100 * linear["metrics"]["top1_selected_on_heldout"]["value"],
        overlap=None if (folder / "teacher.safetensors").exists() else overlap(folder),
        from_bank="teacher_cache: k_views" in (folder / "recipe.yaml").read_text(),
    )


def own_results(folder: Path, task: str) -> list[dict[str, Any]]:
    """Results of the run itself, where its baselines were measured too."""
    role = "student" if (folder / "student.safetensors").exists() else "teacher"
    found = json.loads((folder / "results" / f"{task}.json").read_text())["results"]
    return [result for result in found if result["model"]["role"] == role]


def top1_knn(folder: Path) -> float:
    """DINO's weighted vote at k = 20, in percent."""
    (dino,) = (result for result in own_results(folder, "knn") if result["preset"] == "dino")
    return 100 * float(dino["metrics"]["top1_k20"]["value"])


def overlap(folder: Path) -> float:
    """Share of neighbours that a student has in common with its teacher at the end, in percent."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return 100 * float([line["knn_overlap"] for line in lines if "knn_overlap" in line][-1])


def write_tables(recipes: dict[str, DistillRecipe]) -> None:
    """Writes a table for each teacher into docs/results.md, between its two marks."""
    costs = json.loads(COSTS.read_text())
    tables = []
    for teacher in sorted({str(recipe.teacher.weights) for recipe in recipes.values()}):
        names = [name for name, recipe in recipes.items() if str(recipe.teacher.weights) == teacher]
        if any(path for name in names for path in RUNS.glob(f"{name}_[0-9]/results/linear.json")):
            tables.append(table(Path(teacher), names, costs))
    write_between(TABLES, "\n".join(tables))


def write_between(path: Path, text: str) -> None:
    """Writes tables into a document, between its two marks."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def table(teacher: Path, names: Sequence[str], costs: dict[str, dict[str, float]]) -> str:
    """The students of one teacher, best first, in Markdown."""
    found = {name: [each for path in sorted(RUNS.glob(f"{name}_[0-9]")) if (each := figures(path))] for name in names}
    best = {name: statistics.fmean(each.knn for each in runs) for name, runs in found.items() if runs}
    done = sorted(best, key=lambda name: -best[name])
    own = figures(teacher)
    lines = [
        f"Teacher `{pretrainings()[str(teacher)]}`:\n",
        "| recipe | seeds | kNN top-1, k=20 | linear top-1 | overlap | step time | step MB |",
        "|---|---|---|---|---|---|---|",
    ]
    if own:
        lines.append(f"| *the teacher* | 1 | {own.knn:.1f} | {own.linear:.1f} | 100 | | |")
    for name in done:
        runs = found[name]
        cost = costs.get(name, {})
        overlaps = [each.overlap for each in runs if each.overlap is not None]
        cells = [
            f"`{name}`" + (" †" if any(each.from_bank for each in runs) else ""),
            str(len(runs)),
            spread([each.knn for each in runs]),
            spread([each.linear for each in runs]),
            spread(overlaps),
            f"{cost['time']:.2f}" if cost else "",
            f"{cost['memory_mb']:.0f}" if cost else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are more than one."""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
