"""What is taken from inside timm models, against timm's own parts and against what the model itself returns."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from ukd.errors import UserError
from ukd.features import Masking, Wanted
from ukd.internals import draw_mask, run, shape_of

VIT: dict[str, Any] = {"img_size": 32, "depth": 3}
MODELS: dict[str, tuple[dict[str, Any], int, tuple[int, int]]] = {
    "vit_tiny_patch16_224": (VIT, 32, (2, 2)),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 42, "depth": 3}, 42, (3, 3)),
    "deit_tiny_distilled_patch16_224": (VIT, 32, (2, 2)),
    "vit_small_patch16_dinov3": ({"depth": 2}, 32, (2, 2)),
    "resnet10t": ({}, 64, (2, 2)),
    "mobilenetv3_small_050": ({}, 64, (2, 2)),
    "swin_tiny_patch4_window7_224": ({"depths": (1, 1, 1, 1)}, 224, (7, 7)),
}
every_model = pytest.mark.parametrize("arch", MODELS)


def build(arch: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    kwargs, size_px, _ = MODELS[arch]
    if arch == "vit_small_patch16_dinov3":
        kwargs = {**kwargs, "img_size": size_px}
    model = timm.create_model(arch, num_classes=0, **kwargs).eval()
    return model, torch.randn(2, 3, size_px, size_px)


@every_model
def test_widths_and_grid_are_those_of_the_model(arch: str) -> None:
    model, x = build(arch)
    shape = shape_of(model, arch)
    features = run(model, arch, x, Wanted(tokens=True, blocks=2))
    assert features.tokens is not None and features.grid == MODELS[arch][2]
    height, width = features.grid
    assert features.tokens.shape == (2, height * width, shape.tokens)
    assert features.pooled.shape == (2, shape.pooled)
    assert [block.mean.shape[1] for block in features.blocks] == list(shape.blocks[-2:])


@every_model
def test_asking_for_more_leaves_the_pooled_feature_as_it_is(arch: str) -> None:
    model, x = build(arch)
    with torch.no_grad():
        features = run(model, arch, x, Wanted(tokens=True, blocks=2))
        torch.testing.assert_close(features.pooled, model(x), rtol=0, atol=0)


def test_tokens_are_row_by_row() -> None:
    model, x = build("resnet10t")
    with torch.no_grad():
        features = run(model, "resnet10t", x, Wanted(tokens=True))
        final = model.forward_features(x)
    assert features.tokens is not None
    torch.testing.assert_close(features.tokens[:, 1], final[:, :, 0, 1])
    torch.testing.assert_close(features.tokens[:, 2], final[:, :, 1, 0])


def test_tokens_of_a_vit_leave_special_tokens_out() -> None:
    model, x = build("vit_small_patch14_reg4_dinov2")
    with torch.no_grad():
        features = run(model, "vit", x, Wanted(tokens=True, blocks=1))
        final = model.forward_features(x)
    assert features.tokens is not None
    torch.testing.assert_close(features.tokens, final[:, 5:])
    assert features.blocks[0].cls is not None
    torch.testing.assert_close(features.blocks[0].cls, final[:, 0])
    torch.testing.assert_close(features.blocks[0].mean, final[:, 5:].mean(1))


@pytest.mark.parametrize(
    "arch", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224"]
)
def test_attention_is_that_of_the_last_block_without_other_special_tokens(arch: str) -> None:
    model, x = build(arch)
    with torch.no_grad():
        found = run(model, arch, x, Wanted(attention=True)).attention
        attn = model.blocks[-1].attn
        attn.fused_attn = False  # Then timm itself computes the weights, and drops some out next.
        weights: list[torch.Tensor] = []
        attn.attn_drop.register_forward_pre_hook(lambda _, inputs: weights.append(inputs[0]))
        model(x)
    special = model.num_prefix_tokens
    row = torch.cat([weights[0][:, :, 0, :1], weights[0][:, :, 0, special:]], dim=-1)
    assert found is not None
    torch.testing.assert_close(found, row / row.sum(-1, keepdim=True))


def test_attention_has_a_gradient() -> None:
    model, x = build("vit_tiny_patch16_224")
    attention = run(model, "vit", x, Wanted(attention=True)).attention
    assert attention is not None
    attention[..., 1].sum().backward()  # type: ignore[no-untyped-call]
    grad = model.blocks[-1].attn.qkv.weight.grad
    assert grad.any() and grad.isfinite().all()


@pytest.mark.parametrize("arch", ["resnet10t", "swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3"])
def test_no_attention_of_a_class_token(arch: str) -> None:
    model, x = build(arch)
    assert shape_of(model, arch).heads is None
    with pytest.raises(UserError, match=f"{arch}: no class token attends to patches"):
        run(model, arch, x, Wanted(attention=True))


def test_more_blocks_than_there_are_means_all() -> None:
    model, x = build("vit_tiny_patch16_224")
    assert len(run(model, "vit", x, Wanted(blocks=40)).blocks) == 3


def test_hidden_patches_do_not_reach_the_features_and_shown_ones_do() -> None:
    model, x = build("vit_tiny_patch16_224")
    masking = Masking(token=torch.zeros(192), prob=1.0, share=0.5)
    torch.manual_seed(1)
    first = run(model, "vit", x, Wanted(), masking)
    assert first.mask is not None and first.mask.sum(1).tolist() == [2, 2]
    cells = first.mask.view(2, 1, 2, 2).repeat_interleave(16, 2).repeat_interleave(16, 3)
    for changed, same in ((torch.where(cells, 0.0, x), True), (torch.where(cells, x, 0.0), False)):
        torch.manual_seed(1)
        again = run(model, "vit", changed, Wanted(), masking)
        assert torch.equal(first.pooled, again.pooled) is same
    assert torch.equal(model(x), model(x)), "the hook is gone"


def test_the_mask_token_has_a_gradient() -> None:
    model, x = build("vit_tiny_patch16_224")
    token = torch.zeros(192, requires_grad=True)
    run(model, "vit", x, Wanted(), Masking(token, prob=1.0, share=0.5)).pooled.sum().backward()  # type: ignore[no-untyped-call]
    assert token.grad is not None and token.grad.any()


def test_share_and_probability_of_masks() -> None:
    torch.manual_seed(0)
    mask = draw_mask(400, 10, prob=0.25, share=0.3, device=torch.device("cpu"))
    counts = mask.sum(1)
    assert set(counts.tolist()) == {0, 3}
    assert 70 <= int((counts == 3).sum()) <= 130


@every_model
def test_its_shape_says_whether_patches_can_be_hidden(arch: str) -> None:
    model, x = build(arch)
    shape = shape_of(model, arch)
    assert shape.maskable is arch.startswith(("vit", "deit"))
    if shape.maskable:
        run(model, arch, x, Wanted(), Masking(torch.zeros(shape.tokens), prob=1.0, share=0.5))


def test_patches_of_a_cnn_cannot_be_hidden() -> None:
    model, x = build("resnet10t")
    with pytest.raises(UserError, match="resnet10t: patches can be hidden from a ViT only"):
        run(model, "resnet10t", x, Wanted(), Masking(torch.zeros(512), 1.0, 0.5))


def test_a_model_without_a_grid_is_refused() -> None:
    class Flat(nn.Module):
        num_features = 4

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :4]

    with pytest.raises(UserError, match="flat: the last layer has no grid"):
        run(Flat(), "flat", torch.zeros(1, 3, 8, 8), Wanted(tokens=True))
