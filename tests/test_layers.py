"""Imports go down only; the table says which room stands on which floor."""

from __future__ import annotations

import ast
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Modules by level, names below `ukd.`; a pattern stands for the modules that no exact name fits.
# A module may import from its own level and from those below, never in a circle.
LEVELS: dict[int, set[str]] = {
    0: {"errors", "features", "files", "messages", "rng", "row_blocks", "similarity"}
    | {"recipe", "recipe_file", "recipe_parts", "recipe_schema", "recipe_yaml"},
    1: {
        "blocks",
        "clusters",
        "data",
        "distributed",
        "formats",
        "formats.*",
        "internals",
        "kept",
        "launch",
        "loading",
        "log",
        "mixing",
        "neighbour_lists",
        "neighbours",
        "optim",
        "projection",
        "samplers",
        "search",
        "stamps",
        "stopping",
        "store",
        "torchvision_data",
        "unit_rows",
        "views",
    }
    | {"jobs", "jobs.*"}
    | {"objectives.base", "objectives.ema", "objectives.heads", "objectives.queue"},
    2: {"objectives.*", "backbones", "bank", "checkpoint", "extractor", "kinds", "networks", "teacher"},
    3: {"objectives"},
    4: {
        "assemble",
        "bank_commands",
        "distill",
        "learner",
        "monitor",
        "pictures",
        "pretrain",
        "run",
        "run_folder",
        "targets",
        "teacher_space",
        "train",
    },
    5: {"cli", "cli.*"},
}
EVAL_MAY_IMPORT = 2
MAY_IMPORT_EVAL = 4
# The only module that may import each of these.
OWNERS = {"faiss": "ukd.neighbours", "torch.distributed": "ukd.distributed"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["ukd", *parts] if parts[0] == "eval" else parts).removesuffix(".__init__")


FILES = sorted([*(ROOT / "ukd").rglob("*.py"), *(ROOT / "eval").rglob("*.py")])
PATHS = {module_name(path): path for path in FILES}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in PATHS.items()}


def level(module: str) -> int | None:
    """Level of a module of ukd outside ukd.eval; None where the table does not know it."""
    short = module.removeprefix("ukd.")
    exact = [number for number, names in LEVELS.items() if short in names]
    matching = [number for number, names in LEVELS.items() if any(fnmatch(short, name) for name in names)]
    return next(iter(exact + matching), None)


def is_eval(module: str) -> bool:
    return module == "ukd.eval" or module.startswith("ukd.eval.")


def imported(module: str, source: str, is_package: bool) -> set[str]:
    """Every dotted name that a module imports or reaches through a dotted name, most specific last."""
    package = module if is_package else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return names


def our_imports(module: str, source: str, is_package: bool) -> set[str]:
    """The modules of this project among the imports; of `from a.b import c`, `a.b.c` if that is a module."""
    found = set()
    for name in imported(module, source, is_package):
        while name.startswith("ukd.") and name not in PATHS:
            name = name.rpartition(".")[0]
        found.add(name)
    return {name for name in found if name in PATHS and name not in (module, "ukd")}


def mistakes(module: str, source: str, is_package: bool = False) -> list[str]:
    """What a module imports against the rules, in words."""
    found = []
    for target in sorted(our_imports(module, source, is_package)):
        if is_eval(module):
            allowed = is_eval(target) or (level(target) or 0) <= EVAL_MAY_IMPORT
        elif is_eval(target):
            allowed = (level(module) or 0) >= MAY_IMPORT_EVAL
        else:
            allowed = (level(target) or 0) <= (level(module) or 0)
        if not allowed:
            found.append(f"{module} (level {level(module)}) imports {target} (level {level(target)})")
    for library, owner in OWNERS.items():
        reaches = any(f"{name}.".startswith(f"{library}.") for name in imported(module, source, is_package))
        if module != owner and reaches:
            found.append(f"{module} imports {library}; only {owner} may")
    return found


def test_every_module_has_a_level() -> None:
    unknown = [name for name in PATHS if name != "ukd" and not is_eval(name) and level(name) is None]
    assert not unknown, f"add {unknown} to LEVELS in {Path(__file__).name}"
    assert {"ukd.recipe", "ukd.eval"} <= PATHS.keys()


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_down_only(module: str) -> None:
    assert mistakes(module, SOURCES[module], PATHS[module].name == "__init__.py") == []


def test_imports_make_no_circle() -> None:
    graph = {
        module: our_imports(module, source, PATHS[module].name == "__init__.py") for module, source in SOURCES.items()
    }
    list(TopologicalSorter(graph).static_order())  # Raises CycleError, which names the circle.


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("ukd.similarity", "from ukd.distributed import rank"),
        ("ukd.similarity", "def f():\n    from ukd import distributed"),
        ("ukd.objectives.coss", "from . import OBJECTIVES"),
        ("ukd.bank", "import ukd.eval.knn"),
        ("ukd.eval.knn", "from ukd.cli.schema import main"),
        ("ukd.samplers", "import faiss"),
        ("ukd.samplers", "from faiss import IndexFlatIP"),
        ("ukd.samplers", "import torch.distributed as dist"),
        ("ukd.samplers", "from torch import distributed"),
        ("ukd.samplers", "import torch\ntorch.distributed.barrier()"),
    ],
)
def test_an_import_against_the_rules_is_found(module: str, source: str) -> None:
    assert len(mistakes(module, source)) == 1


def test_imports_within_the_rules_pass() -> None:
    assert mistakes("ukd.objectives.coss", "from .base import Objective\nimport torch\ntorch.nn.Linear") == []
    assert mistakes("ukd.eval.knn", "from ukd.neighbours import nearest\nimport faiss_like") == []
