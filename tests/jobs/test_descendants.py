"""That nothing outlives what the tests of jobs start."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.jobs.descendants import descendants, none_left


def test_what_has_detached_itself_is_found_and_ended(tmp_path: Path) -> None:
    before = descendants()
    deaf = f"trap '' TERM INT HUP; echo $$ > {tmp_path}/pid; exec sleep 60"
    with pytest.raises(RuntimeError), none_left():
        # Its parent ends at once, as that of a daemon does.
        subprocess.run(["sh", "-c", 'setsid sh -c "$1" &', "sh", deaf], check=True)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        detached = int((tmp_path / "pid").read_text())
        assert detached in descendants() - before
        raise RuntimeError
    assert descendants() == before and not Path(f"/proc/{detached}").exists()
