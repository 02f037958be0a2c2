"""Files of weights: loaded whole, or refused with the reason; code in them is never run."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ukd.backbones import build_backbone
from ukd.errors import WeightsError
from ukd.formats import find_weights, load_strictly, read_info, read_state_dict

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}
SMALL: dict[str, Any] = {"channels": [8, 8, 16, 32], "stem_width": 8}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
)
def test_tensors_are_found_where_people_put_them(tmp_path: Path, wrap: Callable[[Any], Any], old_format: bool) -> None:
    torch.save(wrap(STATE), tmp_path / "x.pth", _use_new_zipfile_serialization=not old_format)
    assert equal(read_state_dict(tmp_path / "x.pth"), STATE)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "x.safetensors")
    assert equal(read_state_dict(tmp_path / "x.safetensors"), STATE)


def test_a_prefix_that_not_all_names_share_stays(tmp_path: Path) -> None:
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    torch.save(state, tmp_path / "x.pth")
    assert equal(read_state_dict(tmp_path / "x.pth"), state)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


@pytest.mark.parametrize("old_format", [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, old_format: bool) -> None:
    stored = {"state_dict": STATE, "extra": Bomb(f"touch {tmp_path}/ran")}
    torch.save(stored, tmp_path / "x.pth", _use_new_zipfile_serialization=not old_format)
    with pytest.raises(
        WeightsError, match=r"x\.pth is refused: loading it would run code stored in the file \((posix|nt)\.system\)"
    ):
        read_state_dict(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_an_object_of_the_training_script_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"\(argparse\.Namespace\).*save its tensors alone: torch\.save\(") as caught:
        read_state_dict(tmp_path / "x.pth")
    assert "weights_only" not in str(caught.value)  # torch's advice: switch the safety off.


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_truncated_file_is_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file(STATE, path) if name == "x.safetensors" else torch.save(STATE, path)
    whole = path.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=re.escape(f"weights: {path} cannot be read: ") + "."):
            read_state_dict(path)


@pytest.mark.parametrize("text", ["hello, these are no weights\n", "<!DOCTYPE html><html>not found</html>\n", "PK"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_text_file_is_no_weights(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text * 5)
    with pytest.raises(WeightsError, match=r"weights: .* cannot be read"):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    ("stored", "held"),
    [
        ({"epoch": 3, "note": "x"}, "epoch, note"),
        ({**STATE, "step": 3}, "step"),
        ([torch.zeros(1)], "list"),
        (torch.zeros(2), "Tensor"),
        ({}, "dict"),
    ],
)
def test_other_things_than_named_tensors(tmp_path: Path, stored: Any, held: str) -> None:
    torch.save(stored, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"holds no plain set of named tensors \(found {held}\)"):
        read_state_dict(tmp_path / "x.pth")


def test_a_run_folder_stands_for_its_export(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds neither student\.safetensors nor teacher\.safetensors; is it a run"):
        find_weights(tmp_path)
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


def file_of(folder: Path, **changes: Tensor | None) -> str:
    """A file of a small resnet10t's weights with its classifier, some of them changed or left out."""
    model = timm.create_model("resnet10t", num_classes=10, **SMALL)
    state = {**model.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
    torch.save({name: value for name, value in state.items() if value is not None}, folder / "x.pth")
    return str(folder / "x.pth")


def test_the_classifier_is_left_behind(tmp_path: Path) -> None:
    weights = file_of(tmp_path)
    backbone = build_backbone(arch="resnet10t", kwargs=SMALL, weights=weights)
    stored = read_state_dict(Path(weights))
    assert {"fc.weight", "fc.bias"} == stored.keys() - backbone.model.state_dict().keys()
    assert equal(dict(backbone.model.state_dict()), {k: v for k, v in stored.items() if not k.startswith("fc.")})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bn1__weight": None}, r"missing \(1\): bn1\.weight$"),
        ({"head__weight": torch.zeros(1)}, r"unexpected \(1\): head\.weight$"),
        ({"fc2__weight": torch.zeros(1)}, r"unexpected \(1\): fc2\.weight$"),
        ({"bn1__bias": torch.zeros(9)}, r"other shapes \(1\): bn1\.bias is \[9\] where \[16\] is wanted$"),
        (
            {"bn1__weight": None, "x": torch.zeros(1)},
            r"does not fit resnet10t:\n  missing \(1\): bn1\.weight\n  unexpected \(1\): x$",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, changes: dict[str, Tensor | None], said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        build_backbone(arch="resnet10t", kwargs=SMALL, weights=file_of(tmp_path, **changes))


def test_a_file_of_another_architecture(tmp_path: Path) -> None:
    pattern = r"x\.pth does not fit test_vit:\n  missing \(\d+\): cls_token, .*, \.\.\.\n  unexpected \(\d+\): conv1"
    with pytest.raises(WeightsError, match=pattern):
        build_backbone(arch="test_vit", weights=file_of(tmp_path))


def test_a_distilled_model_has_two_classifiers(tmp_path: Path) -> None:
    arch, kwargs = "deit_tiny_distilled_patch16_224", {"depth": 1, "img_size": 32}
    torch.save(timm.create_model(arch, num_classes=10, **kwargs).state_dict(), tmp_path / "x.pth")
    assert build_backbone(arch=arch, kwargs=kwargs, weights=str(tmp_path / "x.pth")).dim == 192


def test_nothing_is_loaded_where_something_is_wrong() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(WeightsError, match=r"missing \(1\): bias"):
        load_strictly(model, {"weight": torch.zeros(2, 2)}, source=Path("x"), arch="linear", classifiers=["fc"])
    assert torch.equal(model.weight, before)
