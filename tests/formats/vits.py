"""Files of the methods that train ViTs, and of DINO's ResNet."""

from __future__ import annotations

import argparse
from collections import OrderedDict

import timm
import torch
from torch import nn

from tests.formats.originals import (
    VIT,
    DINOHead,
    Original,
    in_parallel,
    mlp,
    module,
    of_resnet,
    of_vit,
    original,
    randomised,
    resnet,
    vit,
    with_optimizer,
)


@original("moco_v3:vit")
def moco_v3_vit() -> Original:
    kwargs = {"embed_dim": 384, "num_heads": 12}
    base = vit(**kwargs)
    state = dict(base.state_dict())
    base.head, momentum = _v3_head(384, 3), vit(**kwargs)
    model = randomised(module(base_encoder=base, momentum_encoder=momentum, predictor=_v3_head(256, 2)))
    tree = with_optimizer(state_dict=in_parallel(model))
    # The recipe says no heads: the row does.
    arch = {"arch": "vit_small_patch16_224", "kwargs": VIT["kwargs"]}
    twin = timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=12, **VIT["kwargs"]).eval()
    twin.load_state_dict(state)
    return Original(tree, state, **arch, forward=twin, head=base.head)


@original("moco_v3:resnet")
def moco_v3_resnet() -> Original:
    net = resnet()
    net.fc = _v3_head(512, 2)  # type: ignore[assignment]
    model = randomised(module(base_encoder=net, momentum_encoder=resnet(), predictor=_v3_head(256, 2)))
    return of_resnet(net, with_optimizer(state_dict=in_parallel(model)), head=net.fc)


def _v3_head(dim: int, num_layers: int) -> nn.Sequential:
    return nn.Sequential(*mlp(dim, *[128] * (num_layers - 1), 256, bias=False), nn.BatchNorm1d(256, affine=False))


@original("dino")
def dino() -> Original:
    teacher = vit()
    models = [randomised(module(backbone=each, head=DINOHead(192))) for each in (vit(), teacher)]
    tree = with_optimizer(student=in_parallel(models[0]), teacher=models[1].state_dict(), args=argparse.Namespace(lr=1))
    tree |= {"dino_loss": {"center": torch.zeros(1, 64)}, "fp16_scaler": {"scale": 65536.0}}
    return of_vit(teacher, tree, head=models[1].head.mlp)


@original("dino:backbone")
def dino_backbone() -> Original:
    model = vit()
    return of_vit(model, dict(model.state_dict()), found_as="timm")


@original("dino:resnet")
def dino_resnet() -> Original:
    nets = [resnet(), resnet()]
    for net in nets:
        net.fc = nn.Identity()  # type: ignore[assignment]
    models = [randomised(module(backbone=net, head=DINOHead(512))) for net in nets]
    tree = with_optimizer(student=in_parallel(models[0]), teacher=in_parallel(models[1]))
    return of_resnet(nets[1], tree, head=models[1].head.mlp)


@original("ibot")
def ibot() -> Original:
    student, teacher = vit(), vit()
    student.register_parameter("masked_embed", nn.Parameter(torch.zeros(1, 192)))
    models = [randomised(module(backbone=each, head=DINOHead(192, more=True))) for each in (student, teacher)]
    tree = with_optimizer(student=in_parallel(models[0]), teacher=models[1].state_dict(), args=argparse.Namespace(lr=1))
    return of_vit(teacher, tree, head=models[1].head.mlp)


@original("ibot:backbone")
def ibot_backbone() -> Original:
    model = vit()
    return of_vit(model, {"state_dict": dict(model.state_dict())}, found_as="timm")


@original("msn")
def msn() -> Original:
    encoders = []
    for _ in range(2):
        model = vit()
        names = ("fc1", "bn1", "gelu1", "fc2", "bn2", "gelu2", "fc3")
        encoders.append(module(**dict(model.named_children())))
        encoders[-1].cls_token, encoders[-1].pos_embed = model.cls_token, model.pos_embed
        encoders[-1].fc = nn.Sequential(OrderedDict(zip(names, mlp(192, 96, 96, 32, activation=nn.GELU), strict=True)))
        randomised(encoders[-1])
    tree = {"encoder": in_parallel(encoders[0]), "target_encoder": in_parallel(encoders[1]), "opt": {}, "epoch": 3}
    tree |= {"prototypes": torch.randn(16, 32), "loss": 0.5, "batch_size": 32}
    return of_vit(model, tree, head=encoders[1].fc)


@original("mae")
def mae() -> Original:
    model = vit()
    blocks = nn.ModuleList([timm.models.vision_transformer.Block(64, 4, qkv_bias=True)])
    decoder = module(
        decoder_embed=nn.Linear(192, 64),
        decoder_blocks=blocks,
        decoder_norm=nn.LayerNorm(64),
        decoder_pred=nn.Linear(64, 768),
        mask_token=torch.zeros(1, 1, 64),
        decoder_pos_embed=torch.zeros(1, 5, 64),
    )
    state = {**model.state_dict(), **decoder.state_dict()}
    return of_vit(model, with_optimizer(model=state, args=argparse.Namespace(blr=1e-3), scaler={"scale": 1.0}))


@original("mae:encoder")
def mae_encoder() -> Original:
    model = vit()
    return of_vit(model, {"model": dict(model.state_dict())}, found_as="timm")
