"""Frozen protocols: a figure is worth what its protocol says, so every protocol has a name and a hash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any, TypeVar

from ukd.errors import UserError


@dataclass(frozen=True)
class NamedPreset:
    """A frozen protocol; a changed field changes its hash, so figures of two protocols never meet unnoticed.

    Attributes:
        name: What tables call it.
    """

    name: str

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of every field."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


P = TypeVar("P", bound=NamedPreset)


def find(task: str, presets: Mapping[str, P], names: Sequence[str]) -> list[P]:
    """Look presets up by name, each once.

    Raises:
        UserError: No such preset.
    """
    unknown = [name for name in names if name not in presets]
    if unknown:
        raise UserError(f"{task}: no preset {unknown[0]!r}; choose from {', '.join(presets)}")
    return [presets[name] for name in dict.fromkeys(names)]


def customised(preset: P, **changes: Any) -> P:
    """Change fields of a preset; what differs from it is called `<name>-custom`."""
    changed = replace(preset, **changes)
    return preset if changed == preset else replace(changed, name=f"{preset.name}-custom")
