"""Runs the commands: in this process where that tells enough, as processes of their own where it does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import typer
from typer.testing import CliRunner, Result

BIN = Path(sys.executable).parent


def invoke(app: typer.Typer, *arguments: object) -> Result:
    """Runs a command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(*command: object) -> subprocess.Popen[str]:
    """Starts an installed command with as many threads as this process has, so that it computes the same bits."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [str(BIN / str(command[0])), *map(str, command[1:])], stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits for something that a process is to do."""
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
