"""What pip installs is `ukd` and nothing else, with every module of the tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def modules() -> set[str]:
    """Every module of the tree, as a path inside the package."""
    files = [*(ROOT / "ukd").rglob("*.py"), *(ROOT / "eval").rglob("*.py")]
    paths = {path.relative_to(ROOT).as_posix() for path in files}
    return {f"ukd/{path}" if path.startswith("eval/") else path for path in paths}


def test_the_wheel_holds_ukd_alone_and_all_of_it(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("ukd", "eval"):
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree)
    done = run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"),
        *("--wheel-dir", str(tmp_path / "out"), str(tree)),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").glob("ukd-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"ukd"}
    assert {name for name in names if name.endswith(".py")} == modules()
    assert "ukd/py.typed" in names
    assert "ukd/eval/suites/kornblith.yaml" in names


def test_eval_has_one_name() -> None:
    done = run(sys.executable, "-c", "import eval", cwd=ROOT)
    assert done.returncode != 0
    assert "ImportError: import this package as 'ukd.eval', not as 'eval'" in done.stderr
    done = run(sys.executable, "-c", "import ukd.eval", cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_link_is_relative() -> None:
    assert (ROOT / "ukd" / "eval").readlink() == Path("..", "eval")
