"""What a backbone gives for a batch of views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Features:
    """The output of one backbone for one view of B images; nothing here is normalised.

    Attributes:
        pooled: [B, D], what `timm.create_model(arch, num_classes=0)` returns.
    """

    pooled: Tensor
