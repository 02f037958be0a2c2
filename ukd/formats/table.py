"""The table of formats, in the order in which they are tried."""

from __future__ import annotations

from ukd.errors import WeightsError
from ukd.formats.libraries import LIBRARIES
from ukd.formats.methods import METHODS
from ukd.formats.row import Format
from ukd.formats.students import STUDENTS

OURS, *_others = LIBRARIES
FORMATS: dict[str, Format] = {row.name: row for row in (OURS, *METHODS, *STUDENTS, *_others)}
"""Every row by its name. Where several fit a file and read the same tensors, the first gives the name."""
PLAIN = FORMATS["timm"]
"""The row for a file that fits no other."""


def format_named(name: str) -> Format:
    """Looks a row up.

    Raises:
        WeightsError: No such row.
    """
    if name not in FORMATS:
        raise WeightsError(f"format: there is no {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
