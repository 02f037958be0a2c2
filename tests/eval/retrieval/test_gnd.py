"""The pickle reader: plain data in every protocol, and nothing else."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ukd.errors import DataError
from ukd.eval.retrieval.gnd import read_pickle

GROUND_TRUTH = {
    "imlist": ["all_souls_000013", "oxford_002985"],
    "gnd": [
        {
            "bbx": [136.5, 34.1, 648.5, 955.7],
            "easy": np.array([1, 0]),
            "hard": np.array([], dtype=np.int64),
            "junk": np.array([1], dtype=">i4"),
        }
    ],
    "numbers": (np.float64(2.5), np.asfortranarray(np.arange(6.0).reshape(2, 3)), None, True),
}


class Harm:
    """Runs a command where it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return bool(np.array_equal(left, right)) and left.dtype == right.dtype
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps(GROUND_TRUTH, protocol))
    assert equal(GROUND_TRUTH, read_pickle(path))


def test_names_of_older_and_newer_numpy_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "gnd.pkl"
    data = pickle.dumps(GROUND_TRUTH, 2)
    assert b"numpy._core.multiarray" in data
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert equal(GROUND_TRUTH, read_pickle(path))


def test_text_of_python_2_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(b"(dp0\nS'imlist'\np1\n(lp2\nS'all_souls_000013'\np3\nas.")
    assert read_pickle(path) == {"imlist": ["all_souls_000013"]}


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (Harm(os.system, "touch harmed"), "system; only lists, dicts, text and numbers are read"),
        (Harm(eval, "open('harmed', 'w')"), "eval; only lists"),
        (Harm(getattr, "text", "upper"), "getattr; only lists"),
        (np.array([Harm(os.system, "touch harmed")], dtype=object), "an array of object, not of numbers"),
        (np.zeros(2, dtype=[("a", "i4"), ("b", "O")]), "not of numbers"),
        (np.array(["text"]), "not of numbers"),
        (Path("/"), "PosixPath; only lists"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_anything_else_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Any, named: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "gnd.pkl"
    path.write_bytes(pickle.dumps({"gnd": [harm]}, protocol))
    with pytest.raises(DataError, match=rf"gnd\.pkl cannot be read: .*{named}"):
        read_pickle(path)
    assert not (tmp_path / "harmed").exists()


def test_object_pointers_dressed_as_numbers_are_refused(tmp_path: Path) -> None:
    # The dtype's own flags, which NumPy believes, are altered so that raw bytes would be taken for objects.
    data = pickle.dumps(np.array([1], dtype=np.int64), 2)
    path = tmp_path / "gnd.pkl"
    path.write_bytes(data.replace(b"i8", b"O8"))
    with pytest.raises(DataError, match="an array of object"):
        read_pickle(path)


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps(GROUND_TRUTH)[:-40]])
def test_what_is_no_pickle_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "gnd.pkl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"gnd\.pkl cannot be read"):
        read_pickle(path)
    with pytest.raises(DataError, match=r"cannot read .*nowhere: No such file"):
        read_pickle(tmp_path / "nowhere")
