"""A million rows of 64 columns, repeats and zeros among them, within a stated memory; Linux tells the peak."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ukd.eval import knn
from ukd.eval.retrieval import classes
from ukd.neighbours import nearest

ROOT = Path(__file__).parents[2]
NUM, DIM = 1_000_000, 64
BUDGET_MB = 160
"""What kNN and retrieval by class may take beside the features, which are 256 MB."""


def peak_mb(task: Callable[[], object]) -> float:
    """What the resident set of this process grows by at most."""
    Path("/proc/self/clear_refs").write_text("5")  # From here on, the peak is that of what follows.
    before = _high_water_mb()
    task()
    return _high_water_mb() - before


def _high_water_mb() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def measure() -> dict[str, object]:
    rng = np.random.default_rng(0)
    bank, labels = rng.standard_normal((NUM, DIM), dtype=np.float32), rng.integers(1000, size=NUM)
    bank[1000:3000], bank[5000:7000] = bank[0], 0
    asked = np.arange(0, NUM, 5000)
    queries = bank[asked], labels[asked]
    nearest(queries[0][:2], bank[:500], 5)  # Libraries load here.
    presets = [knn.PRESETS["dino"], knn.PRESETS["ukd"]]
    return {
        "knn": peak_mb(lambda: knn.evaluate(*queries, bank, labels, presets)),
        "class": peak_mb(lambda: classes.evaluate(*queries, bank, labels, classes.PRESETS["cub"])),
        "lists": nearest(queries[0][:2], bank, 3)[1].tolist(),
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is asked of Linux")
def test_a_million_rows_stay_within_their_memory() -> None:
    command, environment = [sys.executable, __file__], {**os.environ, "PYTHONPATH": str(ROOT)}
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert found["knn"] < BUDGET_MB and found["class"] < BUDGET_MB
    assert found["lists"] == [[0, 1000, 1001], [0, 1, 2]]  # A row with 2,000 repeats, and one of zeros.


if __name__ == "__main__":
    print(json.dumps(measure()))
