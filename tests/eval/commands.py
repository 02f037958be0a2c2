"""Runs `ukd-eval` in this process and reads what it wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ukd.eval.cli import main


def run_cli(arguments: Sequence[str | Path], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs `ukd-eval` in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["ukd-eval", *map(str, arguments), "--num-workers", "0"])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def stored(path: Path) -> list[dict]:  # type: ignore[type-arg]
    """The results in a file."""
    return json.loads(path.read_text())["results"]  # type: ignore[no-any-return]
