"""Checkpoints, which hold all that exact resume needs, and the export, which holds a bare timm backbone."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ukd.backbones import Backbone
from ukd.errors import RunFolderError
from ukd.files import write_atomically
from ukd.projection import ABOUT, Projection, write_projection

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of a run: `checkpoints/step-*.ckpt`, written atomically, the newest few kept.

    Args:
        run: The run folder.
        keep: How many are kept.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self._folder = run / "checkpoints"
        self._keep = keep

    def save(self, step: int, state: State) -> None:
        """Writes the state of the run before `step`, then removes the oldest checkpoints.

        Raises:
            RunFolderError: The disk is full or not writable; the checkpoints before this one are untouched.
        """
        buffer = io.BytesIO()
        torch.save({"step": step, **state}, buffer)
        path = self._folder / f"step-{step:09d}.ckpt"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, buffer.getvalue())
        except OSError as error:
            before = self._paths()
            kept = f"the checkpoint before it, {before[-1]}, is untouched" if before else "there is none before it"
            raise RunFolderError(f"checkpoint: cannot write {path}: {error.strerror}; {kept}") from None
        for old in self._paths()[: -self._keep]:
            old.unlink()

    def load_latest(self) -> State | None:
        """Reads the newest checkpoint that is whole, with a warning for each damaged one; None where there is none.

        Raises:
            RunFolderError: There are checkpoints, and none can be read.
        """
        damaged: list[str] = []
        for path in reversed(self._paths()):
            try:
                return _read(path)
            except Exception as error:  # Of any type: it depends on which byte is damaged.
                damaged.append(f"{path}: {(str(error).splitlines() or [type(error).__name__])[0]}")
                warnings.warn(f"damaged checkpoint passed over: {damaged[-1]}", stacklevel=2)
        if damaged:
            raise RunFolderError("checkpoint: none in this run can be read:\n  " + "\n  ".join(damaged))
        return None

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.ckpt"))


def _read(path: Path) -> State:
    """Reads a checkpoint whose every byte is as it was written; torch itself does not look at the checksums."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} is not what was written")
    state: State = torch.load(path, "cpu", weights_only=True)
    return state


def export_backbone(
    run: Path, name: str, backbone: Backbone, provenance: dict[str, Any], projection: Projection | None = None
) -> None:
    """Writes NAME.safetensors, the bare timm model's state dict, and NAME.json, how to build and feed it.

    What was trained with it to compare it with its teacher lies beside it, in `projector.safetensors` and
    `projector.json`; of another student it never does, whenever the run is killed.

    Args:
        run: The run folder.
        name: `student` or `teacher`.
        backbone: What is exported.
        provenance: Where it comes from: data, teacher, versions, step.
        projection: The objective's, where it has one.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.model.state_dict().items()}
    info = {
        **backbone.info.as_json(),
        "feature": "pooled",
        "dim": backbone.dim,
        "num_parameters": backbone.num_parameters,
        "provenance": provenance,
    }
    weights = save(tensors)
    (run / ABOUT).unlink(missing_ok=True)
    write_atomically(run / f"{name}.safetensors", weights)
    write_atomically(run / f"{name}.json", (json.dumps(info, indent=2) + "\n").encode())
    if projection:
        write_projection(run, projection, sha256(weights).hexdigest(), provenance)
