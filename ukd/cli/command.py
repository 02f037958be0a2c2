"""What the commands share: how they end."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ukd.errors import UserError


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turns a user's mistake into its message and exit status 2, and Ctrl-C into 130; neither shows a traceback."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        yield
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
