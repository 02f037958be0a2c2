"""What a run exports of its objective: where student and teacher are compared, for ukd and for plain torch."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests import processes, tiny
from tests.objectives.test_objectives_table import NARROW, WIDE, Summand, batch
from tests.tiny import World
from ukd import run_folder
from ukd.backbones import build_backbone
from ukd.checkpoint import export_backbone
from ukd.distill import build_run, distill
from ukd.errors import WeightsError
from ukd.features import Features
from ukd.objectives import OBJECTIVES, Objective, build
from ukd.objectives.hash import BRCD
from ukd.objectives.multi import Multi
from ukd.objectives.regression import Regression
from ukd.objectives.targets import Target
from ukd.projection import (
    ABOUT,
    WEIGHTS,
    Projection,
    centring,
    read_projection,
    to_unit_length,
    turning,
    write_projection,
)
from ukd.row_blocks import RowBlocks
from ukd.train import train

WITHOUT = {"compress", "gram", "rkd", "sskd", "simclr", "moco", "byol", "dino"}
"""Objectives that compare no pooled features, or each in a space of its own."""
OF_TEACHER = {"teachers": [{"arch": "wide", "weights_sha256": "ab"}]}


def trained(name: str, **options: Any) -> Objective:
    """An objective of random weights whose running statistics have seen a batch; in evaluation mode."""
    torch.manual_seed(0)
    objective = build([Summand(name, options=options)], NARROW, [WIDE])
    if objective.needs.bank:
        objective.fit(RowBlocks(torch.randn(40, 10) * torch.arange(1, 11) + 5))
    objective(batch(objective.needs))
    return objective.eval()


def exported(folder: Path, projection: Projection | None) -> Projection:
    """What comes back of what is written."""
    assert projection is not None
    weights = folder / "student.safetensors"
    weights.write_bytes(b"a student")
    write_projection(folder, projection, sha256(b"a student").hexdigest(), OF_TEACHER)
    found = read_projection(weights)
    assert found is not None and found.teacher_sha256 == "ab"
    return found.projection


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - WITHOUT - {"hash"}))
def test_the_file_of_every_objective_gives_what_its_head_gives(name: str, tmp_path: Path) -> None:
    objective = trained(name)
    head = {"tokens": lambda: objective.heads["token"], "multi": lambda: objective.heads[0].head}.get(  # type: ignore
        name, lambda: getattr(objective.head, "head", objective.head)
    )()
    student, teacher = 3 * torch.randn(7, 6), torch.randn(7, 10)
    found = exported(tmp_path, objective.projector())
    torch.testing.assert_close(found.student(student), head(student), rtol=1e-6, atol=1e-6)
    expected = objective.targets[0](teacher, 0.5) if isinstance(objective, Multi) else teacher
    torch.testing.assert_close(found.teacher(teacher), expected, rtol=1e-6, atol=1e-6)
    assert not found.codes and not any(parameter.requires_grad for parameter in found.student.parameters())


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_other_objectives_have_none(name: str) -> None:
    assert build([Summand(name)], NARROW, [WIDE]).projector() is None


@pytest.mark.parametrize("head", ["linear", "mlp2", "simreg4", "ln_linear"])
@pytest.mark.parametrize("target", ["none", "standardised", "whitened"])
def test_a_target_is_the_teachers_side(head: str, target: str, tmp_path: Path) -> None:
    norm = "batch" if head == "mlp2" else "none"
    objective = trained("regression", head=head, target=target, norm=norm)
    assert isinstance(objective, Regression) and isinstance(objective.target, Target)
    found = exported(tmp_path, objective.projector())
    student, teacher = torch.randn(7, 6), torch.randn(7, 10) + 5
    torch.testing.assert_close(found.student(student), objective.head(Features(student)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.teacher(teacher), objective.target(teacher, 0.5), rtol=1e-5, atol=1e-5)


def test_codes_of_the_file_are_those_of_the_objective(tmp_path: Path) -> None:
    for options in ({}, {"head": "mlp2", "hidden_dim": 9}):
        objective = trained("hash", bits=24, **options)
        assert isinstance(objective, BRCD)
        found = exported(tmp_path, objective.projector())
        student, teacher = torch.randn(500, 6), 9 * torch.randn(500, 10) + 5
        assert found.codes
        assert torch.equal(found.student(student) >= 0, objective.codes(student))
        assert torch.equal(found.teacher(teacher) >= 0, objective.teacher_codes(teacher))


def test_equal_widths_without_a_head_and_ladders_have_none() -> None:
    assert build([Summand("coss")], WIDE, [WIDE]).projector() is None
    assert Regression(6, 10, (4, 6), head="ladder").projector() is None
    without_head = Regression(10, 10, head="none", target="standardised").projector()
    assert without_head is not None and len(without_head.student) == 0 and len(without_head.teacher) == 1


def test_a_sum_has_that_of_the_first_summand_that_has_one() -> None:
    total = build([Summand("gram"), Summand("hash", 0.5, {"bits": 4}), Summand("cosine")], NARROW, [WIDE])
    found = total.projector()
    assert found is not None and found.codes
    assert build([Summand("gram"), Summand("rkd")], NARROW, [WIDE]).projector() is None


def plainly(folder: Path, side: str) -> nn.Sequential:
    """The lines of the README, without ukd."""
    about = json.loads(Path(folder, "projector.json").read_text())
    layers = nn.Sequential(*(getattr(nn, layer.pop("layer"))(**layer) for layer in about[side]))
    tensors = load_file(Path(folder, "projector.safetensors"))
    layers.load_state_dict({k.removeprefix(side + "."): v for k, v in tensors.items() if k.startswith(side + ".")})
    return layers.eval()


def test_plain_torch_reads_it(tmp_path: Path) -> None:
    for options in ({"name": "cosine"}, {"name": "hash", "bits": 8}, {"name": "attention"}):
        found = exported(tmp_path, trained(**options).projector())
        student, teacher = torch.randn(5, 6), torch.randn(5, 10)
        assert torch.equal(plainly(tmp_path, "student")(student), found.student(student))
        assert torch.equal(plainly(tmp_path, "teacher")(teacher), found.teacher(teacher))


def test_batch_norm_of_the_global_batch_is_written_as_plain_batch_norm(tmp_path: Path) -> None:
    objective = trained("cosine")
    student = torch.randn(5, 6)
    expected = objective.head(student)  # type: ignore[operator]
    spread = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
    found = exported(tmp_path, spread.projector())
    assert torch.equal(found.student(student), expected)


def test_layers_do_what_they_say() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-12, 4e-12]])
    unit = to_unit_length(2)(rows)
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, 0.8]]))
    mean, scale = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 100.0])
    torch.testing.assert_close(centring(mean, scale).eval()(rows[:1]), torch.tensor([[20.0, 200.0]]))
    turned = turning(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))(rows[:1])
    torch.testing.assert_close(turned, torch.tensor([[4.0, 3.0, 7.0]]))


def head_of(run: Path) -> dict[str, Tensor]:
    """The tensors of the objective's head in the newest checkpoint."""
    state = torch.load(run / "checkpoints" / tiny.checkpoints(run)[-1], weights_only=True)
    return {
        name.removeprefix("objective.head."): value
        for name, value in state["learner"].items()
        if name.startswith("objective.head.")
    }


def _running_mean(raw: dict[str, Any]) -> Tensor:
    """What the first batch norm of SimReg's head has seen in this process after a run."""
    recipe = tiny.parse(raw)
    run = build_run(recipe, torch.device("cpu"))
    run_folder.claim(recipe)
    train(run, None)
    return run.learner.objective.head[1].running_mean.clone()  # type: ignore[index, union-attr]


def test_a_run_of_two_processes_exports_the_head_that_it_saves(world: World, tmp_path: Path) -> None:
    raw = world.distillation(tmp_path / "run", objective={"name": "cosine"}, epochs=0.5)
    first, second = processes.run(_running_mean, raw, folder=tmp_path)
    run = tmp_path / "run"
    saved = head_of(run)
    written = {name.removeprefix("student."): value for name, value in load_file(run / WEIGHTS).items()}
    assert written.keys() == saved.keys() and "1.running_var" in saved  # SimReg's head has batch norm.
    assert all(torch.equal(written[name], value) for name, value in saved.items())
    assert torch.equal(written["1.running_mean"], first) and not torch.equal(first, second)
    about = json.loads((run / ABOUT).read_text())
    student = json.loads((run / "student.json").read_text())
    assert about["provenance"] == student["provenance"]
    assert about["teacher_sha256"] == build_backbone(weights=str(world.teacher)).weights_hash()
    found = read_projection(run / "student.safetensors")
    assert found is not None
    assert found.projection.student(torch.randn(3, 32)).shape == (3, 64) and len(found.projection.teacher) == 0


def test_a_finished_run_of_an_earlier_version_exports_it_when_resumed(world: World, tmp_path: Path) -> None:
    recipe = tiny.parse(world.distillation(tmp_path / "run", epochs=0.5))
    run = distill(recipe)
    before = {name: (run / name).read_bytes() for name in (WEIGHTS, ABOUT, "student.safetensors")}
    (run / WEIGHTS).unlink(), (run / ABOUT).unlink()
    distill(recipe, resume=True)
    assert {name: (run / name).read_bytes() for name in before} == before


def test_a_run_without_a_head_has_no_file(world: World, tmp_path: Path) -> None:
    run = distill(tiny.parse(world.distillation(tmp_path / "run", objective="rkd", epochs=0.2)))
    assert not list(run.glob("projector*")) and read_projection(run / "student.safetensors") is None


def test_a_new_student_never_lies_beside_an_old_projector(tmp_path: Path) -> None:
    backbone = build_backbone(**tiny.STUDENT)
    export_backbone(tmp_path, "student", backbone, OF_TEACHER, trained("coss").projector())
    weights = tmp_path / "student.safetensors"
    assert read_projection(weights) is not None
    assert read_projection(weights.rename(tmp_path / "other.safetensors")) is None
    export_backbone(tmp_path, "student", backbone, {})
    assert read_projection(weights) is None and not (tmp_path / ABOUT).exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "student.safetensors").write_bytes(b"another"), "belongs to another student than"),
        (lambda folder: (folder / WEIGHTS).unlink(), "No such file"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"{}"), "are not those of a run: "),
        (lambda folder: (folder / ABOUT).write_text("{"), "are not those of a run: "),
        (lambda folder: edit(folder, codes=None, student=[{"layer": "Bilinear"}]), "it has a layer 'Bilinear'; known"),
        (lambda folder: edit(folder, student=[]), "Unexpected key"),
        (lambda folder: edit(folder, student=[{"layer": "ReLU", "inplace": 1, "x": 2}]), "unexpected keyword"),
    ],
)
def test_a_file_that_is_no_runs_is_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    exported(tmp_path, trained("coss").projector())
    copied = shutil.copytree(tmp_path, tmp_path / "copy")
    spoil(copied)
    with pytest.raises(WeightsError, match="projector") as error:
        read_projection(copied / "student.safetensors")
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def edit(folder: Path, **changes: Any) -> None:
    """Changes the description."""
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps({**about, **changes}))
