"""Reading files of weights: whole, or refused with the reason; code in them is never run."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ukd.errors import WeightsError
from ukd.formats.reading import find_weights, read, read_info

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}


def equal(one: dict[str, Tensor] | None, other: dict[str, Tensor]) -> bool:
    return one is not None and one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    ("wrap", "container"),
    [
        (lambda state: state, ""),
        (lambda state: {"state_dict": state, "epoch": 3}, "state_dict"),
        (lambda state: {"a": {"b": {"c": state}}}, "a.b.c"),
        (lambda state: {"a": {"a.weight": state["a.weight"]}, "b": state["b"]}, ""),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, ""),
        (lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()}, ""),
    ],
)
def test_tensors_under_a_path(tmp_path: Path, wrap: Callable[[Any], Any], container: str, old_format: bool) -> None:
    torch.save(wrap(STATE), tmp_path / "x.pth", _use_new_zipfile_serialization=not old_format)
    expected = STATE if "a" not in wrap(STATE) or container else {"a.a.weight": STATE["a.weight"], "b": STATE["b"]}
    assert equal(read(tmp_path / "x.pth").tensors(container), expected)


def test_wrappers_lose_their_segment_wherever_they_stand(tmp_path: Path) -> None:
    torch.save({"encoder.module.conv": torch.zeros(1), "submodule.x": torch.ones(1)}, tmp_path / "x.pth")
    found = read(tmp_path / "x.pth").tensors("")
    assert found is not None and set(found) == {"encoder.conv", "submodule.x"}


@pytest.mark.parametrize(
    "tree",
    [
        {"module.a": torch.zeros(1), "a": torch.ones(1)},  # Which of them would be a?
        {**STATE, "step": 3},
        {"epoch": 3},
        {"x": {}},
    ],
)
def test_what_holds_more_or_less_than_tensors_is_no_set_of_tensors(tmp_path: Path, tree: Any) -> None:
    torch.save(tree, tmp_path / "x.pth")
    assert read(tmp_path / "x.pth").tensors("") is None
    assert read(tmp_path / "x.pth").tensors("x.y") is None


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    assert equal(read(tmp_path / "x.safetensors").tensors(""), STATE)


def test_shards_are_read_and_none_outside_their_folder(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    for number, name in enumerate(STATE):
        save_file({name: STATE[name]}, tmp_path / f"model-{number}.safetensors")
    weight_map = {name: f"model-{number}.safetensors" for number, name in enumerate(STATE)}
    index.write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert find_weights(tmp_path) == index
    assert equal(read(index).tensors(""), STATE) and read(index).config == {"model_type": "vit"}
    index.write_text(json.dumps({"weight_map": {"b": "../model-0.safetensors"}}))
    with pytest.raises(WeightsError, match="is refused: it names files outside its folder"):
        read(index)
    index.write_text(json.dumps({"weight_map": {"b": "model-9.safetensors"}}))
    with pytest.raises(WeightsError, match=r"cannot be read: .*model-9"):
        read(index)


@pytest.mark.parametrize("old_format", [False, True])
def test_what_official_checkpoints_hold_beside_tensors(tmp_path: Path, old_format: bool) -> None:
    args = argparse.Namespace(lr=0.1, arch="vit_small", betas=(0.9, 0.99))
    numbers = {"lr": np.float64(0.1), "wd": np.float32(0.5), "step": np.int64(3)}
    tree = {"model": STATE, "args": args, "optimizer": {"param_groups": [numbers], "state": {0: STATE}}}
    torch.save(tree, tmp_path / "x.pth", _use_new_zipfile_serialization=not old_format)
    stored = read(tmp_path / "x.pth")
    assert stored.tree["args"] == args and stored.tree["optimizer"]["param_groups"] == [numbers]
    assert equal(stored.tensors("model"), STATE) and stored.keys == {"model", "args", "optimizer"}


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("hide", [lambda bomb: bomb, lambda bomb: argparse.Namespace(x=bomb), lambda bomb: [{1: bomb}]])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, hide: Callable[[Any], Any], old_format: bool) -> None:
    stored = {"state_dict": STATE, "extra": hide(Bomb(f"touch {tmp_path}/ran"))}
    torch.save(stored, tmp_path / "x.pth", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(
        WeightsError, match=r"x\.pth is refused: loading it would run code stored in the file \((posix|nt)\.system\)"
    ) as caught:
        read(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in str(caught.value)  # torch's advice: switch the safety off.


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "old.pth"])
def test_a_truncated_file_is_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    big = {"a": torch.rand(1000)}
    if name == "x.safetensors":
        save_file(big, path)
    else:
        torch.save(big, path, _use_new_zipfile_serialization=name == "x.pth")
    whole = path.read_bytes()
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=re.escape(f"weights: {path} cannot be read: ") + "."):
            read(path)
    if name == "x.pth":
        with pytest.raises(WeightsError, match="cut short, its end is missing; download or copy it anew"):
            read(path)


def packed(path: Path, method: int) -> None:
    """A torch file whose parts are packed, as torch never does."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(100_000)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", method) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    packed(tmp_path / "x.pth", zipfile.ZIP_DEFLATED)
    with pytest.raises(
        WeightsError, match=r"is refused: its [\d,]+ bytes declare 400,[\d,]+ once unpacked, as a zip bomb"
    ):
        read(tmp_path / "x.pth")
    packed(tmp_path / "x.pth", zipfile.ZIP_STORED)
    assert read(tmp_path / "x.pth").tensors("") is not None


@pytest.mark.parametrize("old_format", [False, True])
def test_a_tensor_larger_than_what_is_stored_is_refused(tmp_path: Path, old_format: bool) -> None:
    vast = torch.zeros(1).expand(10**6, 10**6)
    torch.save({"state_dict": {"a": vast}}, tmp_path / "x.pth", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(WeightsError, match=r"state_dict\.a declares 1,000,000,000,000 numbers and the file does not"):
        read(tmp_path / "x.pth")


def test_an_old_file_that_declares_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    length, vast = b"M" + (1000).to_bytes(2, "little"), b"\x8a\x07" + (10**15).to_bytes(7, "little")
    path.write_bytes(path.read_bytes().replace(length, vast))
    with pytest.raises(WeightsError, match="cannot be read"):
        read(path)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="a is sparse or quantised; store plain numbers"):
        read(tmp_path / "x.pth")


def test_a_tree_that_contains_itself_is_read(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"state_dict": STATE}
    tree["self"] = tree
    torch.save(tree, tmp_path / "x.pth")
    assert equal(read(tmp_path / "x.pth").tensors("state_dict"), STATE)


@pytest.mark.parametrize("text", ["hello, these are no weights\n", "<!DOCTYPE html><html>not found</html>\n", "PK"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_text_file_is_no_weights(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text * 5)
    with pytest.raises(WeightsError, match=r"weights: .* cannot be read"):
        read(tmp_path / name)


@pytest.mark.parametrize(("stored", "held"), [([torch.zeros(1)], "list"), (torch.zeros(2), "Tensor"), (3, "int")])
def test_other_things_than_a_mapping(tmp_path: Path, stored: Any, held: str) -> None:
    torch.save(stored, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"holds no plain set of named tensors \(found {held}\)"):
        read(tmp_path / "x.pth")


def test_a_folder_stands_for_its_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds neither student\.safetensors nor teacher\.safetensors, nor config"):
        find_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(WeightsError, match="is it a run folder, or a transformers directory"):
        find_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert find_weights(tmp_path) == tmp_path / "pytorch_model.bin"
    (tmp_path / "teacher.safetensors").touch()
    assert find_weights(str(tmp_path)) == tmp_path / "teacher.safetensors"
    assert find_weights(tmp_path / "teacher.safetensors") == tmp_path / "teacher.safetensors"
    with pytest.raises(WeightsError, match=r"none\.pth does not exist \(looked in /"):
        find_weights(tmp_path / "none.pth")


def test_info_lies_beside_an_export(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"arch": "resnet18"}')
    assert read_info(tmp_path / "x.safetensors") == {"arch": "resnet18"}
    assert read_info(tmp_path / "x.pth") == {"arch": "resnet18"}
    assert read_info(tmp_path / "y.safetensors") == {}
    (tmp_path / "x.json").write_text("{arch")
    with pytest.raises(WeightsError, match=r"x\.json is no JSON"):
        read_info(tmp_path / "x.pth")


def test_a_directory_says_how_its_pixels_are_normalised(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "vit", "num_attention_heads": 3}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3]}')
    config = read(tmp_path / "model.safetensors").config
    assert config == {"model_type": "vit", "num_attention_heads": 3, "image_mean": [0.1, 0.2, 0.3]}
