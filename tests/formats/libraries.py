"""Files of libraries of methods."""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from lightly.models import modules as lightly
from lightly.utils.benchmarking import OnlineLinearClassifier
from torch import nn
from torchvision.models.resnet import ResNet

from tests.formats.originals import (
    VIT,
    Original,
    State,
    mlp,
    module,
    of_resnet,
    of_vit,
    original,
    randomised,
    resnet,
    vit,
    with_optimizer,
    without,
)


def lightning(state: State) -> dict[str, Any]:
    """What PyTorch Lightning saves around a state."""
    return {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.0.0", "state_dict": state, "loops": {}}


def headless(**kwargs: Any) -> ResNet:
    net = resnet(**kwargs)
    net.fc = nn.Identity()  # type: ignore[assignment]
    return net


@original("vissl")
def vissl() -> Original:
    net, head = headless(), mlp(512, 256, 128, norm=False)
    children = {name: child for name, child in net.named_children() if name not in ("relu", "fc")}
    trunk = module(_feature_blocks=nn.ModuleDict(children))
    parts = {
        "trunk": randomised(trunk).state_dict(),
        "heads": randomised(module(**{"0": module(clf=head)})).state_dict(),
    }
    tree = {
        "classy_state_dict": {"base_model": {"model": parts}, "optim": {"lr": 0.1}},
        "iteration": 9,
        "type": "consolidated",
    }
    return of_resnet(net, tree, head=head)


@original("vissl:vit")
def vissl_vit() -> Original:
    model = vit()
    names = {"cls_token": "class_token", "pos_embed": "pos_embedding"}
    trunk = {names.get(name, name): value for name, value in model.state_dict().items()}
    return of_vit(model, {"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": {}}}}})


@original("mmselfsup")
def mmselfsup() -> Original:
    """MoCo v2: the query encoder stands under two names."""
    net, neck = headless(), module(mlp=mlp(512, 512, 128, norm=False))
    model = module(
        encoder_q=nn.Sequential(net, neck),
        encoder_k=nn.Sequential(copy.deepcopy(net), copy.deepcopy(neck)),
        backbone=net,
        neck=neck,
        queue=torch.randn(128, 64),
        queue_ptr=torch.zeros(1, dtype=torch.long),
    )
    tree = with_optimizer(state_dict=randomised(model).state_dict(), meta={"mmcls_version": "0.18", "epoch": 200})
    return of_resnet(net, tree, head=neck.mlp)


@original("mmselfsup:neck")
def mmselfsup_neck() -> Original:
    """BYOL: a neck whose layers have names (mmselfsup/models/necks/nonlinear_neck.py)."""
    net, layers = headless(), mlp(512, 256, 128)
    neck = module(fc0=layers[0], bn0=layers[1], fc1=layers[3])
    target = module(module=nn.Sequential(copy.deepcopy(net), copy.deepcopy(neck)), steps=torch.zeros(()))
    model = randomised(module(backbone=net, neck=neck, head=module(predictor=mlp(128, 64, 128)), target_net=target))
    return of_resnet(net, {"meta": {}, "state_dict": model.state_dict(), "message_hub": {}}, head=layers)


@original("mmselfsup:vit")
def mmselfsup_vit() -> Original:
    model = vit()
    named: State = {}
    for name, value in model.state_dict().items():
        name = name.replace("patch_embed.proj", "patch_embed.projection").replace("blocks.", "layers.")
        if name.startswith("layers."):
            name = name.replace("norm", "ln").replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        elif name.startswith("norm."):
            name = name.replace("norm.", "ln1.")
        named[f"backbone.{name}"] = value
    neck = {"neck.mask_token": torch.zeros(1, 1, 64), "neck.decoder_pred.weight": torch.zeros(768, 64)}
    return of_vit(model, {"meta": {}, "state_dict": {**named, **neck}})


@original("solo_learn")
def solo_learn() -> Original:
    net, head = headless(), mlp(512, 256, 128)
    model = module(backbone=net, classifier=nn.Linear(512, 10), projector=head, predictor=mlp(128, 64, 128))
    model.momentum_backbone, model.momentum_projector = headless(), mlp(512, 256, 128)
    return of_resnet(net, lightning(randomised(model).state_dict()), head=head)


@original("solo_learn:older")
def solo_learn_older() -> Original:
    net = headless()
    head = mlp(512, 256, 128)
    model = randomised(module(encoder=net, classifier=nn.Linear(512, 10), projector=head))
    return of_resnet(net, lightning(model.state_dict()), head=head)


@original("lightly")
def lightly_benchmark() -> Original:
    net, head = headless(), lightly.MoCoProjectionHead(512, 512, 128)
    model = module(backbone=net, projection_head=head, query_backbone=headless())
    model.query_projection_head = lightly.MoCoProjectionHead(512, 512, 128)
    model.online_classifier = OnlineLinearClassifier(512, 10)
    return of_resnet(net, lightning(randomised(model).state_dict()), head=head.layers)


@original("lightly:children")
def lightly_children() -> Original:
    """As the documentation's examples build a backbone."""
    net = resnet()
    backbone = nn.Sequential(*list(net.children())[:-1])
    head = lightly.BYOLProjectionHead(512, 256, 128)
    model = module(backbone=backbone, projection_head=head, prediction_head=lightly.BYOLPredictionHead(128, 64, 128))
    model.backbone_momentum, model.projection_head_momentum = copy.deepcopy(backbone), copy.deepcopy(head)
    return of_resnet(net, lightning(randomised(model).state_dict()), head=head.layers)


@original("lightly:dino")
def lightly_dino() -> Original:
    teacher, head = vit(), lightly.DINOProjectionHead(192, 96, 32, 64)
    model = module(
        student_backbone=vit(),
        student_head=lightly.DINOProjectionHead(192, 96, 32, 64),
        teacher_backbone=teacher,
        teacher_head=head,
    )
    return of_vit(teacher, lightning(randomised(model).state_dict()), head=head.layers)


@original("lightly:mae")
def lightly_mae() -> Original:
    model = timm.create_model(**_named(VIT), num_classes=0)
    decoder = module(decoder_embed=nn.Linear(192, 64), mask_token=torch.zeros(1, 1, 64))
    whole = randomised(module(backbone=lightly.MaskedVisionTransformerTIMM(vit=model), decoder=decoder))
    return of_vit(model, lightning(whole.state_dict()))


@original("lightly_train")
def lightly_train() -> Original:
    """The embedding model of a timm model, whose classifier it keeps."""
    model = randomised(timm.create_model(**_named(VIT)))
    state = {f"model_wrapper._model.{name}": value for name, value in model.state_dict().items()}
    embed = {"embed_head.weight": torch.zeros(64, 192, 1, 1), "embed_head.bias": torch.zeros(64)}
    made = of_vit(model, {**state, **embed})
    made.state = without(made.state, "head.")
    return made


@original("lightly_train:exported")
def lightly_train_exported() -> Original:
    net = resnet()
    randomised(net)
    return of_resnet(net, dict(net.state_dict()), found_as="timm")


def _named(vit: dict[str, Any]) -> dict[str, Any]:
    return {"model_name": vit["arch"], **vit["kwargs"]}
