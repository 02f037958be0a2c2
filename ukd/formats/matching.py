"""Which row of the table a file is, and what that row takes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ukd.errors import WeightsError
from ukd.formats.reading import Stored
from ukd.formats.row import Format, Head, fits
from ukd.formats.table import FORMATS, PLAIN, format_named


@dataclass(frozen=True)
class Match:
    """A file read by a row.

    Attributes:
        stored: The file.
        row: The row.
        container: Where in the file the row looked.
        prefix: What the backbone's names began with.
        backbone: The backbone's tensors by their names in the file, without that.
        head: Where the projection head is; None for none.
        head_tensors: Its tensors, without its prefix.
    """

    stored: Stored
    row: Format
    container: str
    prefix: str
    backbone: Mapping[str, Tensor]
    head: Head | None
    head_tensors: Mapping[str, Tensor]

    @property
    def num_heads(self) -> int | None:
        """Attention heads, where the file or its format says them; None leaves them to timm."""
        if "num_attention_heads" in self.stored.config:
            return int(self.stored.config["num_attention_heads"])
        token = self.backbone.get("cls_token")
        return self.row.num_heads.get(token.shape[-1]) if token is not None else None

    @property
    def mean(self) -> Any:
        """Normalisation mean, where the file or its format says it."""
        return self.stored.config.get("image_mean") or self.row.mean

    @property
    def std(self) -> Any:
        """Standard deviation, likewise."""
        return self.stored.config.get("image_std") or self.row.std


class NoMatchError(WeightsError):
    """A file that a row does not fit; the message begins with what it lacks or has too much."""


def match(stored: Stored, name: str | None = None) -> Match:
    """Reads a file by the row of that name, or finds its row.

    Without a name every row that has marks is tried. Where several fit and read the same tensors, the first of the
    table gives the name; a file that fits none is taken for a plain state_dict in timm's names.

    Raises:
        WeightsError: No such row, a row that does not fit, or rows that fit and would read different tensors.
    """
    if name is not None:
        row = format_named(name)
        try:
            return _take(stored, row)
        except NoMatchError as error:
            raise WeightsError(f"format: {stored.path} is not {row.title} ({name}): it {error}") from None
    found = []
    for row in FORMATS.values():
        if (row.siblings or row.marks) and not _lacks(stored, row):
            try:
                found.append(_take(stored, row))
            except NoMatchError:
                continue
    if len({_reading(each) for each in found}) > 1:
        names = ", ".join(f"{each.row.name} ({each.row.title})" for each in found)
        raise WeightsError(f"format: {stored.path} fits several formats that read different tensors: {names}; name one")
    try:
        return found[0] if found else _take(stored, PLAIN)
    except NoMatchError as error:
        raise WeightsError(f"{error_of_unknown(stored)} (as {PLAIN.title} it {error})") from None


def error_of_unknown(stored: Stored) -> str:
    """What to say of a file that fits no row: the names it begins with, and the nearest row."""
    first = list(_largest(stored))[:6]
    scores = {row.name: _lacks(stored, row) for row in FORMATS.values() if row.marks and row is not PLAIN}
    near = min(scores, key=lambda name: len(scores[name]) / len(FORMATS[name].marks + FORMATS[name].siblings))
    wanted = FORMATS[near].marks + FORMATS[near].siblings
    nearest = (
        f"; nearest is {FORMATS[near].title} ({near}), which also has {', '.join(scores[near])}"
        if 0 < len(scores[near]) < len(wanted)
        else ""
    )
    return (
        f"weights: {stored.path} fits no known format; its names begin {', '.join(first) or 'nowhere'}{nearest}. Save "
        "the backbone's state_dict in timm's names, or see docs/formats.md"
    )


def _reading(each: Match) -> tuple[str, str, str]:
    return each.container, each.prefix, each.head.prefix if each.head else ""


def _lacks(stored: Stored, row: Format) -> list[str]:
    """The siblings and marks of a row that a file does not have."""
    lacking = [key for key in row.siblings if key not in stored.keys]
    names = next((found for each in row.containers if (found := stored.tensors(each))), {})
    return lacking + [mark for mark in row.marks if not any(fits(name, mark) for name in names)]


def _take(stored: Stored, row: Format) -> Match:
    """Takes the tensors of a row out of a file.

    Raises:
        NoMatchError: Nothing is where the row looks, or names are there of which it does not know.
    """
    container = next((each for each in row.containers if stored.tensors(each)), None)
    if container is None:
        where = " or ".join(each or "its top" for each in row.containers)
        raise NoMatchError(f"holds no plain set of named tensors under {where} (found {_held(stored)})")
    tensors = stored.tensors(container) or {}
    head = next((each for each in row.heads if _has(tensors, each)), None)
    rest = {
        name: value
        for name, value in tensors.items()
        if not fits(name, row.drops) and not any(name.startswith(each.prefix) for each in row.heads)
    }
    prefix = next((each for each in row.prefixes if any(name.startswith(each) for name in rest)), None)
    if prefix is None:
        raise NoMatchError(f"has no names that begin with {' or '.join(row.prefixes)}; they begin {_some(tensors)}")
    strangers = [name for name in rest if not name.startswith(prefix)]
    if strangers:
        raise NoMatchError(f"has names beside {prefix}* of which the format does not know: {_some(strangers)}")
    return Match(
        stored=stored,
        row=row,
        container=container,
        prefix=prefix,
        backbone={name.removeprefix(prefix): value for name, value in rest.items()},
        head=head,
        head_tensors=_below(tensors, head.prefix) if head else {},
    )


def _has(tensors: Mapping[str, Tensor], head: Head) -> bool:
    return any(name.startswith(head.prefix) for name in tensors) and any(fits(name, head.needs) for name in tensors)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _largest(stored: Stored) -> Mapping[str, Any]:
    """The largest set of tensors in a file, or its top."""
    containers = {each for row in FORMATS.values() for each in row.containers} | set(map(str, stored.tree))
    sets = [stored.tensors(each) or {} for each in sorted(containers)]
    return max(sets, key=len, default={}) or stored.tree


def _held(stored: Stored) -> str:
    strangers = [str(key) for key, value in stored.tree.items() if not isinstance(value, Tensor)]
    return ", ".join(strangers[:5]) or type(stored.tree).__name__


def _some(names: Any, most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
