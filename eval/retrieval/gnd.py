"""Reading the ground truth of the revisited landmarks, a pickle, without running what a pickle may run.

A pickle names functions and calls them. Here the few names that NumPy's arrays of numbers need are met by stand-ins
that hold data; any other name is refused. NumPy's own classes are not called either: they trust what a pickle says of
their memory.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ukd.errors import DataError

NUMBERS = frozenset("biuf")
"""Kinds of dtype that an array may have: truth values, whole numbers, floats."""


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of {self.dtype}, not of numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for numpy.ndarray."""

    value: np.ndarray[Any, Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, column_major, data = state
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        self.value = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if column_major else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _frombuffer(data: bytes, kind: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _scalar(kind: _Dtype, data: bytes | str) -> Any:
    return np.frombuffer(_encode(data, "latin1"), kind.dtype)[0]


def _encode(text: bytes | str, _: str) -> bytes:
    return text.encode("latin1") if isinstance(text, str) else text


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda: b"",
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only lists, dicts, text and numbers are read")
        return stand_in


def read_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists, text, numbers and arrays of numbers.

    Raises:
        DataError: No such file, not a pickle, or one that holds anything else.
    """
    try:
        return _plain(_Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load())
    except OSError as error:
        raise DataError(f"data: cannot read {path}: {error.strerror}") from None
    except Exception as error:  # Of any type: it depends on which byte is damaged.
        raise DataError(f"data: {path} cannot be read: {error}") from None


def _plain(value: Any) -> Any:
    """Put arrays where their stand-ins are."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
