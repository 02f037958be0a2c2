"""The space in which an objective compares student and teacher: how either gets there, kept beside the student."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ukd.errors import WeightsError
from ukd.files import write_atomically

WEIGHTS, ABOUT, STUDENT = "projector.safetensors", "projector.json", "student.safetensors"
_SIDES = ("student", "teacher")
_LAYERS: dict[str, tuple[str, ...]] = {
    "Linear": ("in_features", "out_features"),
    "BatchNorm1d": ("num_features", "eps"),
    "LayerNorm": ("normalized_shape", "eps"),
    "RMSNorm": ("normalized_shape", "eps"),
    "ReLU": (),
    "GELU": (),
}
"""The layers of `torch.nn` that a projector is made of, with those of their arguments that vary."""
_NEVER_ZERO = 1e-30
"""What keeps the length of a zero vector from dividing it; far below the square of any feature."""


@dataclass(frozen=True)
class Projection:
    """What brings the pooled features of student and teacher to where they are compared; nothing is normalised after.

    Attributes:
        student: [n, D_s] to [n, D], the objective's head; in evaluation mode batch norm has its running statistics.
        teacher: [n, D_t] to [n, D]; empty where student features are brought to the teacher's own.
        codes: Whether nothing counts but the signs: bits that are 1 where a number is at least 0.
    """

    student: nn.Sequential
    teacher: nn.Sequential
    codes: bool = False

    @classmethod
    def of(cls, student: nn.Module, teacher: Iterable[nn.Module] = (), *, codes: bool = False) -> Projection | None:
        """Takes layers of `torch.nn`, in `nn.Sequential` or alone; None where neither side changes anything."""
        sides = nn.Sequential(*_flat(student)), nn.Sequential(*teacher)
        return cls(*sides, codes) if any(map(len, sides)) else None


@dataclass(frozen=True)
class Exported:
    """A projection that was read from its file, frozen and in evaluation mode, and the teacher that it leads to.

    Attributes:
        projection: Itself.
        teacher_sha256: `Backbone.weights_hash` of the teacher.
    """

    projection: Projection
    teacher_sha256: str


def centring(mean: Tensor, scale: Tensor | None = None) -> nn.Module:
    """The layer that takes x [n, D] to (x - mean) * scale, for mean and scale [D]."""
    layer = nn.BatchNorm1d(len(mean), eps=0.0).to(mean)
    with torch.no_grad():
        cast(Tensor, layer.running_mean).copy_(mean)
        if scale is not None:
            layer.weight.copy_(scale)
    return layer


def turning(matrix: Tensor) -> nn.Module:
    """The layer that takes x [n, D] to x @ matrix.T, for a matrix [D', D]."""
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).to(matrix)
    with torch.no_grad():
        layer.weight.copy_(matrix)
    return layer


def to_unit_length(dim: int) -> nn.Module:
    """The layer that scales rows [n, dim] to length 1; rows of zeros stay."""
    layer = nn.RMSNorm(dim, eps=_NEVER_ZERO)
    nn.init.constant_(layer.weight, dim**-0.5)
    return layer


def write_projection(folder: Path, projection: Projection, student_sha256: str, provenance: Mapping[str, Any]) -> None:
    """Writes `projector.safetensors` and `projector.json`, from which each side is an `nn.Sequential` without ukd.

    Args:
        folder: The run folder.
        projection: What is written.
        student_sha256: Hash of the file of the student that it belongs to.
        provenance: Where it comes from; names the teachers.
    """
    sides = {side: cast(nn.Sequential, getattr(projection, side)) for side in _SIDES}
    tensors = {
        f"{side}.{name}": value.detach().cpu().contiguous()
        for side, layers in sides.items()
        for name, value in layers.state_dict().items()
    }
    about = {
        **{side: [_described(layer) for layer in layers] for side, layers in sides.items()},
        "codes": projection.codes,
        "student_sha256": student_sha256,
        "teacher_sha256": provenance["teachers"][0]["weights_sha256"],
        "provenance": dict(provenance),
    }
    write_atomically(folder / WEIGHTS, save(tensors))
    write_atomically(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())


def read_projection(student: Path) -> Exported | None:
    """Reads the projection that lies beside a student; None where there is none.

    Args:
        student: The file of the student's weights.

    Raises:
        WeightsError: It cannot be read, or belongs to another student.
    """
    path = student.with_name(ABOUT)
    if student.name != STUDENT or not path.is_file():
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["student_sha256"] != sha256(student.read_bytes()).hexdigest():
            raise WeightsError(f"{path} belongs to another student than {student}; export both again, or remove it")
        tensors = load_file(path.with_name(WEIGHTS))
        sides = {side: _built(side, about[side], tensors) for side in _SIDES}
        return Exported(Projection(**sides, codes=about["codes"]), about["teacher_sha256"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} and {WEIGHTS} are not those of a run: {type(error).__name__} {reason}") from None


def _flat(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential):
        return [layer for each in module for layer in _flat(each)]
    return [] if isinstance(module, nn.Identity) else [module]


def _described(layer: nn.Module) -> dict[str, Any]:
    """The name of a layer in `torch.nn` and its arguments."""
    name = "BatchNorm1d" if isinstance(layer, nn.SyncBatchNorm) else type(layer).__name__
    bias = {"bias": layer.bias is not None} if isinstance(layer, nn.Linear) else {}
    return {"layer": name, **{argument: getattr(layer, argument) for argument in _LAYERS[name]}, **bias}


def _built(side: str, described: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> nn.Sequential:
    layers = nn.Sequential()
    for each in described:
        arguments = dict(each)
        name = arguments.pop("layer")
        if name not in _LAYERS:
            raise ValueError(f"it has a layer {name!r}; known are {', '.join(_LAYERS)}")
        layers.append(getattr(nn, name)(**arguments))
    own = {name.removeprefix(f"{side}."): value for name, value in tensors.items() if name.startswith(f"{side}.")}
    layers.load_state_dict(own)
    return layers.requires_grad_(False).eval()
