"""Files of students, from the papers on label-free distillation."""

from __future__ import annotations

import argparse

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import ResNet

from tests.formats.originals import (
    Original,
    in_parallel,
    mlp,
    moco_of,
    module,
    of_resnet,
    original,
    randomised,
    resnet,
    torchvision_mobilenet,
    two_layers,
    with_optimizer,
)


@original("bingo")
def bingo() -> Original:
    query, moco = moco_of(two_layers, torchvision.models.resnet18(num_classes=128))
    tree = {"epoch": 3, "state_dict": in_parallel(moco), "optimizer": {}}
    return of_resnet(query, tree, head=query.fc, found_as="moco_v2")


@original("disco")
def disco() -> Original:
    query, moco = moco_of(two_layers, resnet(128))
    teachers = {
        name: torchvision.models.resnet18(num_classes=128) for name in ("teacher_encoder_q", "teacher_encoder_k")
    }
    for name, teacher in teachers.items():
        moco.add_module(name, teacher)
    return of_resnet(query, with_optimizer(state_dict=in_parallel(moco)), head=query.fc)


@original("seed")
def seed() -> Original:
    student = resnet(128)
    student.fc = two_layers(student)  # type: ignore[assignment]
    queue = {"queue": torch.randn(128, 64), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    model = randomised(module(student=student, teacher=torchvision.models.resnet18(num_classes=128), **queue))
    return of_resnet(student, with_optimizer(state_dict=in_parallel(model)), head=student.fc)


@original("simreg")
def simreg() -> Original:
    net = resnet()
    net.fc = nn.Sequential()  # type: ignore[assignment]
    # Its four-layer head has no norm in its middle (UCDvision/simreg:mlp_arch.py).
    head = nn.Sequential(*mlp(512, 1024, 512), *mlp(512, 1024, 2048))
    model = randomised(
        module(encoder_q=nn.DataParallel(net), encoder_t=nn.DataParallel(resnet()), predict_q=nn.DataParallel(head))
    )
    tree = {**with_optimizer(state_dict=model.state_dict()), "opt": argparse.Namespace(batch_size=256)}
    return of_resnet(net, tree, head=head)


@original("compress")
def compress() -> Original:
    net = randomised(resnet())
    net.fc = nn.Sequential()  # type: ignore[assignment]
    assert isinstance(net, ResNet)
    return of_resnet(net, {"opt": argparse.Namespace(lr=0.01), **with_optimizer(model=in_parallel(net))})


@original("compress:mobilenet")
def compress_mobilenet() -> Original:
    net, state = torchvision_mobilenet()
    tree = {"opt": argparse.Namespace(lr=0.01), "model": in_parallel(module(features=net.features)), "epoch": 130}
    forward = nn.Sequential(net.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Original(tree, state, "mobilenetv2_100", {}, forward, found_as="compress")
