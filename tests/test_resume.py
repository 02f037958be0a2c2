"""A run stopped anywhere and resumed ends in the same bits as one that was not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.commands import start, wait_until
from tests.tiny import World
from ukd import run_folder, train
from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone
from ukd.distill import distill
from ukd.errors import RunFolderError

NEIGHBOURS = {"k": 3, "nearest": 7}


def stop_in(step: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the signal arrive in the middle of a step."""
    take_step = train.take_step

    def interrupted(*arguments: Any) -> Any:
        if arguments[-1] == step:
            os.kill(os.getpid(), number)
        return take_step(*arguments)

    monkeypatch.setattr(train, "take_step", interrupted)


def figures(run: Path) -> list[dict[int, float]]:
    """All that the run measured and that is no time."""
    return [tiny.metrics(run, name) for name in ("loss", "space", "teacher_cosine", "lr", "knn_overlap")]


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing stopped."""
    output = tmp_path_factory.mktemp("resume") / "run"
    return distill(tiny.parse(world.distillation(output, neighbours=NEIGHBOURS)))


@pytest.fixture
def stopped(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The recipe of a run that SIGTERM stopped in its 14th step."""
    raw = world.distillation(tmp_path / "run", neighbours=NEIGHBOURS)
    stop_in(13, signal.SIGTERM, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        distill(tiny.parse(raw))
    assert ended.value.code == 143
    monkeypatch.undo()
    return raw


def test_a_signal_finishes_the_step_and_writes_a_checkpoint(stopped: dict[str, Any]) -> None:
    run = Path(stopped["output"])
    assert tiny.checkpoints(run) == ["step-000000009.ckpt", "step-000000014.ckpt"]
    assert (
        "stopped by SIGTERM after step 14; a checkpoint is written, --resume continues" in (run / "log.txt").read_text()
    )
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_resumed_with_other_workers_it_ends_in_the_same_bits(whole: Path, stopped: dict[str, Any]) -> None:
    stopped["data"]["num_workers"] = 2
    run = distill(tiny.parse(stopped), resume=True)
    assert tiny.state_hash(run) == tiny.state_hash(whole)
    assert figures(run) == figures(whole)


def test_a_damaged_checkpoint_is_passed_over(whole: Path, stopped: dict[str, Any]) -> None:
    newest = Path(stopped["output"]) / "checkpoints" / "step-000000014.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"damaged checkpoint passed over: .*014\.ckpt"):
        run = distill(tiny.parse(stopped), resume=True)
    assert tiny.state_hash(run) == tiny.state_hash(whole)
    assert figures(run) == figures(whole)


def test_without_any_checkpoint_it_starts_again(whole: Path, stopped: dict[str, Any]) -> None:
    for path in (Path(stopped["output"]) / "checkpoints").iterdir():
        path.unlink()
    run = distill(tiny.parse(stopped), resume=True)
    assert tiny.state_hash(run) == tiny.state_hash(whole)
    assert figures(run) == figures(whole)


def test_a_finished_run_stays_as_it_is(world: World, whole: Path) -> None:
    before = tiny.state_hash(whole), figures(whole)
    distill(tiny.parse(world.distillation(whole, neighbours=NEIGHBOURS)), resume=True)
    assert (tiny.state_hash(whole), figures(whole)) == before


def test_ctrl_c_is_a_stop_like_any_other(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_in(2, signal.SIGINT, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        distill(tiny.parse(world.distillation(tmp_path / "run")))
    assert ended.value.code == 130
    assert tiny.checkpoints(tmp_path / "run") == ["step-000000003.ckpt"]


@pytest.fixture
def as_in_a_terminal() -> Iterator[None]:
    """Lets Ctrl-C interrupt; a job that a shell put in the background began with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("as_in_a_terminal")
def test_a_second_ctrl_c_ends_it_at_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_in(2, signal.SIGINT, monkeypatch)
    stop_in(2, signal.SIGINT, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        distill(tiny.parse(world.distillation(tmp_path / "run")))


def test_a_stop_in_the_last_step_is_no_stop(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_in(26, signal.SIGTERM, monkeypatch)
    run = distill(tiny.parse(world.distillation(tmp_path / "run")))
    assert tiny.checkpoints(run)[-1] == "step-000000027.ckpt"


def test_real_processes_stopped_by_kill_9_ctrl_c_and_sigterm(world: World, tmp_path: Path) -> None:
    long = {"neighbours": NEIGHBOURS, "epochs": 40.0, "monitor": {"every_epochs": 40.0, "k": 4}}
    raw = world.distillation(tmp_path / "run", **long)
    recipe = tiny.write_recipe(tmp_path / "recipe.yaml", raw)
    checkpoints = tmp_path / "run" / "checkpoints"

    def step_saved() -> int:
        return max((int(path.stem[-9:]) for path in checkpoints.glob("step-*.ckpt")), default=0)

    for number, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = step_saved()
        process = start("ukd-distill", recipe, "--resume", "data.num_workers=1")
        wait_until(lambda before=before: step_saved() > before, process)  # type: ignore[misc]
        process.send_signal(number)
        complaint = process.communicate()[1]
        assert process.returncode == status
        # A loader that is handing over a batch may complain of a trainer killed at that moment; one that ends does not.
        assert number == signal.SIGKILL or "Traceback" not in complaint
        assert number == signal.SIGKILL or f"stopped by {number.name} after step" in complaint
    assert step_saved() < 360
    run = distill(tiny.parse(raw), resume=True)
    whole = distill(tiny.parse(world.distillation(tmp_path / "whole", **long)))
    assert tiny.state_hash(run) == tiny.state_hash(whole)
    assert figures(run) == figures(whole)


def test_other_images_or_another_teacher_are_refused(
    stopped: dict[str, Any], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.parse(stopped)
    images = recipe.data.model_copy(update={"train": str(world.images)})
    monkeypatch.setattr(run_folder, "_differences", lambda before, now: [])
    with pytest.raises(RunFolderError, match="the images changed since this run began"):
        distill(recipe.model_copy(update={"data": images}), resume=True)
    (tmp_path / "other").mkdir()
    export_backbone(tmp_path / "other", "teacher", build_backbone(**tiny.TEACHER, seed=2), {})
    teacher = recipe.teacher.model_copy(update={"weights": str(tmp_path / "other")})
    with pytest.raises(RunFolderError, match="the teacher changed since this run began"):
        distill(recipe.model_copy(update={"teacher": teacher}), resume=True)


def test_what_decides_on_the_training_images_may_not_be_set_anew(stopped: dict[str, Any]) -> None:
    stopped["monitor"] = {**stopped["monitor"], "holdout_images": 4, "k": 3}
    with pytest.raises(RunFolderError, match=r"they differ in monitor.holdout_images \(16 there, 4 here\)"):
        distill(tiny.parse(stopped), resume=True)
