"""Arrays that were computed from a bank once, in a file beside it that says of what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ukd import distributed
from ukd.blocks import ABOUT
from ukd.files import write_atomically
from ukd.store import StoreError, digest_of

Arrays = dict[str, npt.NDArray[Any]]


def kept(path: Path, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    """Reads arrays from a file that holds them whole and of the same key; else all processes compute them anew.

    Args:
        path: The file, which all processes must see.
        key: All that the arrays depend on, as JSON values.
        compute: Called in every process or in none; each gives the same.

    Raises:
        StoreError: The file cannot be written.
    """
    found = _read(path, digest_of(key))
    if not distributed.any_process(found is None):
        assert found is not None
        return found
    arrays = {name: np.ascontiguousarray(array) for name, array in compute().items()}
    failure = None
    if distributed.is_main():
        about = {"key": key, "sha256": _checksum(arrays)}
        try:
            write_atomically(path, save(arrays, {ABOUT: json.dumps(about)}))
        except OSError as error:
            failure = StoreError(f"features: cannot write {path}: {error.strerror}")
    if distributed.any_process(failure is not None):
        raise failure or StoreError(f"features: {path} cannot be written by another process")
    return arrays


def _read(path: Path, digest: str) -> Arrays | None:
    """The arrays, or None where there are none, others, or damaged ones."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()[ABOUT])
            if digest_of(about["key"]) != digest:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping.
        return arrays if _checksum(arrays) == about["sha256"] else None
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError):
        return None


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
