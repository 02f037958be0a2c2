"""Jobs in the queue of a stand-in for Slurm, which keeps what it is given."""

from __future__ import annotations

import pickle
import subprocess
from pathlib import Path

import pytest
from submitit.core.utils import DelayedSubmission

from tests.jobs.conftest import Program
from ukd.errors import UserError
from ukd.jobs import submission
from ukd.jobs.command import Command
from ukd.jobs.settings import Settings
from ukd.jobs.submission import Job, script, submit, wait

COMMANDS = [Command(["ukd-eval", "knn", "--ckpt", f"runs/{name}"], resumes=False) for name in ("a", "b c")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def slurm(program: Program) -> None:
    program("srun", "exit 1")
    program("sbatch", 'cp "$1" given.sh; echo Submitted batch job 41')


def options(text: str) -> dict[str, str]:
    """The options of a script by name."""
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_script_asks_for_what_the_settings_say(program: Program, tmp_path: Path) -> None:
    settings = Settings(
        *(True, 2, 8, 12),
        time="1-00:00:00",
        partition="gpu",
        account="vision",
        qos="high",
        sbatch=["mem=200G", "exclusive"],
        slurm_folder=Path("jobs"),
    )
    text = script("ukd-knn", COMMANDS[:1], settings)  # There is no Slurm on the PATH.
    assert options(text) == {
        "job-name": "ukd-knn",
        "nodes": "2",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "cpus-per-task": "12",
        "time": "1440",
        "partition": "gpu",
        "account": "vision",
        "qos": "high",
        "mem": "200G",
        "exclusive": "",
        "requeue": "",
        "signal": "USR2@120",
        "open-mode": "append",
        "output": f"{tmp_path}/jobs/%j_0_log.out",
    }
    srun = text.splitlines()[-1]
    assert srun.startswith(f"srun --unbuffered --output {tmp_path}/jobs/%j_%t_log.out --kill-on-bad-exit=1 ")
    assert "--cpus-per-task=12 " in srun and srun.endswith(f" -u -m submitit.core._submit {tmp_path}/jobs")
    assert not Path("jobs").exists()


def test_what_is_left_to_the_cluster_is_not_asked_for() -> None:
    assert (
        not {"partition", "account", "qos", "cpus-per-task", "gpus-per-node", "wckey", "mem"}
        & options(script("ukd-knn", COMMANDS[:1], Settings(gpus=0))).keys()
    )


def test_the_processes_of_a_job_learn_where_they_meet(program: Program) -> None:
    """The script runs as it is, with programs that stand for Slurm's."""
    program("scontrol", '[ "$1 $2 $3" = "show hostnames node[3-4]" ] && printf "node3\\nnode4\\n"')
    program("srun", 'echo "$MASTER_ADDR:$MASTER_PORT"')
    text = script("ukd-knn", COMMANDS, Settings())
    environment = {
        "SLURM_JOB_NODELIST": "node[3-4]",
        "SLURM_JOB_ID": "61234567",
        "PATH": f"{Path('bin').absolute()}:/usr/bin:/bin",
    }
    done = subprocess.run(["bash"], input=text, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "node3:34567\n" and not done.stderr


def test_a_job_is_given_the_script_that_was_shown_and_the_command(slurm: None) -> None:
    settings = Settings(requeues=4)
    jobs = submit("ukd-knn", COMMANDS[1:], settings)
    assert jobs == [Job("41", Path("slurm/41_0_log.out"), Path("slurm/41_0_result.pkl").absolute())]
    assert Path("given.sh").read_text() == script("ukd-knn", COMMANDS[1:], settings)
    assert "\n# ukd-eval knn --ckpt 'runs/b c'\n" in Path("given.sh").read_text()
    stored = DelayedSubmission.load("slurm/41_submitted.pkl")
    assert stored.function.argv == COMMANDS[1].argv and stored._timeout_countdown == 4


def test_several_commands_make_an_array(slurm: None) -> None:
    jobs = submit("ukd-knn", COMMANDS, Settings())
    assert [job.id for job in jobs] == ["41_0", "41_1"]
    assert [str(job.log) for job in jobs] == ["slurm/41_0_0_log.out", "slurm/41_1_0_log.out"]
    text = Path("given.sh").read_text()
    assert text == script("ukd-knn", COMMANDS, Settings()) and options(text)["array"] == "0-1%2"
    stored = [DelayedSubmission.load(f"slurm/41_{index}_submitted.pkl").function.argv for index in (0, 1)]
    assert stored == [command.argv for command in COMMANDS]


def test_a_command_with_a_line_break_stays_a_comment() -> None:
    text = script("ukd-knn", [Command(["ukd-eval", "a\nrm -r runs"], resumes=False)], Settings())
    assert "\n# ukd-eval 'a rm -r runs'\n" in text


def test_without_slurm_a_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no sbatch on the PATH; .* --dry-run"):
        submit("ukd-knn", COMMANDS, Settings())
    assert not Path("slurm").exists()


def test_what_sbatch_says_is_passed_on_once(slurm: None, program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    program("sbatch", "echo sbatch: error: no such qos >&2; exit 1")
    with pytest.raises(UserError, match="sbatch refuses the job: sbatch: error: no such qos"):
        submit("ukd-knn", COMMANDS[:1], Settings())
    program("sbatch", "echo hello")
    with pytest.raises(UserError, match="sbatch refuses the job: Could not make sense of sbatch output"):
        submit("ukd-knn", COMMANDS[:1], Settings())
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_is_named(slurm: None) -> None:
    Path("file").touch()
    with pytest.raises(UserError, match="--slurm-folder file/jobs: cannot be written: Not a directory"):
        submit("ukd-knn", COMMANDS[:1], Settings(slurm_folder=Path("file/jobs")))


def test_waiting_ends_when_the_queue_holds_no_job_of_ours(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another's job, a pending one and a controller that does not answer are waited through."""
    monkeypatch.setattr(submission, "POLL_S", 0.0)
    for number, lines in enumerate(("echo 9; echo 41", "echo 41", "exit 1", "echo 9", "exit 1")):
        Path(f"{number}").write_text(lines)
    program("squeue", "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n; . ./$n")
    jobs = [Job(f"41_{index}", Path("log"), Path(f"{index}.pkl")) for index in (0, 1)]
    Path("1.pkl").write_bytes(pickle.dumps(("success", None)))
    assert wait(jobs) == jobs[:1]
    assert Path("n").read_text() == "4\n"


def test_a_job_that_gave_up_has_not_succeeded() -> None:
    job = Job("41", Path("log"), Path("41_0_result.pkl"))
    job.outcome.write_bytes(pickle.dumps(("error", "Job not requeued because: timed-out too many times.")))
    assert not job.succeeded
