"""Files laid out key for key like the official ones: their modules, rebuilt in a few lines, give the keys.

Backbones have their real widths and fewer blocks; queues and prototypes are shorter. Every statistic of batch norm is
random, so that a tensor in the wrong place changes what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

State = dict[str, Tensor]
RESNET: dict[str, Any] = {"arch": "resnet18", "kwargs": {"layers": [1, 1, 1, 1]}}
VIT: dict[str, Any] = {"arch": "vit_tiny_patch16_224", "kwargs": {"depth": 2, "img_size": 32}}


@dataclass
class Original:
    """A file and what it must become.

    Attributes:
        tree: What is saved.
        state: The tensors that timm's model must then have.
        arch: Its architecture.
        kwargs: Its arguments.
        forward: The original's own features; None where timm's model is the original.
        head: The original's projection head; None for none.
        found_as: The format that is found where none is named; None for the one it is called by.
        config: Of a transformers directory, its config.json.
    """

    tree: dict[str, Any]
    state: State
    arch: str
    kwargs: dict[str, Any]
    forward: Callable[[Tensor], Tensor] | None = None
    head: nn.Module | None = None
    found_as: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


ORIGINALS: dict[str, Callable[[], Original]] = {}


def original(name: str) -> Callable[[Callable[[], Original]], Callable[[], Original]]:
    """Enters a file in ORIGINALS; a part of the name after `:` tells files of one format apart."""

    def enter(make: Callable[[], Original]) -> Callable[[], Original]:
        ORIGINALS[name] = make
        return make

    return enter


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter and statistic random, and a multiple of 1/1024, so that sums of two are exact."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            fan_in = value.flatten(1).shape[-1] if value.ndim > 1 else 1
            gain = 2 / fan_in**0.5 if value.ndim > 1 else 0.25  # So that a deep model still tells two images apart.
            noise = torch.randint(-64, 64, value.shape, generator=generator) / 64 * gain
            noise = (noise * 1024).round() / 1024
            value.copy_(1 + noise.abs() if "var" in name or (value.ndim == 1 and name.endswith("weight")) else noise)
        else:
            value.fill_(7)
    return module.eval()


def resnet(num_classes: int = 1000) -> ResNet:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes)


def features_of(net: ResNet) -> Callable[[Tensor], Tensor]:
    """What a torchvision ResNet gives before its classifier."""
    body = nn.Sequential(*list(net.children())[:-1], nn.Flatten())
    return body.eval()


def without(state: State, *prefixes: str) -> State:
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


def vit(**kwargs: Any) -> nn.Module:
    return randomised(timm.create_model(VIT["arch"], num_classes=0, **VIT["kwargs"], **kwargs))


def mlp(*dims: int, norm: bool = True, bias: bool = True, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers, each but the last followed by batch norm and an activation."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(dims)):
        layers.append(nn.Linear(before, after, bias=bias))
        if i < len(dims) - 2:
            layers += [nn.BatchNorm1d(after), activation()] if norm else [activation()]
    return nn.Sequential(*layers)


def module(**children: nn.Module | Tensor) -> nn.Module:
    """A module with these children and buffers."""
    made = nn.Module()
    for name, child in children.items():
        made.register_buffer(name, child) if isinstance(child, Tensor) else made.add_module(name, child)
    return made


def in_parallel(model: nn.Module) -> State:
    """The state of a model in DistributedDataParallel, which is what most official code saves."""
    return {f"module.{name}": value for name, value in model.state_dict().items()}


def with_optimizer(**tree: Any) -> dict[str, Any]:
    """What a training checkpoint also holds; DINO's learning rates are numpy's."""
    groups = [{"lr": np.float64(0.1), "params": [0, 1], "betas": (0.9, 0.999)}]
    state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}
    return {**tree, "optimizer": {"state": state, "param_groups": groups}, "epoch": 3, "arch": "resnet18"}


def of_resnet(net: ResNet, tree: dict[str, Any], **more: Any) -> Original:
    return Original(tree, without(net.state_dict(), "fc."), **RESNET, forward=features_of(net), **more)


def of_vit(model: nn.Module, tree: dict[str, Any], **more: Any) -> Original:
    return Original(tree, dict(model.state_dict()), **VIT, **more)


class DINOHead(nn.Module):
    """facebookresearch/dino:vision_transformer.py, without batch norm."""

    def __init__(self, dim: int, more: bool = False) -> None:
        super().__init__()
        self.mlp = mlp(dim, 96, 96, 32, norm=False, activation=nn.GELU)
        # Weight-normalised, as torch names it; iBOT has a second one for patches.
        for name in ("last_layer", "last_layer2")[: 1 + more]:
            self.add_module(name, module(weight_g=torch.ones(64, 1), weight_v=torch.zeros(64, 32)))


def moco_of(head: Callable[[ResNet], nn.Module], key: ResNet) -> tuple[ResNet, nn.Module]:
    query = resnet(128)
    query.fc, key.fc = head(query), head(key)  # type: ignore[assignment]
    queue = {"queue": torch.randn(128, 64), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    return query, randomised(module(encoder_q=query, encoder_k=key, **queue))


def two_layers(net: ResNet) -> nn.Module:
    dim = net.layer4[-1].conv2.out_channels
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 128))


def torchvision_mobilenet() -> tuple[Any, State]:
    """Torchvision's model, and the same tensors under timm's names, whose order is the same."""
    net = randomised(torchvision.models.mobilenet_v2())
    names = timm.create_model("mobilenetv2_100", num_classes=0).state_dict()
    return net, dict(zip(names, net.features.state_dict().values(), strict=True))
