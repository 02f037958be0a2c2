"""Jobs on a real Slurm, started and stopped here: queued, stopped in the middle, requeued, resumed, gathered."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests import tiny
from tests.commands import BIN
from tests.jobs.cluster import ask, cluster, missing_programs, wait_until
from tests.tiny import World
from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone

pytestmark = pytest.mark.slurm
CPU = ("--slurm", "--gpus", "0")
EPOCHS, NUM_STEPS = 20.0, 180
FOR_EVER = 10000.0


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    """A cluster, known to every command that is started meanwhile; the folder of its logs."""
    missing = missing_programs()
    if missing:
        pytest.fail(f"no {', '.join(missing)} on this machine; on Debian: apt-get install slurm-wlm munge")
    with cluster() as configuration, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield configuration.parent


@pytest.fixture(autouse=True)
def folder(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the commands run; their features are cached there, too. A test that fails shows what has happened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UKD_CACHE", str(tmp_path / "cache"))
    yield
    subprocess.run(["squeue"])
    for each in (*slurm.glob("slurm*.log"), *Path.cwd().glob("slurm/*.out")):
        print(f"--- {each}", *each.read_text().splitlines()[-30:], sep="\n", flush=True)


def run(*command: object, status: int = 0) -> str:
    """Runs an installed command to its end; what it prints and complains of."""
    done = subprocess.run([str(BIN / str(command[0])), *map(str, command[1:])], capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def submit(*command: object) -> str:
    """Submits a command; the job's number."""
    number = re.search(r"^submitted  job (\d+)", run(*command, *CPU), re.MULTILINE)
    assert number
    return number[1]


def recipe(world: World, name: str, epochs: float) -> Path:
    """A distillation into runs/NAME."""
    data = {"train": str(world.arrays), "num_workers": 1}
    return tiny.write_recipe(Path(f"{name}.yaml"), world.distillation(Path("runs", name), epochs=epochs, data=data))


def log(job: str, rank: int = 0) -> str:
    """What a process of a job has printed."""
    path = Path("slurm", f"{job}_{rank}_log.out")
    return path.read_text() if path.exists() else ""


def commands(job: str) -> list[str]:
    """The command as each start of a job ran it."""
    return re.findall(r"^\$ .*", log(job), re.MULTILINE)


def stopped_after(job: str) -> list[int]:
    """The steps after which a job's command was stopped."""
    stopped = re.findall(r"stopped by (?:SIGINT|SIGTERM|another process) after step (\d+)", log(job))
    return [int(step) for step in stopped]


def wait_for_steps(job: str, run: str, num_starts: int = 1) -> None:
    """Waits until a job has started so many times, and has trained since."""
    metrics = Path("runs", run, "metrics.jsonl")

    def happened() -> bool:
        if len(commands(job)) < num_starts or not metrics.exists():
            return False
        return max(tiny.metrics(metrics.parent, "loss"), default=0) > max(stopped_after(job), default=0)

    wait_until(happened, f"job {job} to train")


def shown(job: str, what: str) -> str:
    """What Slurm says of a job."""
    found = re.search(rf"\b{what}=(\S+)", ask("scontrol", "show", "job", job))
    assert found
    return found[1]


def wait_for_requeue(job: str) -> None:
    """Waits until a job is in the queue again, and spares it the two minutes that Slurm would make it wait there.

    They are for the credential of its first start to expire; one of a later second is as good.
    """
    wait_until(lambda: ask("squeue", "--noheader", "--jobs", job, "--format=%T") == "PENDING", f"job {job} to requeue")
    ask("scontrol", "update", f"JobId={job}", "StartTime=now+2")


def wait_for_end(job: str) -> str:
    """Waits until a job is over; how it ended."""
    wait_until(lambda: not ask("squeue", "--noheader", "--me"), f"job {job} to leave the queue")
    return shown(job, "JobState")


def student(name: str) -> str:
    """sha256 of a run's student."""
    return sha256(Path("runs", name, "student.safetensors").read_bytes()).hexdigest()


def test_a_job_stopped_ahead_of_its_time_limit_goes_on_to_the_same_student(world: World) -> None:
    job = submit("ukd-distill", recipe(world, "stopped", EPOCHS))
    wait_for_steps(job, "stopped")
    ask("scancel", "--signal", "USR2", job)
    wait_for_requeue(job)
    run("ukd-distill", recipe(world, "whole", EPOCHS))
    assert wait_for_end(job) == "COMPLETED" and shown(job, "Restarts") == "1"
    (step,) = stopped_after(job)
    assert 0 < step < NUM_STEPS
    first, second = commands(job)
    assert second == f"{first} --resume"
    assert student("stopped") == student("whole")


def test_a_preempted_job_of_two_processes_goes_on(world: World) -> None:
    job = submit("ukd-distill", recipe(world, "two", FOR_EVER), "--sbatch", "ntasks-per-node=2")
    wait_for_steps(job, "two")
    ask("scancel", "--signal", "TERM", job)  # As Slurm preempts: nobody has cancelled the job, so it may go on.
    wait_for_requeue(job)
    wait_for_steps(job, "two", num_starts=2)
    assert len(commands(job)) == 2 and len(stopped_after(job)) == 1
    assert log(job, rank=1).count("global_rank=1(2)") == 2
    ask("scancel", job)
    assert wait_for_end(job) == "CANCELLED" and shown(job, "Restarts") == "1"


def test_a_job_that_slurm_requeues_resumes_and_one_that_is_cancelled_does_not(world: World) -> None:
    job = submit("ukd-distill", recipe(world, "long", FOR_EVER))
    wait_for_steps(job, "long")
    ask("scontrol", "requeue", job)
    wait_for_requeue(job)
    wait_for_steps(job, "long", num_starts=2)
    ask("scancel", job)
    assert wait_for_end(job) == "CANCELLED" and shown(job, "Restarts") == "1"
    assert [command.endswith(" --resume") for command in commands(job)] == [False, True]
    first, second = stopped_after(job)
    assert 0 < first < second
    assert tiny.checkpoints(Path("runs", "long"))[-1] == f"step-{second:09d}.ckpt"


def test_a_job_gives_up_after_its_last_timeout_and_keeps_its_checkpoint(world: World) -> None:
    job = submit("ukd-distill", recipe(world, "long", FOR_EVER), "--time", "5", "--requeues", "0")
    wait_for_steps(job, "long")
    ask("scancel", "--signal", "USR2", job)
    assert wait_for_end(job) == "FAILED" and shown(job, "Restarts") == "0"
    assert "Job not requeued because: timed-out too many times." in log(job)
    (step,) = stopped_after(job)
    assert tiny.checkpoints(Path("runs", "long"))[-1] == f"step-{step:09d}.ckpt"


def test_an_array_finds_what_one_command_finds_under_the_script_that_was_shown(world: World) -> None:
    other = build_backbone(**tiny.STUDENT, size_px=tiny.SIZE_PX, crop_pct=1.0, seed=2)
    export_backbone(Path.cwd(), "student", other, {})
    models = ["--ckpt", world.teacher / "teacher.safetensors", "--ckpt", "student.safetensors"]
    task = ["ukd-eval", "knn", *models, "--train", world.arrays, "--test", world.arrays, "--num-workers", "0"]
    run(*task, "--output", "here.json")
    array = [*task, "--output", "there.json", *CPU, "--array"]
    planned = run(*array, "--dry-run")
    gathered = run(*array, "--wait")
    assert "knn, preset dino; " in gathered and "written: there.json" in gathered
    here, there = (json.loads(Path(f"{name}.json").read_text())["results"] for name in ("here", "there"))
    assert len(here) == len(there) == 4
    for ours, theirs in zip(here, there, strict=True):
        assert (ours["model"], ours["metrics"]) == (theirs["model"], theirs["metrics"])
    (script,) = Path("slurm").glob("*_submission.sh")
    assert planned == script.read_text() + "\n"


def test_a_mistake_ends_the_job_with_its_message_and_status(world: World) -> None:
    task = ["ukd-eval", "knn", "--ckpt", "nowhere", "--train", world.arrays, "--test", world.arrays]
    done = run(*task, *CPU, "--wait", status=2)
    found = re.search(r"not finished: job (\d+) \(log: slurm/\1_0_log.out\)", done)
    assert found and "Traceback" not in done
    assert "nowhere does not exist" in log(found[1]) and "Traceback" not in log(found[1])
    assert shown(found[1], "ExitCode") == "2:0"


def test_what_slurm_refuses_is_said_in_its_words(world: World) -> None:
    done = run("ukd-distill", recipe(world, "a", 1.0), *CPU, "--partition", "gpu", status=2)
    assert "sbatch refuses the job: " in done and done.count("invalid partition specified: gpu") == 1
    assert "Traceback" not in done
