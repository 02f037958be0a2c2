"""Where an interrupted probe continues from: one small checkpoint for each model and preset, beside the results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ukd import distributed
from ukd.checkpoint import Checkpoints, State


class Saved:
    """The checkpoints of one command.

    Args:
        folder: Where; None keeps nothing, so that a probe that is interrupted begins anew.
        resume: Continue from what an earlier command left; else it is forgotten.
    """

    def __init__(self, folder: Path | None, resume: bool) -> None:
        self._folder = folder
        self._resume = resume
        self._used: list[Path] = []

    def of(self, key: Mapping[str, Any]) -> SavedProbe | None:
        """The checkpoint of one probe.

        Args:
            key: All that its figures depend on, as JSON values.
        """
        if self._folder is None:
            return None
        folder = self._folder / sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        self._used.append(folder)
        if not self._resume:
            _remove([folder])
        return SavedProbe(folder)

    def clear(self) -> None:
        """Remove the checkpoints: the results are written."""
        _remove(self._used)
        if distributed.is_main() and self._folder and self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()


class SavedProbe:
    """The newest state of one probe.

    Args:
        folder: Its own.
    """

    def __init__(self, folder: Path) -> None:
        self._checkpoints = Checkpoints(folder, keep=1)

    def latest(self) -> State | None:
        """What was saved last; None where nothing was."""
        return self._checkpoints.load_latest()

    def save(self, step: int, state: State) -> None:
        """Keep the state before `step`, once for all processes.

        Raises:
            RunFolderError: The disk is full or not writable.
        """
        if distributed.is_main():
            self._checkpoints.save(step, state)
        distributed.barrier()


def _remove(folders: list[Path]) -> None:
    if distributed.is_main():
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    distributed.barrier()
