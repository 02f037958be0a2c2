"""Teachers held in other ways: the same features, whoever holds them and however."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tests import processes
from tests.tiny import SIZE_PX, TEACHER, VIT
from ukd.backbones import Teacher, build_backbone
from ukd.errors import UserError
from ukd.features import Features, Wanted

CPU = torch.device("cpu")
EVERYTHING = Wanted(tokens=True, attention=True, blocks=2)


def views(num: int = 5) -> Tensor:
    return torch.rand(num, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))


def teacher(spec: dict[str, Any]) -> Teacher:
    """One with weights and statistics of every size, and a head."""
    backbone = build_backbone(**spec, seed=1)
    with torch.no_grad():
        for _ in range(20):
            backbone(views())  # Batch norm learns the statistics.
    torch.manual_seed(2)
    head = nn.Sequential(nn.Linear(backbone.dim, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))
    return Teacher(backbone.model, backbone.info, head)


def tensors(features: Features) -> dict[str, Tensor]:
    """All of them by name."""
    named = {"pooled": features.pooled, "tokens": features.tokens, "attention": features.attention}
    for number, block in enumerate(features.blocks):
        named |= {f"cls {number}": block.cls, f"mean {number}": block.mean}
    return {name: value for name, value in named.items() if value is not None}


def error(found: Tensor, expected: Tensor) -> float:
    """Largest error in a row, relative to the row's length."""
    flat = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    return float(flat.max())


@pytest.mark.parametrize("spec", [TEACHER, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_and_deterministic(spec: dict[str, Any], precision: Literal["bf16", "fp16"]) -> None:
    whole, half = teacher(spec), teacher(spec).hold(CPU, precision=precision)
    expected, found, again = (each(views()).pooled for each in (whole, half, half))
    assert found.dtype == torch.float32 and torch.equal(found, again)
    assert 0 < error(found, expected) < {"bf16": 2**-5, "fp16": 2**-8}[precision]
    assert half.weights_hash() == whole.weights_hash()  # The same teacher,
    assert (half.precision, whole.precision) == ({"bf16": "bfloat16", "fp16": "float16"}[precision], "float32")


def test_half_precision_is_that_of_weights_but_not_of_statistics() -> None:
    half = teacher(TEACHER).hold(CPU, precision="bf16")
    for name, module in half.named_modules():
        of_norm = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if value.is_floating_point() and name:  # The normalisation's mean and std are the backbone's own.
                assert value.dtype == (torch.float32 if of_norm else torch.bfloat16), f"{name}.{key}"


def test_a_precision_of_its_own_is_no_business_of_the_run_s() -> None:
    bf16, fp32 = teacher(VIT).hold(CPU, precision="bf16"), teacher(VIT).hold(CPU, precision="fp32")
    expected = [each(views()).pooled for each in (bf16, fp32)]
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(each(views()).pooled, one) for each, one in zip((bf16, fp32), expected, strict=True))
        assert not torch.equal(teacher(VIT)(views()).pooled.float(), expected[1])  # That of the run it follows.
    assert fp32(views().double()).pooled.dtype == torch.float64


@pytest.mark.parametrize("spec", [TEACHER, VIT], ids=["resnet", "vit"])
@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 99])
def test_in_chunks_it_gives_the_same(spec: dict[str, Any], chunk: int) -> None:
    wanted = EVERYTHING if spec is VIT else Wanted(tokens=True, blocks=2)
    expected = tensors(teacher(spec)(views(), wanted))
    held = teacher(spec).hold(CPU, chunk=chunk)
    most: list[int] = []
    held.model.patch_embed.register_forward_pre_hook(lambda _, x: most.append(len(x[0]))) if spec is VIT else None
    found = tensors(held(views(), wanted))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)
    assert held.num_forwards == held.num_parts(5) == -(-5 // min(chunk, 5)) and all(each <= chunk for each in most)


class Small(nn.Module):
    """A model on a GPU too small for more than three images."""

    num_features = 3

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 3:
            raise torch.OutOfMemoryError
        return x.mean((2, 3))


def test_a_gpu_that_runs_out_of_memory_sees_fewer_images(caplog: pytest.LogCaptureFixture) -> None:
    info = build_backbone(**TEACHER).info
    held = Teacher(Small(), info).hold(CPU)
    with caplog.at_level(logging.WARNING):
        found = held(views(11)).pooled
    expected = torch.cat([Teacher(Small(), info)(one[None]).pooled for one in views(11)])
    torch.testing.assert_close(found, expected)
    assert [record.getMessage() for record in caplog.records] == [
        "teacher: 11 images at once do not fit on the GPU; from now on 6",
        "teacher: 6 images at once do not fit on the GPU; from now on 3",
    ]
    before = held.num_forwards
    held(views(6))
    assert held.num_forwards == before + 2  # It remembers.


def test_one_image_too_large_is_an_error() -> None:
    class TooSmall(Small):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        Teacher(TooSmall(), build_backbone(**TEACHER).info).hold(CPU)(views())


def sharded() -> dict[str, Any]:
    """What a process finds of a teacher that two of them share."""
    whole, held = teacher(VIT).hold(CPU, chunk=2), teacher(VIT)
    held.to(memory_format=torch.channels_last)  # As runs build it.
    held.hold(CPU, chunk=2, sharded=True)
    asked = (Wanted(), Wanted(tokens=True, attention=True), Wanted(blocks=2))
    same = [
        torch.equal(found, tensors(whole(views(), wanted))[name])
        for wanted in asked
        for name, found in tensors(held(views(), wanted)).items()
    ]
    half = teacher(VIT).hold(CPU, precision="bf16", sharded=True)
    expected = teacher(VIT).hold(CPU, precision="bf16")(views()).pooled
    blocks = [*held.model.blocks.parameters()]  # type: ignore[union-attr, operator]
    here = sum(value.to_local().numel() for value in blocks)  # type: ignore[operator]
    return {
        "same": [*same, torch.equal(half(views()).pooled, expected)],
        "share": here / sum(value.numel() for value in blocks),
        "counted": held.num_parameters == whole.num_parameters,
        "hash": held.weights_hash() == whole.weights_hash(),
        "gradients": any(value.requires_grad for value in held.parameters()),
    }


def test_two_processes_share_a_teacher(tmp_path: Path) -> None:
    found = processes.run(sharded, folder=tmp_path)
    for each in found:
        assert all(each["same"]) and len(each["same"]) == 10
        assert each["counted"] and each["hash"] and not each["gradients"]
    assert [each["share"] for each in found] == [0.5, 0.5]


def test_only_a_vit_can_be_shared() -> None:
    with pytest.raises(UserError, match=r"teacher\.shard: resnet10t is no ViT, and any other fits on one GPU"):
        teacher(TEACHER).hold(CPU, sharded=True)
    alone = teacher(VIT).hold(CPU, sharded=True)
    assert torch.equal(alone(views()).pooled, teacher(VIT)(views()).pooled) and not alone.is_sharded


@pytest.mark.slow
def test_compiled_it_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    whole, held = teacher(VIT), teacher(VIT).hold(CPU, compiled=True)
    for num, wanted in ((4, Wanted()), (3, Wanted()), (3, Wanted(tokens=True))):
        for name, value in tensors(held(views(num), wanted)).items():
            torch.testing.assert_close(value, tensors(whole(views(num), wanted))[name], rtol=1e-4, atol=1e-5)
    assert list(tmp_path.rglob("*.so"))  # It was.
    assert held.weights_hash() == whole.weights_hash()
