"""Reading files of weights: without running what is in them, and without believing what they say of their size."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ukd.errors import WeightsError

EXPORTS = ("student.safetensors", "teacher.safetensors")
"""What a finished or running run folder holds: a distilled student or a pretrained teacher."""
TRANSFORMERS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""What a Hugging Face transformers directory holds beside its config.json."""
_WRAPPERS = {"module", "_orig_mod"}
"""Modules that DataParallel, DistributedDataParallel, averaged models and torch.compile put around others."""
_SCALAR = np.float64().__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8")),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""Beyond tensors and plain values, what official checkpoints hold and what does nothing when it is made: the options
of a run (DINO, iBOT, MAE, CompRess, SimReg) and learning rates as numpy scalars (DINO, iBOT)."""


@dataclass(frozen=True)
class Stored:
    """What a file of weights holds, read but not yet understood.

    Attributes:
        path: The file.
        tree: Its content: tensors and plain values in mappings of mappings.
        info: The .json beside it, as beside our exports; empty where there is none.
        config: Of a transformers directory its config.json, and what preprocessor_config.json adds; else empty.
    """

    path: Path
    tree: Mapping[str, Any]
    info: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def keys(self) -> frozenset[str]:
        """Names at the top of the file and of the .json that goes with it."""
        return frozenset(map(str, [*self.tree, *self.info, *self.config]))

    def tensors(self, container: str) -> dict[str, Tensor] | None:
        """The tensors under a dotted path into the tree, `""` for the tree itself, with dotted names.

        Names lose the segments that wrappers such as DistributedDataParallel put into them. None where there is no such
        mapping, or where it holds anything but tensors.
        """
        held: Any = self.tree
        for key in filter(None, container.split(".")):
            held = held.get(key) if isinstance(held, Mapping) else None
        leaves = _leaves(held) if isinstance(held, Mapping) else {}
        plain = {_unwrapped(name): value for name, value in leaves.items()}
        if not leaves or len(plain) < len(leaves) or not all(isinstance(value, Tensor) for value in plain.values()):
            return None
        return plain


def find_weights(path: str | Path) -> Path:
    """Resolves a run folder or a transformers directory to its file of weights; a file stands for itself.

    Raises:
        WeightsError: Nothing there, or a folder of neither kind.
    """
    path = Path(path)
    if path.is_dir():
        for name in (*EXPORTS, *(TRANSFORMERS if (path / "config.json").is_file() else ())):
            if (path / name).is_file():
                return path.joinpath(name)
        raise WeightsError(
            f"weights: the folder {path} holds neither {' nor '.join(EXPORTS)}, nor config.json with "
            f"{TRANSFORMERS[0]}; is it a run folder, or a transformers directory?"
        )
    if not path.is_file():
        raise WeightsError(f"weights: {path} does not exist (looked in {Path.cwd()})")
    return path


def read(path: Path) -> Stored:
    """Reads a .safetensors or torch file. No code in the file is ever run, and no size in it believed.

    Raises:
        WeightsError: Not such a file, damaged, one that needs code to be run, or one that declares more than it holds.
    """
    config = {}
    if path.name in TRANSFORMERS:
        config = _json(path.with_name("preprocessor_config.json")) | _json(path.with_name("config.json"))
    return Stored(path, _tree(path), read_info(path), config)


def read_info(weights: Path) -> dict[str, Any]:
    """Reads the .json that lies beside a file of weights, as it does beside our exports; empty where there is none."""
    return _json(weights.with_suffix(".json"))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"weights: {path} is no JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def _tree(path: Path) -> Mapping[str, Any]:
    try:
        if path.name.endswith(".index.json"):
            return _shards(path)
        stored: Any = load_file(path) if path.suffix == ".safetensors" else _load_torch(path)
    except pickle.UnpicklingError as error:
        # torch's own words advise the reader to switch the safety off, and say so of plain text too.
        code = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if code is None:
            raise WeightsError(f"weights: {path} cannot be read: damaged, or no file of weights") from None
        raise WeightsError(
            f"weights: {path} is refused: loading it would run code stored in the file ({code[1]}). {_instead(path)}"
        ) from None
    except (SafetensorError, zipfile.BadZipFile, RuntimeError, OSError, EOFError) as error:
        raise WeightsError(f"weights: {path} cannot be read: {_first_line(error)}") from None
    except (LookupError, TypeError, ValueError, AttributeError, MemoryError) as error:
        raise WeightsError(
            f"weights: {path} cannot be read: damaged, or no file of weights ({type(error).__name__})"
        ) from None
    if not isinstance(stored, Mapping):
        raise WeightsError(f"weights: {path} holds no plain set of named tensors (found {type(stored).__name__})")
    _check_sizes(path, stored)
    return stored


def _instead(path: Path) -> str:
    """What to load in place of a file that needs code; the names in it tell which library wrote it."""
    try:
        code = get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []
    except pickle.UnpicklingError:
        code = []
    if any(name.startswith("lightly_train.") for name in code):
        # Its own classes, and those of any model (lightly-ai/lightly-train:src/lightly_train/_checkpoint.py).
        return (
            "lightly-train keeps whole models in its checkpoints; take exported_models/exported_last.pt of the same "
            "run, or what lightly_train.export(out=..., checkpoint=..., format='torch_state_dict') makes of this file"
        )
    return "Where you trust it, load it yourself and save its tensors alone: torch.save(model.state_dict(), ...)"


def _load_torch(path: Path) -> Any:
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        _check_archive(path)
    elif path.open("rb").read(4) == b"PK\x03\x04":
        raise WeightsError(f"weights: {path} cannot be read: cut short, its end is missing; download or copy it anew")
    with safe_globals(_HARMLESS):
        return torch.load(path, "cpu", weights_only=True, mmap=is_archive)


def _check_archive(path: Path) -> None:
    """Refuses an archive that would unpack to more than its size: torch never packs."""
    with zipfile.ZipFile(path) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
    size = path.stat().st_size
    if declared > size:
        raise WeightsError(
            f"weights: {path} is refused: its {size:,} bytes declare {declared:,} once unpacked, as a zip bomb does; "
            "torch packs nothing"
        )


def _check_sizes(path: Path, stored: Mapping[str, Any]) -> None:
    """Refuses tensors that declare more numbers than are stored, as a stride of zero does."""
    for name, value in _leaves(stored).items():
        if not isinstance(value, Tensor):
            continue
        if value.layout != torch.strided or value.is_quantized:
            raise WeightsError(f"weights: {path}: {name} is sparse or quantised; store plain numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise WeightsError(
                f"weights: {path} is refused: {name} declares {value.numel():,} numbers and the file does not hold them"
            )


def _shards(index: Path) -> Mapping[str, Any]:
    """Reads the shards that an index names; they lie beside it."""
    names = sorted(set(_json(index)["weight_map"].values()))
    if any(Path(name).name != name for name in names):
        raise WeightsError(f"weights: {index} is refused: it names files outside its folder")
    return {key: value for name in names for key, value in load_file(index.with_name(name)).items()}


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Everything in a tree of mappings that is no mapping, by dotted name; a mapping met twice counts once."""
    found: dict[str, Any] = {}
    met: set[int] = set()
    rest: list[tuple[str, Mapping[str, Any]]] = [("", tree)]
    while rest:
        prefix, mapping = rest.pop()
        if id(mapping) in met:
            continue
        met.add(id(mapping))
        for key, value in mapping.items():
            if isinstance(value, Mapping):
                rest.append((f"{prefix}{key}.", value))
            else:
                found[f"{prefix}{key}"] = value
    return found


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
