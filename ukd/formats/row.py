"""What a row of the table of formats says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Head:
    """Where a format keeps a projection head, and what its tensors do not tell.

    Attributes:
        prefix: What its names begin with. After it stands the number of the layer in an `nn.Sequential`.
        activation: The layer that stands in each gap of the numbers.
        order: Where layers have names instead: the names in order, empty for an activation.
        needs: Pattern of a name that must be there too; tells heads apart that differ in their activation alone.
    """

    prefix: str
    activation: type[nn.Module] = nn.ReLU
    order: tuple[str, ...] = ()
    needs: str = "*"


@dataclass(frozen=True)
class Format:
    """One kind of checkpoint. Patterns are globs in which `*` matches dots too; `|` stands between alternatives.

    Attributes:
        name: What the recipe calls it.
        title: What people call it.
        source: Where its layout is defined, `repository:path`.
        file: Which file it is.
        containers: Dotted paths into the file, of which the first that holds tensors counts.
        prefixes: What the backbone's names begin with, of which the first that some name begins with counts.
        siblings: Names that the file has at its top.
        marks: Patterns each of which some name fits. A row with neither siblings nor marks is chosen by its name alone.
        drops: Pattern of the names that are left behind: predictors, queues, the other network, decoders.
        heads: Where its projection head is, if it has one, of which the first that is there counts.
        num_heads: Attention heads by width, where they are not those of timm's architecture: no shape tells.
        pools_token: The feature of its ViTs is the class token, also where that of timm's is a mean over patches.
        mean: Normalisation mean that it was trained with; None where the format does not tell.
        std: Standard deviation.
    """

    name: str
    title: str
    source: str
    file: str
    containers: tuple[str, ...] = ("",)
    prefixes: tuple[str, ...] = ("",)
    siblings: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    drops: str = ""
    heads: tuple[Head, ...] = ()
    num_heads: Mapping[int, int] = field(default_factory=dict)
    pools_token: bool = False
    mean: RGB | None = None
    std: RGB | None = None


def fits(name: str, pattern: str) -> bool:
    """Whether a name fits one of a pattern's alternatives."""
    return any(fnmatchcase(name, each) for each in pattern.split("|"))
