"""What the parts of a recipe are made of: numbers and their ranges, the models in it, and how mistakes are told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ukd.errors import UserError


class Problem(NamedTuple):
    """One mistake in a recipe."""

    key: str
    """Dotted key, for example `objective.scale`; empty where it concerns the whole file."""
    message: str
    """What is wrong and what would be right."""


class RecipeError(UserError):
    """A recipe that cannot be run; the message lists every problem, one a line."""

    def __init__(self, path: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [f"  {key}: {message}" if key else f"  {message}" for key, message in problems]
        super().__init__("\n".join([f"{path}: {count}", *lines]))


def ascending(pair: tuple[float, float]) -> tuple[float, float]:
    """Refuse a range that starts at or below zero, or that ends before it starts."""
    low, high = pair
    if not 0 < low <= high:
        raise ValueError(f"must be a range above 0, smaller number first, got [{low:g}, {high:g}]")
    return pair


def gpu_name(name: str) -> str:
    """Refuse what is no GPU's name."""
    if re.fullmatch(r"cuda:\d+", name) is None:
        raise ValueError(f"must be a GPU of its own, such as cuda:1, got {name!r}")
    return name


Positive = Annotated[float, Field(gt=0)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
RGB = Annotated[tuple[Share, Share, Share], Field(strict=False)]
ShareRange = Annotated[tuple[Share, Share], Field(strict=False), AfterValidator(ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], Field(strict=False), AfterValidator(ascending)]


class Part(BaseModel):
    """Base of every part of a recipe: frozen, strict about types, and with no unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class BackboneSpec(Part):
    """A timm model and where its weights come from."""

    arch: str | None = None
    """timm name (`resnet18`, `hf-hub:...`, `local-dir:...`); left out where `weights` says it itself."""
    weights: str | None = None
    """A .safetensors or .pth file of weights, a run folder of this project, or a transformers directory."""
    format: str | None = None
    """Which format the file is (docs/formats.md); left out: found, and printed."""
    features: Literal["pooled", "head"] = "pooled"
    """`head` for what the projection head in a teacher's weights makes of its pooled feature."""
    pretrained: bool = False
    """Take timm's own pretrained weights for `arch`."""
    kwargs: dict[str, Any] = {}
    """Further arguments of `timm.create_model`, for example `channels: [16, 32, 64, 128]`."""
    input_px: PositiveInt | None = None
    """Views are resized to this side, in pixels; left out: a fixed-size model's own size, else the view's."""
    mean: RGB | None = None
    """Normalisation mean of RGB in [0, 1]; left out: what the weights or timm say."""
    std: RGB | None = None
    """Normalisation standard deviation of RGB in [0, 1]; left out: what the weights or timm say."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `build_backbone`."""
        return self.model_dump(include=set(BackboneSpec.model_fields))


class TeacherSpec(BackboneSpec):
    """A frozen teacher, and how it is held; the features stay the same but for their last digits."""

    precision: Literal["run", "bf16", "fp16", "fp32"] = "run"
    """What its weights are held and its features computed in, bank and training alike; `run`: weights in fp32, computed
    as the student's are, and the bank in fp32."""
    chunk: PositiveInt | None = None
    """The most images that pass it at once, to save memory; left out: all, and fewer once a GPU has run out of it."""
    compile: bool = False
    """Compile it (torch.compile) when it first runs: minutes then, faster ever after; `--check` leaves it out."""
    device: Annotated[str, AfterValidator(gpu_name)] | None = None
    """A GPU of its own, such as `cuda:1`; with many processes on a machine the first of its GPUs, in a row."""
    shard: bool = False
    """Spread its weights over the processes (FSDP), for a ViT that does not fit on one GPU."""

    @model_validator(mode="after")
    def _is_held_in_one_way(self) -> TeacherSpec:
        if self.shard and self.device:
            raise ValueError(f"is in pieces on the GPUs of all processes (shard), not on {self.device}; leave one out")
        if self.shard and self.compile:
            raise ValueError("cannot be compiled when it is spread over the processes; choose shard or compile")
        return self
