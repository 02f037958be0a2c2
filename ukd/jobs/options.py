"""Makes a command of the command line one that can be a job: `--slurm` and its settings beside its own options."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from ukd.errors import UserError
from ukd.jobs.settings import Settings

if TYPE_CHECKING:
    from ukd.jobs.command import Command

Arguments = Mapping[str, Any]
After = Callable[[Arguments, Sequence[Arguments], bool], None]
"""Called with the command's arguments, those of each of its jobs, and whether these have succeeded already."""


def submittable(
    *,
    many_processes: bool = True,
    check: Callable[..., None] | None = None,
    after: After | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a Typer command the options of `Settings`; with `--slurm`, a job runs the same command line.

    Args:
        many_processes: Whether several processes share the command's work.
        check: Takes the command's arguments before a job is submitted, and refuses what could not work.
        after: What is done after the submission or, with `--wait`, after the jobs that succeeded; given where the
            command writes a result file, so that each job of an array needs one of its own.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = signature(function).parameters
        options = [each for each in _parameters(Settings) if each.name != "array" or "ckpt" in own]

        @wraps(function)
        def command(**arguments: Any) -> None:
            settings = Settings(**{each.name: arguments.pop(each.name) for each in options})
            if not settings.slurm:
                _refuse_without_slurm(settings)
                function(**arguments)
                return
            if not many_processes and settings.nodes * settings.processes_per_node > 1:
                raise UserError(f"{function.__name__}: runs in one process; ask for --nodes 1 and at most --gpus 1")
            if check:
                check(**arguments)
            _run_as_jobs(function.__name__, arguments, settings, after)

        parameters = [*_parameters(function), *options]
        command.__signature__ = signature(function).replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def without(arguments: Sequence[str], options: Mapping[str, bool]) -> list[str]:
    """A command line without some of its options.

    Args:
        arguments: The command line.
        options: The options, with their dashes; True for those that have a value.
    """
    rest, tokens = [], iter(arguments)
    for token in tokens:
        name, has_value, _ = token.partition("=")
        if name not in options:
            rest.append(token)
        elif options[name] and not has_value:
            next(tokens, None)
    return rest


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    """Parameters by keyword, with annotations that are types and not their names."""
    hints = get_type_hints(function, include_extras=True)
    return [
        each.replace(annotation=hints[each.name], kind=Parameter.KEYWORD_ONLY)
        for each in signature(function).parameters.values()
    ]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _refuse_without_slurm(settings: Settings) -> None:
    given = [each.name for each in fields(settings) if getattr(settings, each.name) != each.default]
    if given:
        raise UserError(f"{', '.join(map(_option, given))}: set for a Slurm job; add --slurm to make this one")


def _run_as_jobs(task: str, arguments: Arguments, settings: Settings, after: After | None) -> None:
    from ukd.jobs.submission import script, submit, wait

    parts = _parts(arguments, apart=after is not None) if settings.array else [arguments]
    commands = [_command(part, settings.array) for part in parts]
    name = f"ukd-{task}"
    if settings.dry_run:
        print(script(name, commands, settings))
        return
    jobs = submit(name, commands, settings)
    array = jobs[0].id.partition("_")[0]
    print(f"submitted  job {array}" + (f", {len(jobs)} commands" if len(jobs) > 1 else ""))
    for job in jobs:
        print(f"log        tail -F {job.log}")
    print(f"state      squeue --jobs {array}\ncancel     scancel {array}", flush=True)
    failed = wait(jobs) if settings.wait else []
    if after:
        after(arguments, [part for part, job in zip(parts, jobs, strict=True) if job not in failed], settings.wait)
    if failed:
        raise UserError("--wait: not finished: " + ", ".join(f"job {job.id} (log: {job.log})" for job in failed))


def _parts(arguments: Arguments, apart: bool) -> list[Arguments]:
    """The arguments of each job of an array, which has one checkpoint and, if they are apart, its own output."""
    output: Path | None = arguments["output"]
    return [
        {
            **arguments,
            "ckpt": [checkpoint],
            "output": output.with_suffix(f".{number}{output.suffix}") if output and apart else output,
        }
        for number, checkpoint in enumerate(arguments["ckpt"])
    ]


def _command(part: Arguments, is_part: bool) -> Command:
    """The command line of this process without the options of jobs, and for a part of it what is its own."""
    from ukd.jobs.command import Command

    options = {_option(each.name): not isinstance(each.default, bool) for each in fields(Settings)}
    own: list[str] = []
    if is_part:
        options |= {"--ckpt": True, "--output": True}
        own = ["--ckpt", *part["ckpt"], *(["--output", str(part["output"])] if part["output"] else [])]
    # The interpreter and its arguments, of which sys.argv lacks the first.
    return Command([sys.executable, *without(sys.orig_argv[1:], options), *own], resumes="resume" in part)
