"""A real Slurm of one machine: munged, slurmctld and slurmd, started by the tests and stopped after them."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.jobs.descendants import none_left

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
PATIENCE_S = 600.0
"""How long something may take on a machine that has other things to do, before a test gives up."""
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
# Processes meet at a port that follows from the job's number; those of another cluster here shall meet elsewhere.
FirstJobId={ports[0]}
# Where the cores are busy, starting and stopping take longer than Slurm would wait before it calls them failed.
MessageTimeout=60
TCPTimeout=30
BatchStartTimeout=300
KillWait=300
UnkillableStepTimeout=600
SlurmdTimeout=0
# More cores than the machine may have, as a job that waited for one would keep the tests waiting.
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
"""


def missing_programs() -> list[str]:
    """Names what has to be installed before a cluster can be started."""
    return [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Waits for something that Slurm or a job is to do."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, f"waited {PATIENCE_S:.0f} s for {what}"
        time.sleep(0.25)


def ask(*command: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def cluster() -> Iterator[Path]:
    """Runs a cluster for the time of a `with` block, after which nothing is left of it, whatever has happened.

    Yields:
        Its slurm.conf, for SLURM_CONF; the logs of its daemons lie beside it.
    """
    with TemporaryDirectory(prefix="slurm-") as name, none_left():
        folder = Path(name)
        configuration = folder / "slurm.conf"
        names = {"folder": folder, "user": getpass.getuser(), "host": socket.gethostname().partition(".")[0]}
        configuration.write_text(CONFIGURATION.format(ports=_free_ports(2), **names))
        for part in ("state", "spool"):
            (folder / part).mkdir()
        environment = {**os.environ, "SLURM_CONF": str(configuration), "PATH": _path()}
        _start(_munged(folder), environment)
        wait_until((folder / "munge.socket").exists, "munged")
        _start(["slurmctld", "-D"], environment)
        _start(["slurmd", "-D", "-N", "localhost"], environment)
        wait_until(lambda: _output(["sinfo", "--noheader", "--format=%T"], environment) == "idle", "Slurm")
        yield configuration


def _start(daemon: list[str], environment: dict[str, str]) -> None:
    # In a session of its own, as a Ctrl-C is for the tests alone: they stop it.
    subprocess.Popen(daemon, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)


def _munged(folder: Path) -> list[str]:
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    files = {"key-file": key, "socket": "munge.socket", "pid-file": "munged.pid"}
    files |= {"log-file": "munged.log", "seed-file": "munge.seed"}
    return ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in files.items())]


def _free_ports(num: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(num)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _output(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()


def _path() -> str:
    """Daemons are in /usr/sbin, which not every user has on the PATH."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
