"""The published linear probes, frozen, as their released code runs them.

`moco`: He et al. 2020 (arXiv:1911.05722), facebookresearch/moco:main_lincls.py. `mocov3`: Chen et al. 2021
(arXiv:2104.02057), facebookresearch/moco-v3:main_lincls.py and CONFIG.md. `dino`: Caron et al. 2021 (arXiv:2104.14294),
facebookresearch/dino:eval_linear.py, on the 8 GPUs of its README. `dinov2`: Oquab et al. 2023 (arXiv:2304.07193),
facebookresearch/dinov2:dinov2/eval/linear.py, on 8 GPUs. `simreg`: Navaneet et al. 2021 (arXiv:2201.05131),
UCDvision/simreg:eval_linear.py. `cached-sgd` is nobody's: a grid on cached features, for development.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ukd.eval.presets import NamedPreset, customised, find


@dataclass(frozen=True)
class Preset(NamedPreset):
    """How linear classifiers are trained on frozen features.

    Attributes:
        views: `random`: another crop and flip of each image in every pass, through the backbone each time;
            `centre`: the evaluation view, whose features are extracted once.
        epochs: passes over the training images; where `steps` is given, equal parts of them. Heads are measured
            after each.
        batch_size: images in a step, over all processes.
        lrs: learning rates, a head each.
        decay: `steps` divides the learning rate by ten at each of `milestones`; `cosine` takes it to zero step by
            step, `cosine_by_epoch` epoch by epoch.
        steps: steps in all; None for whole passes.
        lr_batch: the learning rates are those of this batch size, and grow with it; None where they do not.
        vit_lrs: learning rates of models with a class token, where they differ.
        weight_decays: weight decays of weights and bias, a head for each with each learning rate.
        milestones: epochs of `steps`.
        momentum: momentum of SGD.
        init_std: standard deviation of the first weights, the bias being zero; None for torch's own first values.
        features: `pooled`; `dino`: of models with a class token that of the last 4 blocks, where wider than 384 that
            of the last one and the mean over patches; `dinov2`: those of the last block and of the last 4, each with
            and without the mean over patches, heads of their own. Models without a class token have `pooled` in place
            of these two. No preset has any other kind, which is then that of all heads.
        norm: `l2_standardised`: to length 1, then by mean and variance of the evaluation views of all training images.
        every_epoch: the best head is looked for after every epoch; else after the last only.
        heldout_share: share of each class held out to choose epoch and head.
        crop_scale: share of the image's area that a random crop takes.
    """

    views: Literal["random", "centre"]
    epochs: int
    batch_size: int
    lrs: tuple[float, ...]
    decay: Literal["steps", "cosine", "cosine_by_epoch"]
    steps: int | None = None
    lr_batch: int | None = None
    vit_lrs: tuple[float, ...] | None = None
    weight_decays: tuple[float, ...] = (0.0,)
    milestones: tuple[float, ...] = ()
    momentum: float = 0.9
    init_std: float | None = 0.01
    features: str = "pooled"
    norm: Literal["none", "l2_standardised"] = "none"
    every_epoch: bool = True
    heldout_share: float = 0.1
    crop_scale: tuple[float, float] = (0.08, 1.0)

    def rates(self, *, class_token: bool) -> list[tuple[float, float]]:
        """Learning rate and weight decay of each head on one kind of features, scaled to the batch size."""
        lrs = self.vit_lrs if class_token and self.vit_lrs else self.lrs
        factor = self.batch_size / self.lr_batch if self.lr_batch else 1.0
        return [(lr * factor, weight_decay) for lr in lrs for weight_decay in self.weight_decays]


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "cached-sgd",
            views="centre",
            epochs=30,
            batch_size=256,
            lrs=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
            weight_decays=(0.0, 1e-4, 1e-3),
            decay="cosine",
            norm="l2_standardised",
        ),
        Preset("moco", views="random", epochs=100, batch_size=256, lrs=(30.0,), decay="steps", milestones=(60, 80)),
        Preset(
            "mocov3",
            views="random",
            epochs=90,
            batch_size=1024,
            lrs=(0.1,),
            vit_lrs=(3.0,),
            lr_batch=256,
            decay="cosine_by_epoch",
        ),
        Preset(
            "dino",
            views="random",
            epochs=100,
            batch_size=1024,
            lrs=(0.001,),
            lr_batch=256,
            decay="cosine_by_epoch",
            features="dino",
        ),
        Preset(
            "dinov2",
            views="random",
            epochs=10,
            steps=12_500,
            batch_size=1024,
            lrs=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
            lr_batch=256,
            decay="cosine",
            features="dinov2",
            every_epoch=False,
        ),
        Preset(
            "simreg",
            views="random",
            epochs=40,
            batch_size=256,
            lrs=(0.01,),
            weight_decays=(1e-4,),
            decay="steps",
            milestones=(15, 30, 40),
            init_std=None,
            norm="l2_standardised",
        ),
    )
}


def choose_presets(
    names: Sequence[str],
    *,
    cached: bool = False,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lrs: Sequence[float] = (),
    features: str | None = None,
) -> list[Preset]:
    """Look presets up; what is changed makes a preset of another name.

    Args:
        names: Names of presets.
        cached: Take cached features of the evaluation view in place of random views.
        epochs: Another length; milestones move with it.
        steps: Steps in all.
        batch_size: Images in a step, over all processes.
        lrs: Other learning rates, a head each, to be scaled as the preset's own.
        features: Another kind of features, in place of the preset's own choice.

    Raises:
        UserError: No such preset.
    """
    chosen = []
    for preset in find("linear", PRESETS, names):
        length = epochs or preset.epochs
        changed = customised(
            preset,
            views="centre" if cached else preset.views,
            epochs=length,
            milestones=tuple(each * length / preset.epochs for each in preset.milestones),
            steps=steps or preset.steps,
            batch_size=batch_size or preset.batch_size,
            lrs=tuple(lrs) or preset.lrs,
            vit_lrs=None if lrs else preset.vit_lrs,
            features=features or preset.features,
        )
        chosen.append(changed)
    return chosen
