"""What a layout is: how the names of one implementation become those of timm, and how that is done."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ukd.errors import WeightsError
from ukd.formats.row import fits

Tensors = dict[str, Tensor]
Rename = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class Layout:
    r"""One implementation's names.

    Attributes:
        title: Whose they are.
        mark: Pattern of names that only this layout has.
        renames: Regular expressions and what replaces their matches, one after the other.
        drops: Pattern of the names that have no place in timm's model and no effect on its features.
        joins: Regular expression of names whose tensors timm keeps as one; its group `part` is one of `parts`.
        joined: Name of the whole, in which `\g<group>` stands for groups of `joins`.
        parts: The parts in the order of timm's tensor.
        convert: What more there is to do, on timm's names.
    """

    title: str
    mark: str
    renames: tuple[Rename, ...]
    drops: str = ""
    joins: str = ""
    joined: str = ""
    parts: tuple[str, ...] = ()
    convert: Callable[[Tensors], Tensors] | None = None

    def apply(self, tensors: Mapping[str, Tensor]) -> Tensors:
        """Gives tensors the names, and where it must be the shapes, that timm's model has.

        Raises:
            WeightsError: A part of a tensor that timm keeps as one is missing, or two names become one.
        """
        kept = {name: value for name, value in tensors.items() if not fits(name, self.drops)}
        renamed: Tensors = {}
        for name, value in (self._join(kept) if self.joins else kept).items():
            for pattern, replacement in self.renames:
                name = re.sub(pattern, replacement, name)
            if name in renamed:
                raise WeightsError(f"weights: two tensors of the file are timm's {name}; is it one model's?")
            renamed[name] = value
        return self.convert(renamed) if self.convert else renamed

    def _join(self, tensors: Tensors) -> Tensors:
        """Puts the tensors of each group together along their first dimension."""
        joined: Tensors = {}
        for name, value in tensors.items():
            found = re.fullmatch(self.joins, name)
            if found is None:
                joined[name] = value
                continue
            start, end = found.span("part")
            group = [f"{name[:start]}{part}{name[end:]}" for part in self.parts]
            missing = [each for each in group if each not in tensors]
            if missing:
                raise WeightsError(f"weights: missing {', '.join(missing)}, which goes with {name}")
            joined[found.expand(self.joined)] = torch.cat([tensors[each] for each in group])
        return joined


def add_position_of_class_token(tensors: Tensors) -> Tensors:
    """Where there are registers, timm keeps the class token's position in the token itself."""
    if not {"reg_token", "cls_token", "pos_embed"} <= tensors.keys():
        return tensors
    position = tensors["pos_embed"]
    return {**tensors, "cls_token": tensors["cls_token"] + position[:, :1], "pos_embed": position[:, 1:]}


def split_bias(tensors: Tensors) -> Tensors:
    """Splits the bias of queries, keys and values, of which timm's DINOv3 has no keys': the official one is masked.

    Raises:
        WeightsError: A bias of keys that is not zero.
    """
    split: Tensors = {}
    for name, value in tensors.items():
        if not name.endswith("attn.qkv.bias"):
            split[name] = value
            continue
        of_queries, of_keys, of_values = value.chunk(3)
        if torch.count_nonzero(of_keys):
            raise WeightsError(f"weights: {name} has a bias of keys that is not zero, for which timm has no place")
        split[name.replace("qkv.bias", "q_bias")] = of_queries
        split[name.replace("qkv.bias", "v_bias")] = of_values
    return split
