"""A recipe: one YAML file, one run. Frozen, typed, complete: every default stands here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ukd.recipe_parts import (
    BackboneSpec,
    NonNegative,
    Part,
    Positive,
    PositiveInt,
    PositiveRange,
    Problem,
    RecipeError,
    Share,
    ShareRange,
    TeacherSpec,
)

__all__ = [
    "BackboneSpec",
    "DataSpec",
    "DistillRecipe",
    "ObjectiveSpec",
    "Part",
    "PositiveInt",
    "PretrainRecipe",
    "Problem",
    "RecipeError",
    "RunRecipe",
    "TeacherSpec",
    "ViewSpec",
    "objective_list",
]


def objective_list(value: Any) -> Any:
    """Spell `coss`, `{name: coss, lam: 0.5}` or a list of either as a list of mappings."""
    entries = value if isinstance(value, list) else [value]
    if not entries or not all(isinstance(entry, str | Mapping | BaseModel) for entry in entries):
        raise ValueError("must be an objective's name, a mapping with name and options, or a list of these")
    return [{"name": entry} if isinstance(entry, str) else entry for entry in entries]


class DataSpec(Part):
    """Images. A source is a folder, a .npz or .npy file, or `torchvision:NAME:SPLIT`."""

    train: str
    """Training images; their labels, if they have any, are never read."""
    labelled_train: str | None = None
    """Labelled images that serve as the kNN bank of the evaluation; never trained on."""
    labelled_test: str | None = None
    """Labelled images that serve as the kNN queries of the evaluation."""
    root: str = "data"
    """Folder of torchvision data sets."""
    download: bool = False
    """Let torchvision download a missing data set."""
    num_workers: Annotated[int, Field(ge=0)] | None = None
    """Loader processes on each rank; left out: the processor cores of this rank, 8 at most."""


class ViewSpec(Part):
    """Augmentation. The defaults are MoCo v2's (Chen et al. 2020, arXiv:2003.04297), as in CoSS."""

    size_px: PositiveInt = 224
    """Side of a training view and of an evaluation image, in pixels."""
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Evaluation: the shorter side is resized to size_px / crop_pct, then the centre is cut (timm's term)."""
    crop_scale: ShareRange = (0.2, 1.0)
    """Random resized crop: range of the crop's share of the image area."""
    flip_prob: Share = 0.5
    jitter_prob: Share = 0.8
    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    gray_prob: Share = 0.2
    blur_prob: Share = 0.5
    blur_sigma: PositiveRange = (0.1, 2.0)
    """Range of the Gaussian blur's standard deviation, in pixels of a 224-pixel view; scales with size_px."""
    num_small: Annotated[int, Field(ge=0)] = 0
    """Small crops of each image, for objectives that use them (SEED's small patches, DINO's local crops)."""
    small_px: PositiveInt = 96
    """Side of a small crop, in pixels."""
    small_crop_scale: ShareRange = (0.05, 0.2)
    """Small crops: range of the crop's share of the image area."""
    mixup_prob: Share = 0.0
    """Probability that a batch is mixed by MixUp, teacher and student seeing the same mixed pixels."""
    cutmix_prob: Share = 0.0
    """The same for CutMix; both together at most 1."""

    @model_validator(mode="after")
    def _probabilities_add_up(self) -> ViewSpec:
        if self.mixup_prob + self.cutmix_prob > 1:
            raise ValueError(
                f"mixup_prob {self.mixup_prob:g} and cutmix_prob {self.cutmix_prob:g} must be at most 1 together"
            )
        return self


class ObjectiveSpec(Part):
    """One objective: its name, its weight in the sum, and its own options beside them."""

    model_config = ConfigDict(extra="allow")

    name: str
    weight: Positive = 1.0

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the objective's constructor."""
        return dict(self.__pydantic_extra__ or {})


Objectives = Annotated[list[ObjectiveSpec], BeforeValidator(objective_list)]


class NeighbourSpec(Part):
    """Batches in which every anchor is followed by images near it in teacher space (arXiv:2409.13939)."""

    k: PositiveInt = 15
    """Neighbours that follow each anchor in the batch."""
    nearest: PositiveInt = 31
    """They are drawn from this many nearest ones."""
    max_cosine: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Near-copies, whose cosine similarity to the anchor exceeds this, are left out first; 1 leaves none out."""


class OptimizerSpec(Part):
    """Optimizer and learning rate; `lr` is for the global batch as it stands, never rescaled."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: Positive = 0.03
    weight_decay: NonNegative = 1e-4
    final_weight_decay: NonNegative | None = None
    """Reached at the end along a half cosine, as in DINO; left out: the weight decay stays as it is."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD and LARS, or AdamW's first beta."""
    warmup_epochs: NonNegative = 0.0
    """Linear warm-up from zero; the cosine to zero follows."""


class MonitorSpec(Part):
    """What is measured during training, without labels unless `data` names labelled images."""

    every_epochs: Positive = 1.0
    holdout_images: PositiveInt = 1000
    """Images held out of a distillation for the overlap with the teacher and RankMe; at most a tenth of the data."""
    k: PositiveInt = 20
    """Neighbours compared between teacher and student."""


class CheckpointSpec(Part):
    """When the whole state of the run is saved."""

    every_epochs: Positive = 1.0
    keep: PositiveInt = 2
    """Newest checkpoints kept; older ones are removed."""


class RunRecipe(Part):
    """What every training run needs to know."""

    output: str
    """The run folder."""
    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    """`auto` is bf16 autocast on a GPU that has it and fp32 elsewhere."""
    data: DataSpec
    views: ViewSpec = ViewSpec()
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images in one step over all processes, neighbours counted."""
    accumulate: PositiveInt = 1
    """Parts in which a process's share of a batch passes the networks one after the other, to save memory."""
    epochs: Positive = 100.0
    """Images through the student over images in the data, neighbours counted: equal epochs are equal work."""
    optimizer: OptimizerSpec = OptimizerSpec()
    monitor: MonitorSpec = MonitorSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    log_every_steps: PositiveInt = 10
    objective: Objectives
    """One objective or a weighted list: `coss`, `{name: coss, lam: 0.5}`, or a list of these."""


class DistillRecipe(RunRecipe):
    """A distillation: `ukd-distill recipe.yaml`."""

    teacher: TeacherSpec
    more_teachers: list[TeacherSpec] = Field([])
    """Further teachers, for `objective: multi`; neighbours and fidelity are those of `teacher`."""
    student: BackboneSpec
    neighbours: NeighbourSpec | None = None
    bank: str | None = None
    """Folder that keeps what the teacher makes of the training images, for every run that asks for the same; left
    out: it is computed anew and kept in memory."""
    teacher_cache: Literal["none", "fixed_view", "k_views"] = "none"
    """`none`: the teacher sees each view. `fixed_view`: its target is what it makes of the evaluation view, whatever
    the student sees. `k_views`: views repeat after `cached_views` passes, and the teacher sees each of them once."""
    cached_views: PositiveInt = 8
    """Views of each image under `k_views`."""

    @model_validator(mode="after")
    def _has_gpus_for_its_teachers(self) -> DistillRecipe:
        for spec in (self.teacher, *self.more_teachers):
            if spec.device and self.device == "cpu":
                raise ValueError(f"a teacher is on {spec.device} and the run on cpu; leave teacher.device out")
        return self


class PretrainRecipe(RunRecipe):
    """A self-supervised pretraining of a teacher: `ukd-pretrain recipe.yaml`."""

    backbone: BackboneSpec
