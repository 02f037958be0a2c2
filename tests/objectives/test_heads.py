from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from ukd.backbones import build_backbone
from ukd.errors import UserError
from ukd.features import NOTHING_MORE, Block, Features, Wanted
from ukd.objectives.heads import Head, Ladder, Norm, PooledHead, Projector, projector, student_head, wanted_by


def layers(head: nn.Module) -> list[type[nn.Module]]:
    return [type(layer) for layer in head.children()]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("none", []),
        ("linear", ["weight", "bias"]),
        ("mlp2", ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ("ln_linear", ["0.weight", "0.bias", "1.weight", "1.bias"]),
        (
            "simreg4",
            [
                *("0.weight", "0.bias", "1.weight", "1.bias"),
                *("1.running_mean", "1.running_var", "1.num_batches_tracked"),
                *("3.weight", "3.bias", "4.weight", "4.bias", "5.weight", "5.bias"),
                *("5.running_mean", "5.running_var", "5.num_batches_tracked", "7.weight", "7.bias"),
            ],
        ),
    ],
)
def test_checkpoints_of_every_head_keep_their_names(kind: Projector, names: list[str]) -> None:
    assert list(projector(kind, 4, 4, 3).state_dict()) == names


def test_ln_linear_by_hand() -> None:
    head = projector("ln_linear", 2, 1)
    with torch.no_grad():
        head[1].weight.copy_(torch.tensor([[3.0, 5.0]]))  # type: ignore[index]
        head[1].bias.fill_(1.0)  # type: ignore[index]
    # (2, 8) has mean 5 and deviation 3, so it becomes (-1, 1), and that -3 + 5 + 1.
    assert head(torch.tensor([[2.0, 8.0]])).item() == pytest.approx(3, abs=1e-5)


@pytest.mark.parametrize(
    ("norm", "between"),
    [("none", [nn.ReLU]), ("batch", [nn.BatchNorm1d, nn.ReLU]), ("layer", [nn.LayerNorm, nn.GELU])],
)
def test_what_stands_between_the_layers_of_mlp2(norm: Norm, between: list[type[nn.Module]]) -> None:
    head = projector("mlp2", 3, 5, 7, norm)
    assert layers(head) == [nn.Linear, *between, nn.Linear]
    assert head(torch.randn(4, 3)).shape == (4, 5)


def blocks() -> tuple[Block, ...]:
    """A stage without a class token, a block with one, and the last one."""
    return (
        Block(cls=None, mean=torch.randn(4, 2)),
        Block(cls=torch.randn(4, 3), mean=torch.randn(4, 3)),
        Block(cls=torch.randn(4, 6), mean=torch.randn(4, 6)),
    )


def test_a_ladder_is_the_sum_of_an_mlp_each_for_the_lower_blocks_and_the_pooled_feature() -> None:
    ladder = Ladder(in_dim=6, block_dims=(2, 3, 6), out_dim=5, hidden_dim=8)
    features = Features(torch.randn(4, 6), blocks=blocks())

    def mlp(rung: nn.Module, x: Tensor) -> Tensor:
        first, second = (layer for layer in rung.children() if isinstance(layer, nn.Linear))
        hidden = nn.functional.gelu(x @ first.weight.T + first.bias)
        return hidden @ second.weight.T + second.bias

    class_token = features.blocks[1].cls
    assert class_token is not None
    inputs = (features.blocks[0].mean, class_token, features.pooled)
    expected = sum(mlp(rung, x) for rung, x in zip([*ladder.rungs, ladder.top], inputs, strict=True))
    torch.testing.assert_close(ladder(features), expected)


def test_a_ladder_is_as_wide_as_unics() -> None:
    ladder = Ladder(768, [768] * 12, 1024, hidden_dim=3072)
    assert [rung[0].out_features for rung in ladder.rungs] == [768] * 11  # type: ignore[index]
    assert ladder.top[0].out_features == 3072  # type: ignore[index]


def test_a_ladder_needs_blocks() -> None:
    for block_dims in ((), (6,)):
        with pytest.raises(UserError, match=r"^head: ladder needs a student .* choose head: mlp2$"):
            student_head("ladder", 6, block_dims, 5, 8)


@pytest.mark.parametrize("student", [tiny.STUDENT, tiny.NORMLESS], ids=["ResNet", "ViT"])
@pytest.mark.parametrize("kind", ["ladder", "linear"])
def test_it_hears_what_a_backbone_gives_and_trains_all_of_it(kind: Head, student: dict[str, object]) -> None:
    backbone = build_backbone(**student)  # type: ignore[arg-type]
    shape = backbone.shape
    head = student_head(kind, shape.pooled, shape.blocks, 5, 8)
    wanted = wanted_by(kind, shape.blocks)
    head(backbone(torch.rand(2, 3, tiny.SIZE_PX, tiny.SIZE_PX), wanted)).square().sum().backward()
    # Processes that share a step would wait for ever for the gradient of a parameter that has none.
    without = [name for name, x in [*backbone.named_parameters(), *head.named_parameters()] if x.grad is None]
    assert not without


def test_only_a_ladder_asks_for_blocks() -> None:
    assert wanted_by("ladder", (2, 3, 6)) == Wanted(blocks=3)
    assert wanted_by("mlp2", (2, 3, 6)) == NOTHING_MORE
    assert isinstance(student_head("mlp2", 6, (), 5, 8), PooledHead)
