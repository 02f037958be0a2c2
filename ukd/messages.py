"""What a command prints beside its result; light, so that `--help` needs no torch."""

from __future__ import annotations

import logging
import warnings


def set_up_logging() -> None:
    """Has a command print, each as a plain line, its warnings, as what weights were read, and what lists leave out."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    logging.basicConfig(format="%(message)s")
    for told in ("ukd.formats", "ukd.teacher_space"):
        logging.getLogger(told).setLevel(logging.INFO)
