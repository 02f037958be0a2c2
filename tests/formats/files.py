"""Originals on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.formats import convolutional, dinos, huggingface, libraries, models, students, vits
from tests.formats.originals import Original

MODULES = (convolutional, dinos, huggingface, libraries, models, students, vits)
"""Importing them fills `originals.ORIGINALS`."""


def save(file: Original, folder: Path) -> Path:
    """Saves an original as its own code does; what a recipe would name."""
    if "model_type" in file.config:
        (folder / "config.json").write_text(json.dumps(file.config))
        save_file({name: value.contiguous() for name, value in file.tree.items()}, folder / "model.safetensors")
        return folder
    path = folder / "x.pth"
    torch.save(file.tree, path)
    if file.config:
        path.with_suffix(".json").write_text(json.dumps(file.config))
    return path
