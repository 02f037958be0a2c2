"""What becomes of the result files of evaluations that ran as jobs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ukd.jobs.options import Arguments, submittable


def as_job(command: Callable[..., None], *, many_processes: bool, has_results: bool) -> Callable[..., None]:
    """Gives a command the options of jobs.

    Args:
        command: It takes `ckpt` and `output`.
        many_processes: Whether several processes share its work.
        has_results: Whether it writes result files, which are gathered once the jobs are over.
    """
    after = partial(_gather_or_say_how, command.__name__) if has_results else None
    return submittable(many_processes=many_processes, after=after)(command)


def _gather_or_say_how(task: str, arguments: Arguments, parts: Sequence[Arguments], are_over: bool) -> None:
    from ukd.eval.commands.gather import gather

    files = [file for part in parts for file in _result_files(task, part)]
    if not files:
        return
    if are_over:
        apart = any(part["output"] != arguments["output"] for part in parts)
        gather(files, arguments["output"] if apart else None)
    else:
        print(f"gather     ukd-eval gather {shlex.join(map(str, files))}")


def _result_files(task: str, part: Arguments) -> list[Path]:
    from ukd.eval.results import result_file

    if part["output"]:
        return [part["output"]]
    files = [result_file(checkpoint, task) for checkpoint in part["ckpt"]]
    return [file for file in files if file]
