"""lightly-train's own checkpoints: whole models, hence code; refused with what to take instead."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from ukd.errors import WeightsError
from ukd.formats import read

MODELS = "lightly_train._models"


class ModelWrapper(nn.Module):
    """As lightly_train._models.timm.timm: the model under `_model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model


class EmbeddingModel(nn.Module):
    """As lightly_train._models.embedding_model: the wrapped model, and a head of no layers by default."""

    def __init__(self, wrapped_model: nn.Module) -> None:
        super().__init__()
        self.model_wrapper = wrapped_model
        self.embed_head = nn.Identity()


def checkpoint() -> dict[str, Any]:
    """What PyTorch Lightning and lightly-train's callback write after a pretraining with DINO, key for key."""
    model = timm.create_model("resnet10t", channels=[8, 8, 16, 32], stem_width=8)
    wrapped = ModelWrapper(model)
    embedding = EmbeddingModel(wrapped)
    heads = {"layers.0.weight": torch.zeros(16, 32), "last_layer.weight_g": torch.ones(8, 1)}
    state: OrderedDict[str, Tensor] = OrderedDict()
    for who in ("teacher", "student"):
        state |= {f"{who}_embedding_model.{name}": value for name, value in embedding.state_dict().items()}
        state |= {f"{who}_projection_head.{name}": value for name, value in heads.items()}
    state["criterion.center.center"] = torch.zeros(1, 1, 8)
    return {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "lightly_train": {
            "version": "0.14.1",
            "date": "2026-02-09T12:00:00+00:00",
            "models": {"model": model, "wrapped_model": wrapped, "embedding_model": embedding},
            "normalize_args": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
            "license_info": None,
        },
    }


def save(content: dict[str, Any], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves it as if the classes were lightly-train's, which is not installed when the file is read."""
    with monkeypatch.context() as patch:
        for place in ("lightly_train", MODELS, f"{MODELS}.timm", f"{MODELS}.timm.timm", f"{MODELS}.embedding_model"):
            patch.setitem(sys.modules, place, ModuleType(place))
        for place, found in ((f"{MODELS}.timm.timm", ModelWrapper), (f"{MODELS}.embedding_model", EmbeddingModel)):
            patch.setattr(found, "__module__", place)
            patch.setattr(sys.modules[place], found.__name__, found, raising=False)
        torch.save(content, path)


def test_its_checkpoint_is_refused_with_what_to_take_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(checkpoint(), tmp_path / "last.ckpt", monkeypatch)
    with pytest.raises(WeightsError) as caught:
        read(tmp_path / "last.ckpt")
    said = str(caught.value)
    assert "last.ckpt is refused: loading it would run code stored in the file (timm." in said
    assert "take exported_models/exported_last.pt of the same run, or what lightly_train.export(" in said


def test_another_file_with_code_is_not_taken_for_lightly_train_s(tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(1, 1)}, tmp_path / "x.pt")
    with pytest.raises(
        WeightsError, match=r"Where you trust it, load it yourself and save its tensors alone"
    ) as caught:
        read(tmp_path / "x.pt")
    assert "lightly" not in str(caught.value)
