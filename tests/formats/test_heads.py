"""Projection heads: rebuilt from the numbers and shapes of their tensors, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.formats.files import save
from tests.formats.originals import ORIGINALS, RESNET, mlp, randomised
from ukd.backbones import build_backbone
from ukd.errors import WeightsError
from ukd.features import Wanted
from ukd.formats.heads import output_dim, sequential
from ukd.formats.row import Head


@pytest.mark.parametrize(
    "made",
    [
        mlp(4, 8, 2),
        mlp(4, 8, 8, 2, bias=False),
        mlp(4, 8, 8, 2, norm=False),
        nn.Sequential(nn.Linear(4, 2)),
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False)),
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 2)),  # Dropout does nothing to a teacher.
        nn.Sequential(*mlp(4, 8, 4), *mlp(4, 8, 2)),
    ],
)
def test_layers_are_told_by_numbers_and_shapes(made: nn.Sequential) -> None:
    x = torch.rand(3, 4)
    built = sequential(randomised(made).state_dict(), Head("")).eval()
    assert torch.equal(built(x), made(x)) and output_dim(built) == 2


def test_a_single_layer_has_no_number() -> None:
    made = nn.Linear(4, 2)
    assert torch.equal(sequential(made.state_dict(), Head("fc."))(torch.ones(1, 4)), made(torch.ones(1, 4)))


@pytest.mark.parametrize(
    "tensors",
    [
        {"0.weight": torch.zeros(2, 4, 1, 1)},
        {"conv.weight": torch.zeros(2, 4)},
        {"0.bias": torch.zeros(2)},
        {"0.weight": torch.zeros(2, 4), "0.scale": torch.zeros(2)},
    ],
)
def test_what_is_no_mlp_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    file = ORIGINALS["moco_v2"]()
    state = {name: value for name, value in file.tree["state_dict"].items() if ".fc." not in name}
    file.tree["state_dict"] = {**state, **{f"module.encoder_q.fc.{name}": value for name, value in tensors.items()}}
    with pytest.raises(WeightsError, match=r"features: the head encoder_q\.fc of .* is no plain MLP"):
        build_backbone(weights=str(save(file, tmp_path)), format="moco_v2", features="head", frozen=True, **RESNET)


def test_a_head_that_takes_something_else_is_refused(tmp_path: Path) -> None:
    file = ORIGINALS["moco_v1"]()
    file.tree["state_dict"]["module.encoder_q.fc.weight"] = torch.zeros(128, 64)
    with pytest.raises(WeightsError, match=r"the head of .* takes 64 numbers, and resnet18 gives 512"):
        build_backbone(weights=str(save(file, tmp_path)), features="head", frozen=True, **RESNET)


def test_a_file_without_a_head_is_refused(tmp_path: Path) -> None:
    weights = str(save(ORIGINALS["barlow_twins:backbone"](), tmp_path))
    with pytest.raises(WeightsError, match=r"has no projection head; choose features: pooled"):
        build_backbone(weights=weights, features="head", frozen=True, **RESNET)
    with pytest.raises(WeightsError, match=r"the format keeps it under projector\."):
        build_backbone(weights=weights, format="barlow_twins", features="head", frozen=True, **RESNET)


@pytest.mark.parametrize("asked", [{"frozen": False, "weights": True}, {"frozen": True, "weights": False}])
def test_only_a_teacher_of_some_file_has_a_head(asked: dict[str, bool], tmp_path: Path) -> None:
    weights = str(save(ORIGINALS["moco_v1"](), tmp_path)) if asked["weights"] else None
    with pytest.raises(WeightsError, match="features: a projection head is used of a teacher's weights only"):
        build_backbone(weights=weights, features="head", frozen=asked["frozen"], **RESNET)


def test_a_teacher_with_a_head_is_frozen_whole_and_gives_all_else_as_before(tmp_path: Path) -> None:
    weights = str(save(ORIGINALS["swav"](), tmp_path))
    with_head, without = (
        build_backbone(weights=weights, features=each, frozen=True, **RESNET)  # type: ignore[arg-type]
        for each in ("head", "pooled")
    )
    nn.ModuleList([with_head]).train()
    assert not any(each.training for each in with_head.modules())
    assert not any(each.requires_grad for each in with_head.parameters())
    views, wanted = torch.rand(2, 3, 64, 64), Wanted(tokens=True)
    ours, theirs = with_head(views, wanted), without(views, wanted)
    assert ours.tokens is not None and theirs.tokens is not None and torch.equal(ours.tokens, theirs.tokens)
    assert (with_head.shape.pooled, with_head.shape.tokens) == (128, 512)
    assert with_head.double()(views.double()).pooled.dtype == torch.float64
