"""Files of weights from anywhere: read without running their code, understood by a table, loaded strictly.

`read` opens a file, `match` finds the row of the table that it is, `load` gives its backbone to timm's model, and
`build_head` rebuilds its projection head.
"""

from __future__ import annotations

from ukd.formats.fitting import kwargs_for, load
from ukd.formats.heads import build_head, output_dim
from ukd.formats.matching import Match, match
from ukd.formats.reading import Stored, find_weights, read, read_info

__all__ = [
    "Match",
    "Stored",
    "build_head",
    "find_weights",
    "kwargs_for",
    "load",
    "match",
    "output_dim",
    "read",
    "read_info",
]
