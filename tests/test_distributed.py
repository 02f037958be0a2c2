from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import processes
from ukd import distributed
from ukd.errors import UserError

LAUNCH = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


@pytest.fixture(autouse=True)
def not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCH:
        monkeypatch.delenv(name, raising=False)


def test_one_process() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with distributed.session("cpu") as device:
        assert device == torch.device("cpu")
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        assert distributed.sum_over_processes(x) is x
        assert distributed.mean_over_processes(x).tolist() == [1.0, 2.0]
        assert distributed.any_process(True) and not distributed.any_process(False)
        assert distributed.gather_rows(x).tolist() == [1.0, 2.0]
        assert distributed.gather_rows_with_grad(x) is x
        assert x[distributed.own_rows(2)].tolist() == [1.0, 2.0]
        distributed.barrier()


def everything(num_rows: tuple[int, ...]) -> dict[str, Any]:
    rank = distributed.rank()
    x = torch.tensor([1.0 + rank, 10.0], dtype=torch.float64, requires_grad=True)
    total = distributed.sum_over_processes(x)
    (total * torch.tensor([3.0, 5.0])).sum().backward()
    rows = torch.arange(num_rows[rank] * 2).view(-1, 2) + 100 * rank
    own = torch.tensor([[1.0 + rank], [10.0 + rank]], requires_grad=True)
    gathered = distributed.gather_rows_with_grad(own)
    # Process r weighs row i by i + 100 r.
    (gathered[:, 0] * (torch.arange(6) + 100 * rank)).sum().backward()
    distributed.barrier()
    return {
        "rank": rank,
        "world_size": distributed.world_size(),
        "is_main": distributed.is_main(),
        "sum": total.detach(),
        "input_after_sum": x.detach(),
        "grad": x.grad,
        "mean": distributed.mean_over_processes(x),
        "any": [distributed.any_process(rank == 1), distributed.any_process(False)],
        "rows": distributed.gather_rows(rows),
        "flags": distributed.gather_rows(rows[:, 0] > 0),
        "gathered": gathered.detach(),
        "own_rows": torch.arange(6)[distributed.own_rows(2)],
        "gathered_grad": own.grad,
    }


def test_three_processes_of_srun(tmp_path: Path) -> None:
    results = processes.run(everything, (2, 0, 1), folder=tmp_path, num=3, launcher="srun")
    for rank, result in enumerate(results):
        assert (result["rank"], result["world_size"], result["is_main"]) == (rank, 3, rank == 0)
        # 1 + 2 + 3 and 10 + 10 + 10; DDP will divide the gradients (3, 5) by 3 again.
        assert result["sum"].tolist() == [6.0, 30.0]
        assert result["input_after_sum"].tolist() == [1.0 + rank, 10.0]
        assert result["grad"].tolist() == [9.0, 15.0]
        assert result["mean"].tolist() == [2.0, 10.0]
        assert result["any"] == [True, False]
        assert result["rows"].tolist() == [[0, 1], [2, 3], [200, 201]]
        assert result["flags"].tolist() == [False, True, True]
        assert result["gathered"][:, 0].tolist() == [1, 10, 2, 11, 3, 12]
        assert result["own_rows"].tolist() == [2 * rank, 2 * rank + 1]
        # Over the three processes, row i weighs 3 i + 100 + 200.
        assert result["gathered_grad"][:, 0].tolist() == [300 + 6 * rank, 303 + 6 * rank]
    assert not torch.distributed.is_initialized()


def test_a_batch_script_without_srun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("MASTER_ADDR", "node1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with distributed.session("cpu"):
        assert distributed.world_size() == 1


def test_srun_without_a_meeting_point_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(UserError, match="srun started 8 processes, but MASTER_ADDR and MASTER_PORT"):
        distributed.session("cpu").__enter__()


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.local_device("auto") == distributed.local_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="device: cuda is asked for, but torch sees no CUDA GPU"):
        distributed.local_device("cuda")


@pytest.mark.parametrize(("num_gpus", "expected"), [(4, 2), (1, 0)])
def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch, num_gpus: int, expected: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    for name, value in {"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.local_device("auto") == torch.device("cuda", expected)


@pytest.mark.parametrize(("rank", "main"), [("0", True), ("1", False)])
def test_one_process_speaks_before_and_after_a_session(rank: str, main: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert distributed.is_main() is main
