"""A world small enough to train in: a few images, a teacher of some thousand weights, and a recipe of seconds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone
from ukd.cli.schema import options_for
from ukd.data import Pixels, split_holdout
from ukd.recipe import DistillRecipe, PretrainRecipe
from ukd.recipe_file import load
from ukd.recipe_yaml import write

NUM_IMAGES, NUM_HOLDOUT, NUM_CLASSES, SIZE_PX = 160, 16, 4, 24
NUM_TRAINING = NUM_IMAGES - NUM_HOLDOUT
TRAINING, HOLDOUT = split_holdout(NUM_IMAGES, NUM_HOLDOUT)
TEACHER: dict[str, Any] = {"arch": "resnet10t", "kwargs": {"channels": [8, 16, 32, 64], "stem_width": 8}}
STUDENT: dict[str, Any] = {"arch": "resnet10t", "kwargs": {"channels": [8, 8, 16, 32], "stem_width": 8}}
NORMLESS: dict[str, Any] = {"arch": "test_vit", "kwargs": {"img_size": SIZE_PX, "patch_size": 8}}
"""A student whose batch statistics are nobody's: many processes then train it as one does."""
VIT: dict[str, Any] = {"arch": "test_vit", "kwargs": {"img_size": SIZE_PX, "patch_size": 6, "num_heads": 4}}
"""A teacher with more heads and finer patches than that student."""


@dataclass(frozen=True)
class World:
    """Where its parts lie.

    Attributes:
        folder: Holds everything below, and nothing that a test writes.
        images: Folder of JPEG files in two folders.
        arrays: The same number of images as .npz, with labels.
        teacher: Folder of the teacher's export.
        vit: Folder of the export of a teacher that is a ViT.
    """

    folder: Path
    images: Path
    arrays: Path
    teacher: Path
    vit: Path

    def distillation(self, output: Path, **changes: Any) -> dict[str, Any]:
        """A recipe as it stands in YAML; 27 steps of 16 images."""
        return {
            **self._common(output),
            "teacher": {"weights": str(self.teacher)},
            "student": STUDENT,
            "objective": {"name": "coss", "scale": 1.0, "hidden_dim": 64},
            **changes,
        }

    def pretraining(self, output: Path, **changes: Any) -> dict[str, Any]:
        """A recipe as it stands in YAML; 30 steps of 16 images."""
        objective = {"name": "simclr", "hidden_dim": 32}
        return {
            **self._common(output),
            "backbone": STUDENT,
            "optimizer": {"lr": 0.05},
            "objective": objective,
            **changes,
        }

    def _common(self, output: Path) -> dict[str, Any]:
        return {
            "output": str(output),
            "device": "cpu",
            "data": {"train": str(self.arrays), "num_workers": 0},
            "views": {"size_px": SIZE_PX, "crop_pct": 1.0, "crop_scale": [0.5, 1.0]},
            "batch_size": 16,
            "epochs": 3.0,
            "optimizer": {"lr": 0.2},
            "monitor": {"k": 4, "holdout_images": NUM_HOLDOUT},
            "log_every_steps": 3,
        }


def make_world(folder: Path) -> World:
    """Makes the images and the teacher."""
    world = World(folder, folder / "images", folder / "arrays.npz", folder / "teacher", folder / "vit")
    labels = np.arange(NUM_IMAGES) % NUM_CLASSES
    pixels = _pixels(labels)
    np.savez(world.arrays, images=pixels, labels=labels)
    for number, each in enumerate(pixels):
        path = image_path(world.images, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path, quality=95)
    for teacher, spec in ((world.teacher, TEACHER), (world.vit, VIT)):
        teacher.mkdir()
        export_backbone(teacher, "teacher", build_backbone(**spec, size_px=SIZE_PX, crop_pct=1.0, seed=1), {})
    return world


def image_path(images: Path, number: int) -> Path:
    """Where image `number` of the folder lies; sorted paths are in the order of the numbers."""
    return images / f"{2 * number // NUM_IMAGES}" / f"{number:03d}.jpg"


def write_recipe(path: Path, raw: dict[str, Any]) -> Path:
    """Writes a recipe file."""
    path.write_text(write(raw))
    return path


def parse(raw: dict[str, Any]) -> DistillRecipe:
    """Checks a recipe as the command does."""
    path = write_recipe(Path(raw["output"]).with_suffix(".yaml"), raw)
    return load(path, [], DistillRecipe, options_for(DistillRecipe))


def parse_pretraining(raw: dict[str, Any]) -> PretrainRecipe:
    """Checks a recipe as the command does."""
    path = write_recipe(Path(raw["output"]).with_suffix(".yaml"), raw)
    return load(path, [], PretrainRecipe, options_for(PretrainRecipe))


def metrics(run: Path, name: str) -> dict[int, float]:
    """A figure of the run by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def checkpoints(run: Path) -> list[str]:
    """Names of the checkpoints, oldest first."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def state_hash(run: Path) -> str:
    """sha256 over the exported student, its projector and every tensor of the newest checkpoint."""
    exports = sorted(run.glob("*.safetensors"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in exports))
    state = torch.load(run / "checkpoints" / checkpoints(run)[-1], weights_only=True)
    for path, value in sorted(_leaves(state, "")):
        digest.update(f"{path}={value.tolist() if isinstance(value, torch.Tensor) else value}\n".encode())
    return digest.hexdigest()


def student_weights(run: Path) -> dict[str, torch.Tensor]:
    """The exported student's tensors."""
    return load_file(run / "student.safetensors")


def _leaves(tree: Any, path: str) -> list[tuple[str, Any]]:
    if not isinstance(tree, dict | list):
        return [(path, tree)]
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [leaf for key, value in items for leaf in _leaves(value, f"{path}/{key}")]


def _pixels(labels: np.ndarray[Any, Any]) -> Pixels:
    """Noisy waves: each class has a direction and a colour."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] / SIZE_PX
    angle = np.pi * labels / NUM_CLASSES + rng.normal(0, 0.15, len(labels))
    phase, pitch = rng.uniform(0, 6, (2, len(labels), 1, 1))
    across = x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]
    wave = np.sin((8 + pitch) * across + phase)[..., None]
    colour = np.eye(4)[labels][:, None, None, :3] + rng.uniform(0, 0.5, (len(labels), 1, 1, 3))
    noise = rng.normal(0, 10, (len(labels), SIZE_PX, SIZE_PX, 3))
    pixels: Pixels = np.clip(128 + 80 * wave * colour + noise, 0, 255).astype(np.uint8)
    return pixels
