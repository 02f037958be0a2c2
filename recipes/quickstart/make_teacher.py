"""Writes the quickstart's teacher, in fp16 and with its log, from the run folder of its pretraining.

python recipes/quickstart/make_teacher.py runs/fashion_mnist_simclr
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def main(run: str) -> None:
    """Write teacher.safetensors, teacher.json and teacher_metrics.jsonl beside this file."""
    here = Path(__file__).parent
    weights = load_file(Path(run) / "teacher.safetensors")
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(half, here / "teacher.safetensors")
    shutil.copyfile(Path(run) / "teacher.json", here / "teacher.json")
    shutil.copyfile(Path(run) / "metrics.jsonl", here / "teacher_metrics.jsonl")


if __name__ == "__main__":
    main(*sys.argv[1:])
