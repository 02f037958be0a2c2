"""The frozen teacher, and how it is held: in which precision, where, in parts, by one process or by all of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ukd import distributed
from ukd.errors import UserError
from ukd.features import NOTHING_MORE, Features, Masking, Shape, Wanted, join
from ukd.formats import output_dim
from ukd.networks import Backbone, BackboneInfo

PRECISIONS = {"run": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""What a teacher's weights can be held in; None for what the rest of the run is held in."""
_log = logging.getLogger(__name__)
_METHODS = ("forward_features", "forward_head", "forward_intermediates")
"""What is called of a timm model beside itself."""


class Teacher(Backbone):
    """A frozen backbone: without gradients, and in evaluation mode whatever its parent is told.

    Released code of three baselines let the teacher's batch statistics drift; here that cannot happen.

    Attributes:
        is_sharded: Its weights are spread over the processes, each of which has to call it equally often.
        num_forwards: How often the model ran.

    Args:
        model: A timm model without a classifier.
        info: How it was made and how it is fed.
        head: The teacher's own projection head; its output is then the pooled feature.
    """

    def __init__(self, model: nn.Module, info: BackboneInfo, head: nn.Sequential | None = None) -> None:
        super().__init__(model, info)
        self.head = head
        self.is_sharded = False
        self.num_forwards = 0
        self._held_in: torch.dtype | None = None
        self._most_at_once: int | None = None
        self._hash: str | None = None
        self.requires_grad_(False)
        self.eval()

    def hold(
        self,
        device: torch.device,
        *,
        precision: Literal["run", "bf16", "fp16", "fp32"] = "run",
        chunk: int | None = None,
        compiled: bool = False,
        sharded: bool = False,
    ) -> Teacher:
        """Settles how the teacher is held from now on; whoever calls it notices nothing but the last digits.

        Args:
            device: Where it lies. Views from elsewhere are copied there, and features back.
            precision: What its weights are held in, all but those of batch norm, and its features computed in, under
                whatever autocast; features come in the dtype of the views. `run` leaves it all as it is.
            chunk: The most images that pass at once; None for all.
            compiled: Compile it when it first runs. Its blocks and attention cannot be asked for then.
            sharded: Spread its weights over the processes; only a ViT's.

        Raises:
            UserError: It cannot be sharded.
        """
        if precision != "run" or sharded:
            self._hash = self.weights_hash()  # Of the weights as they came, however they are held.
        self._held_in, self._most_at_once = PRECISIONS[precision], chunk
        if self._held_in:
            _cast(self.model, self._held_in)
        if self._held_in and self.head:
            _cast(self.head, self._held_in)
        if sharded:
            self.is_sharded = distributed.world_size() > 1
            self.to(memory_format=torch.contiguous_format)  # FSDP takes no other.
            distributed.shard(self.model, _blocks(self.model, self.info.arch), _METHODS, device)
        self.to(device)
        if compiled:
            model = cast(Any, self.model)
            model.forward_features = torch.compile(model.forward_features)
        return self

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, views: Tensor, wanted: Wanted = NOTHING_MORE, masking: Masking | None = None) -> Features:
        """As `Backbone.forward`, without gradients."""
        there, own = views.to(self.mean.device, non_blocking=True), self._held_in is not None
        with torch.autocast(there.device.type, enabled=False) if own else nullcontext():
            features = self._in_parts(there, wanted, masking)
        return features.to(views.device, views.dtype if own else None)

    def num_parts(self, num_images: int) -> int:
        """How often the model runs for a batch."""
        return math.ceil(num_images / (self._most_at_once or num_images))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that its weights are held in."""
        return self._held_in or super().dtype

    @property
    def shape(self) -> Shape:
        """The widths of its features."""
        return replace(super().shape, pooled=output_dim(self.head)) if self.head else super().shape

    def weights_hash(self) -> str:
        """As `Backbone.weights_hash`, of the weights before `hold`, with those of the head."""
        return self._hash or super().weights_hash()

    def _in_parts(self, views: Tensor, wanted: Wanted, masking: Masking | None) -> Features:
        """Shows the model no more images at once than it can take; fewer after a GPU has run out of memory."""
        parts: list[Features] = []
        start = 0
        while start < len(views):
            size = min(self._most_at_once or len(views), len(views) - start)
            try:
                parts.append(self._run(views[start : start + size], wanted, masking))
                start += size
            except torch.OutOfMemoryError:
                if size == 1 or self.is_sharded:  # Other processes would wait for more calls, or for fewer.
                    raise
                self._most_at_once = math.ceil(size / 2)
                _log.warning(
                    "teacher: %d images at once do not fit on the GPU; from now on %d", size, self._most_at_once
                )
        return join(parts)

    def _run(self, views: Tensor, wanted: Wanted, masking: Masking | None) -> Features:
        self.num_forwards += 1
        features = super().forward(views, wanted, masking)
        return replace(features, pooled=self.head(features.pooled)) if self.head else features

    def _weights(self) -> dict[str, Tensor]:
        head = self.head.state_dict() if self.head else {}
        return super()._weights() | {f"projection head.{name}": value for name, value in head.items()}


def _cast(network: nn.Module, precision: torch.dtype) -> None:
    """Casts all weights but those of batch norm, whose statistics half precision would round by up to 0.4 %."""
    for module in network.modules():
        if not isinstance(module, _BatchNorm):
            module._apply(lambda x: x.to(precision) if x.is_floating_point() else x, recurse=False)  # type: ignore[no-untyped-call]


def _blocks(model: nn.Module, arch: str) -> Iterable[nn.Module]:
    """The parts of a ViT, each of which is whole on every process while it runs."""
    blocks = getattr(model, "blocks", None)
    if blocks is None or not hasattr(model, "num_prefix_tokens"):
        raise UserError(f"teacher.shard: {arch} is no ViT, and any other fits on one GPU; leave shard out")
    return cast(Iterable[nn.Module], blocks.children())
