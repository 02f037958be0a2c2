"""Files of the methods that train ResNets."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn
from torchvision.models.resnet import ResNet

from tests.formats.originals import (
    RESNET,
    Original,
    features_of,
    in_parallel,
    mlp,
    moco_of,
    module,
    of_resnet,
    original,
    randomised,
    resnet,
    two_layers,
    with_optimizer,
    without,
)


@original("moco_v1")
def moco_v1() -> Original:
    query, moco = moco_of(lambda net: nn.Linear(512, 128), resnet(128))
    return of_resnet(query, with_optimizer(state_dict=in_parallel(moco)), head=query.fc)


@original("moco_v2")
def moco_v2() -> Original:
    query, moco = moco_of(two_layers, resnet(128))
    return of_resnet(query, with_optimizer(state_dict=in_parallel(moco)), head=query.fc)


@original("moco_v2:released")
def moco_v2_released() -> Original:
    """The released ResNet-50: real depth, and the query encoder alone."""
    net = torchvision.models.resnet50(num_classes=128)
    net.fc = mlp(2048, 2048, 128, norm=False)  # type: ignore[assignment]
    state = in_parallel(randomised(module(encoder_q=net)))
    return Original(
        {"epoch": 800, "arch": "resnet50", "state_dict": state},
        without(net.state_dict(), "fc."),
        "resnet50",
        {},
        features_of(net),
        net.fc,
    )


@original("swav")
def swav() -> Original:
    net, state = _swav()
    return of_resnet(net, state, head=state.pop("head"))


@original("swav:training")
def swav_training() -> Original:
    net, state = _swav()
    head = state.pop("head")
    return of_resnet(net, with_optimizer(state_dict=state), head=head)


def _swav() -> tuple[ResNet, dict[str, Any]]:
    net, head = resnet(), mlp(512, 256, 128)
    model = randomised(
        module(**dict(net.named_children()), projection_head=head, prototypes=nn.Linear(128, 64, bias=False))
    )
    return net, {**without(in_parallel(model), "module.fc."), "head": head}


@original("simsiam")
def simsiam() -> Original:
    net = resnet(256)
    head = nn.Sequential(*mlp(512, 512, 512, 256, bias=False), nn.BatchNorm1d(256, affine=False))
    head[6] = nn.Linear(512, 256)
    net.fc = head  # type: ignore[assignment]
    model = randomised(module(encoder=net, predictor=mlp(256, 64, 256)))
    return of_resnet(net, with_optimizer(state_dict=in_parallel(model)), head=head)


@original("byol_lucidrains")
def byol_lucidrains() -> Original:
    net, head = resnet(), mlp(512, 256, 128)
    online = module(net=net, projector=head)
    target = module(net=resnet(), projector=mlp(512, 256, 128))
    model = randomised(
        module(net=net, online_encoder=online, target_encoder=target, online_predictor=mlp(128, 256, 128))
    )
    return Original(
        dict(model.state_dict()), without(net.state_dict(), "fc."), **RESNET, forward=features_of(net), head=head
    )


@original("byol_sthalles")
def byol_sthalles() -> Original:
    net = resnet()
    encoder, head = nn.Sequential(*list(net.children())[:-1]), mlp(512, 256, 128)
    online = randomised(module(encoder=encoder, projetion=module(net=head)))
    tree = {"online_network_state_dict": online.state_dict(), "target_network_state_dict": online.state_dict()}
    return of_resnet(net, {**tree, "encoder_state_dict": encoder.state_dict(), "optimizer_state_dict": {}}, head=head)


@original("byol_yaox12")
def byol_yaox12() -> Original:
    def network(net: ResNet) -> nn.Module:
        layers = mlp(512, 256, 128)
        head = module(l1=layers[0], bn1=layers[1], relu1=layers[2], l2=layers[3])
        return module(encoder=nn.Sequential(*list(net.children())[:-1]), projetion=head)

    net = resnet()
    model = module(online_network=network(net), target_network=network(resnet()))
    model.predictor = module(predictor=module(l1=nn.Linear(128, 64), bn1=nn.BatchNorm1d(64), l2=nn.Linear(64, 128)))
    head = nn.Sequential(*randomised(model).online_network.projetion.children())
    return of_resnet(net, {**with_optimizer(model=in_parallel(model)), "config": {"lr": 1}, "steps": 5}, head=head)


@original("barlow_twins")
def barlow_twins() -> Original:
    net, head = resnet(), mlp(512, 256, 256, 256, bias=False)
    net.fc = nn.Identity()  # type: ignore[assignment]
    model = randomised(module(backbone=net, projector=head, bn=nn.BatchNorm1d(256, affine=False)))
    return of_resnet(net, with_optimizer(model=in_parallel(model)), head=head)


@original("barlow_twins:backbone")
def barlow_twins_backbone() -> Original:
    net = resnet()
    net.fc = nn.Identity()  # type: ignore[assignment]
    randomised(net)
    return of_resnet(net, dict(net.state_dict()), found_as="timm")


@original("vicreg")
def vicreg() -> Original:
    net, head = resnet(), mlp(512, 256, 256, 256)
    net.fc, head[-1] = nn.Identity(), nn.Linear(256, 256, bias=False)  # type: ignore[assignment]
    model = randomised(module(backbone=net, projector=head))
    return of_resnet(net, with_optimizer(model=in_parallel(model)), head=head)


@original("simclr")
def simclr() -> Original:
    net = resnet()
    randomised(net)
    return of_resnet(net, {"state_dict": net.state_dict()}, found_as="timm")


@original("simclr_sthalles")
def simclr_sthalles() -> Original:
    net = resnet(128)
    net.fc = mlp(512, 512, 128, norm=False)  # type: ignore[assignment]
    model = randomised(module(backbone=net))
    return of_resnet(net, with_optimizer(state_dict=model.state_dict()), head=net.fc)


@original("simclr_spijkervet")
def simclr_spijkervet() -> Original:
    net, head = resnet(), mlp(512, 512, 64, norm=False, bias=False)
    net.fc = nn.Identity()  # type: ignore[assignment]
    return of_resnet(net, dict(randomised(module(encoder=net, projector=head)).state_dict()), head=head)
