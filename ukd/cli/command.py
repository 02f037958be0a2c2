"""What the commands share: how they end."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ukd.errors import UserError
from ukd.messages import set_up_logging


@contextmanager
def clear_errors() -> Iterator[None]:
    """Ends a user's mistake or a full disk in its message and exit status 2, Ctrl-C in 130; none in a traceback."""
    set_up_logging()
    try:
        yield
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"disk: {error.strerror}; what was saved before is untouched, and --resume continues from it",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
