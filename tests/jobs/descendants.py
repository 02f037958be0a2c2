"""What a process has started, directly or not, however it has detached itself since."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
"""From Linux's prctl.h."""


@contextmanager
def none_left() -> Iterator[None]:
    """Kills, at the end of a `with` block, every process that was started in it.

    Slurm's daemons leave the steps of jobs to init, so that they outlive a daemon; in the block, this process has the
    place of init. SIGTERM ends the block as Ctrl-C does.
    """
    before = descendants()
    libc = ctypes.CDLL(None)
    terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        while left := descendants() - before:
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                with suppress(ChildProcessError):  # The others become children of this one once their parent is gone.
                    os.waitpid(process, os.WNOHANG)
            time.sleep(0.05)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        signal.signal(signal.SIGTERM, terminate)


def descendants() -> set[int]:
    """The numbers of all processes that this one has started, and of those that these have started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    generation = {os.getpid()}
    while generation:
        generation = {process for process, parent in parents.items() if parent in generation}
        found |= generation
    return found
