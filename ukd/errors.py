"""The mistakes a user can mend. A command prints the message and exits 2; nobody sees a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right; the message says what was wrong, where, and what would be right."""


class DataError(UserError):
    """Images or labels that cannot be used as asked."""


class NotOnDiskError(DataError):
    """Images that would be usable, but are not where they are looked for."""


class WeightsError(UserError):
    """A file of weights that cannot be loaded, or does not fit its architecture."""


class RunFolderError(UserError):
    """A run folder that already holds something else, or lacks what is asked of it."""


class TrainingError(UserError):
    """Training that must stop because going on would make a wrong number."""
