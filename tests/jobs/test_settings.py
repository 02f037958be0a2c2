"""What is asked of the cluster, and what is refused before the cluster sees it."""

from __future__ import annotations

import pytest

from ukd.errors import UserError
from ukd.jobs.settings import Settings


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:00", 90),
        ("90:01", 91),
        ("4:00:00", 240),
        ("04:30:30", 271),
        ("2-0", 2880),
        ("2-12", 3600),
        ("2-12:30", 3630),
        ("1-00:05:01", 1446),
    ],
)
def test_a_time_is_read_as_slurm_reads_it(text: str, minutes: int) -> None:
    assert Settings(time=text).minutes == minutes


@pytest.mark.parametrize("text", ["", "4h", "1:2:3:4", "-5", "1-", "1-2-3", "4:00:", "٤:00:00", "1.5"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="no time that Slurm understands; write minutes, "):
        _ = Settings(time=text).minutes


@pytest.mark.parametrize(("text", "minutes"), [("0", 0), ("4", 4), ("3:59", 4), ("0:03:00", 3)])
def test_a_time_too_short_to_stop_in_is_refused(text: str, minutes: int) -> None:
    with pytest.raises(UserError, match=rf"--time {text}: {minutes} minutes; .* give it at least 5"):
        _ = Settings(time=text).minutes


def test_other_options_have_the_names_of_submitit() -> None:
    settings = Settings(sbatch=["mem-per-cpu=2G", "--constraint=a100|h100", "exclusive", "comment=a=b"])
    assert settings.other_options == {
        "mem_per_cpu": "2G",
        "constraint": "a100|h100",
        "exclusive": True,
        "comment": "a=b",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time=4", "this is set by --time"),
        ("--gpus-per-node=8", "this is set by --gpus"),
        ("cpus_per_task=8", "this is set by --cpus"),
        ("output=log", "this is set by --slurm-folder"),
        ("no-requeue", "ukd sets this itself"),
        ("signal=TERM@10", "ukd sets this itself"),
        ("mem 64G", "write it as KEY=VALUE"),
        ("-p=gpu", "write it as KEY=VALUE"),
        ("", "write it as KEY=VALUE"),
    ],
)
def test_other_options_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = Settings(sbatch=[text]).other_options
