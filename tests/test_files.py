"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from ukd.files import write_atomically


class FullDisk(io.BytesIO):
    """A file on a disk that has room for half of what is written."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def write(self, data: Any) -> int:
        with open(self._path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.open

    def open_(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return FullDisk(path) if path.suffix == ".tmp" else whole(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_)


def test_new_content_replaces_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (b"first", b"", b"third"):
        write_atomically(Path("x.bin"), content)
        assert Path("x.bin").read_bytes() == content
    assert os.listdir() == ["x.bin"]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path, full_disk: None) -> None:
    (tmp_path / "x.bin").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(tmp_path / "x.bin", b"new and long")
    assert (tmp_path / "x.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_content_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda file: (events.append("sync"), sync(file)))
    monkeypatch.setattr(Path, "replace", lambda old, new: (events.append("rename"), replace(old, new)))
    write_atomically(tmp_path / "x.bin", b"new")
    assert events == ["sync", "rename", "sync"]
