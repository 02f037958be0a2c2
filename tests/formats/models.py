"""Files of libraries of models, and of this project."""

from __future__ import annotations

import torchvision
from torch import nn
from torchvision.models.resnet import ResNet

from tests.formats.originals import (
    RESNET,
    VIT,
    Original,
    State,
    features_of,
    of_resnet,
    of_vit,
    original,
    randomised,
    resnet,
    torchvision_mobilenet,
    vit,
    with_optimizer,
    without,
)


@original("ukd")
def ukd() -> Original:
    net = resnet()
    randomised(net)
    made = of_resnet(net, without(net.state_dict(), "fc."))
    made.config = {**RESNET, "provenance": {}, "feature": "pooled"}
    return made


@original("torchvision")
def torchvision_vit() -> Original:
    net = randomised(torchvision.models.VisionTransformer(32, 16, 2, 3, 192, 768))
    names = {
        "class_token": "cls_token",
        "conv_proj": "patch_embed.proj",
        "encoder.pos_embedding": "pos_embed",
        "encoder.ln.": "norm.",
        "encoder.layers.encoder_layer_": "blocks.",
        "ln_": "norm",
        "self_attention.in_proj_": "attn.qkv.",
        "self_attention.out_proj": "attn.proj",
        "mlp.0": "mlp.fc1",
        "mlp.3": "mlp.fc2",
    }
    state: State = {}
    for name, value in without(net.state_dict(), "heads.").items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        state[name] = value
    tree = dict(net.state_dict())
    net.heads = nn.Identity()  # type: ignore[assignment]
    return Original(tree, state, **VIT, forward=net)


@original("torchvision:resnet")
def torchvision_resnet() -> Original:
    net = resnet()
    randomised(net)
    return of_resnet(net, with_optimizer(model=net.state_dict()), found_as="timm")


@original("mobilenet_v2")
def mobilenet_v2() -> Original:
    net, state = torchvision_mobilenet()
    forward = nn.Sequential(net.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Original(dict(net.state_dict()), state, "mobilenetv2_100", {}, forward)


@original("timm")
def plain() -> Original:
    model = vit()
    return of_vit(model, dict(model.state_dict()))


@original("timm:converted from JAX")
def converted() -> Original:
    """Without counters of batch norm, as ajtejankar/byol-convert makes BYOL's own weights."""
    net = resnet()
    randomised(net)
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.zero_()
    tree = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    return of_resnet(net, tree)


@original("timm_ema")
def averaged() -> Original:
    first, second = resnet(), randomised(resnet())
    assert isinstance(second, ResNet)
    tree = with_optimizer(state_dict=first.state_dict(), state_dict_ema=second.state_dict(), version=2, metric=0.5)
    return Original(tree, without(second.state_dict(), "fc."), **RESNET, forward=features_of(second))
