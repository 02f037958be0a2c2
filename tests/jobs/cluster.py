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

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
PATIENCE_S = 240.0
"""How long something may take on a busy machine before a test gives up."""
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job starts again once its credential of so many seconds has expired; 120 is the default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
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
        time.sleep(0.1)


def ask(*command: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """Runs a cluster in a folder for the time of a `with` block; yields its slurm.conf, for SLURM_CONF."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    configuration = folder / "slurm.conf"
    names = {"folder": folder, "user": getpass.getuser(), "host": socket.gethostname().partition(".")[0]}
    configuration.write_text(CONFIGURATION.format(ports=_free_ports(2), **names))
    environment = {**os.environ, "SLURM_CONF": str(configuration), "PATH": _path()}
    with ExitStack() as running:
        running.enter_context(_daemon(_munged(folder), environment))
        wait_until((folder / "munge.socket").exists, "munged")
        running.enter_context(_daemon(["slurmctld", "-D"], environment))
        running.enter_context(_daemon(["slurmd", "-D", "-N", "localhost"], environment))
        wait_until(lambda: _output(["sinfo", "--noheader", "--format=%T"], environment) == "idle", "Slurm")
        yield configuration
        _output(["scancel", "--me"], environment)
        wait_until(lambda: not _output(["squeue", "--noheader"], environment), "the jobs to end")


@contextmanager
def _daemon(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


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
