"""Files of weights: reading them without running their code, and loading them strictly."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ukd.errors import WeightsError

EXPORTS = ("student.safetensors", "teacher.safetensors")
"""What a finished or running run folder holds: a distilled student or a pretrained teacher."""
_CONTAINERS = ("state_dict", "model")


def find_weights(path: str | Path) -> Path:
    """Resolves a run folder to its exported weights; a file stands for itself.

    Raises:
        WeightsError: Nothing there, or a folder without an export.
    """
    path = Path(path)
    if path.is_dir():
        for name in EXPORTS:
            if (path / name).is_file():
                return path / name
        raise WeightsError(f"weights: the folder {path} holds neither {' nor '.join(EXPORTS)}; is it a run folder?")
    if not path.is_file():
        raise WeightsError(f"weights: {path} does not exist (looked in {Path.cwd()})")
    return path


def read_info(weights: Path) -> dict[str, Any]:
    """Reads the .json that lies beside a file of weights, as it does beside our exports; empty where there is none."""
    sidecar = weights.with_suffix(".json")
    if not sidecar.is_file():
        return {}
    info = json.loads(sidecar.read_text())
    return info if isinstance(info, dict) else {}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads named tensors from a .safetensors or torch file. No code in the file is ever run.

    Torch files may hold the tensors directly or under `state_dict` or `model`; a `module.` that DistributedDataParallel
    put before every name is taken off.

    Raises:
        WeightsError: Not such a file, damaged, or one that needs code to be run for loading.
    """
    try:
        stored: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise the reader to switch the safety off, and say so of plain text too.
        code = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if code is None:
            raise WeightsError(f"weights: {path} cannot be read: damaged, or no file of weights") from None
        raise WeightsError(
            f"weights: {path} is refused: loading it would run code stored in the file ({code[1]}). Where you trust "
            "it, load it yourself and save its tensors alone: torch.save(model.state_dict(), ...)"
        ) from None
    except (SafetensorError, RuntimeError, OSError, EOFError, LookupError, TypeError, ValueError) as error:
        raise WeightsError(f"weights: {path} cannot be read: {_first_line(error)}") from None
    for name in _CONTAINERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(name), Mapping):
            stored = stored[name]
            break
    tensors = stored if isinstance(stored, Mapping) else {}
    strangers = [str(name) for name, value in tensors.items() if not isinstance(value, Tensor)]
    if not tensors or strangers:
        held = ", ".join(strangers[:5]) or type(stored).__name__
        raise WeightsError(f"weights: {path} holds no plain set of named tensors (found {held})")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return dict(tensors)


def load_strictly(
    model: nn.Module, state: Mapping[str, Tensor], *, source: Path, arch: str, classifiers: Sequence[str]
) -> None:
    """Loads a backbone's weights, every one of them; only the classifier's own are left behind.

    Args:
        model: The backbone, without a classifier.
        state: Named tensors.
        source: The file, for the message.
        arch: The architecture, for the message.
        classifiers: Names of the classifier modules whose weights the file may have beyond the backbone's.

    Raises:
        WeightsError: Names the missing and unexpected keys, and the shapes that differ.
    """
    wanted = model.state_dict()
    left_behind = tuple(f"{name}." for name in classifiers)
    given = {key: value for key, value in state.items() if key in wanted or not key.startswith(left_behind)}
    problems = [
        f"missing {_some([key for key in wanted if key not in given])}" if wanted.keys() - given.keys() else "",
        f"unexpected {_some([key for key in given if key not in wanted])}" if given.keys() - wanted.keys() else "",
    ]
    shapes = [
        f"{key} is {list(given[key].shape)} where {list(wanted[key].shape)} is wanted"
        for key in wanted
        if key in given and given[key].shape != wanted[key].shape
    ]
    problems.append(f"other shapes {_some(shapes)}" if shapes else "")
    found = [problem for problem in problems if problem]
    if found:
        raise WeightsError(f"weights: {source} does not fit {arch}:\n  " + "\n  ".join(found))
    model.load_state_dict(given, strict=True)


def _some(names: list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"({len(names)}): {shown}" + (", ..." if len(names) > most else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
