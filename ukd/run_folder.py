"""The run folder: one run, and never two in the same place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ukd import distributed, recipe_file
from ukd.checkpoint import Checkpoints, State
from ukd.errors import RunFolderError
from ukd.files import write_atomically
from ukd.objectives import options_models
from ukd.recipe import RunRecipe

FREE_ON_RESUME = frozenset(
    {
        *("output", "device", "data.num_workers", "data.root", "data.download"),
        *(f"teacher.{key}" for key in ("chunk", "compile", "device", "shard")),
        *("log_every_steps", "monitor.every_epochs", "monitor.k", "checkpoint"),
    }
)
"""Keys that a resumed run may set anew; of them only `device` and how the teacher is held
can change the weights, by their rounding and precision."""


def check_free(recipe: RunRecipe, resume: bool) -> None:
    """Refuses a run folder that holds something else; writes nothing.

    Raises:
        RunFolderError: The folder holds another run, this one while `resume` is off, or other files.
    """
    folder, stored = Path(recipe.output), Path(recipe.output) / "recipe.yaml"
    if not stored.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderError(f"run folder: {folder} is not empty and holds no run; name another with output=FOLDER")
        return
    if not resume:
        raise RunFolderError(
            f"run folder: {folder} already holds a run; continue it with --resume, or name another with output=FOLDER"
        )
    before = recipe_file.load(stored, [], type(recipe), options_models())
    keys = _differences(before.model_dump(), recipe.model_dump())
    if keys:
        raise RunFolderError(
            f"run folder: {folder} holds the run of another recipe, which --resume would mix with this one; "
            f"they differ in {', '.join(keys)}"
        )


def claim(recipe: RunRecipe) -> None:
    """Makes the folder and writes the resolved recipe into it, once for all processes.

    Raises:
        RunFolderError: The disk is full or not writable.
    """
    folder = Path(recipe.output)
    if distributed.is_main():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for half_written in folder.rglob(".*.tmp"):  # By a run that was killed.
                half_written.unlink()
            write_atomically(folder / "recipe.yaml", recipe_file.dump(recipe).encode())
        except OSError as error:
            raise RunFolderError(f"run folder: cannot write {folder}: {error.strerror}") from None
    distributed.barrier()


def latest_state(recipe: RunRecipe) -> State | None:
    """Reads the newest whole checkpoint of the run; None where there is none yet."""
    return Checkpoints(Path(recipe.output), recipe.checkpoint.keep).load_latest()


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name in before:
        key = f"{prefix}{name}"
        if key in FREE_ON_RESUME:
            continue
        if isinstance(before[name], dict) and isinstance(now[name], dict) and name != "kwargs":
            keys += _differences(before[name], now[name], f"{key}.")
        elif before[name] != now[name]:
            keys.append(f"{key} ({before[name]} there, {now[name]} here)")
    return keys
