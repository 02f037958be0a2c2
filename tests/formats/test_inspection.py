"""What `ukd-teacher inspect` says, and the page that lists what can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from tests.formats.files import save
from tests.formats.originals import ORIGINALS
from ukd.formats.inspection import ARCHS, describe, guess_arch
from ukd.formats.table import FORMATS

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_an_architecture_is_told_by_its_shapes(arch: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(arch).state_dict()
    assert guess_arch(state) == arch
    assert guess_arch({**state, "strange": torch.zeros(1)}) is None
    assert guess_arch({"strange": torch.zeros(1)}) is None


def test_positions_of_another_grid_do_not_matter() -> None:
    with torch.device("meta"):
        state = timm.create_model("vit_tiny_patch16_224", img_size=64).state_dict()
    assert guess_arch(state) == "vit_tiny_patch16_224"


def test_every_architecture_is_one_of_timm_s() -> None:
    assert all(timm.is_model(arch) for archs in ARCHS.values() for arch in archs)


def test_a_file_in_a_few_words(tmp_path: Path) -> None:
    path = save(ORIGINALS["moco_v2:released"](), tmp_path)
    said = describe(str(path))
    assert said["file"].startswith(f"{path}, 1") and said["safe"].startswith("yes, ")
    assert (said["format"], said["arch"]) == ("MoCo v2 (moco_v2)", "resnet50")
    assert said["parameters"] == "23,508,032 in the backbone"  # 25,557,032 less the classifier's 2,049,000.
    assert said["head"] == "encoder_q.fc.*, 2048 to 2048 to 128 (features: head)" and said["dtype"] == "float32"
    assert said["pixels"] == "normalised by mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225"
    assert said["recipe"] == f"teacher: {{arch: resnet50, weights: {path}, format: moco_v2}}"


def test_other_names_and_no_guess(tmp_path: Path) -> None:
    said = describe(str(save(ORIGINALS["mmselfsup:vit"](), tmp_path)))
    assert said["format"] == "MMSelfSup (mmselfsup), in the names of MMClassification's ViT"
    assert said["arch"].startswith("none that is known by its shapes (") and said["head"] == "none"
    assert "arch: NAME," in said["recipe"]


def test_a_file_of_no_known_format(tmp_path: Path) -> None:
    torch.save({"a": {"b": torch.zeros(3)}, "c": torch.ones(2)}, tmp_path / "x.pth")
    said = describe(str(tmp_path / "x.pth"))
    assert said["format"] == "none that is known; taken for plain names, timm's or a torchvision ResNet's (timm)"
    assert said["arch"] == "none that is known by its shapes (c, a.b, ...); say timm's name yourself"
    assert said["pixels"] == "normalised as timm does for the architecture; the file does not say"


def test_the_page_lists_every_format_with_its_sources() -> None:
    rows = [line.split("|") for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    listed = {cells[1].strip().strip("`"): [cell.strip() for cell in cells[2:]] for cells in rows}
    assert list(listed) == list(FORMATS)
    for name, row in FORMATS.items():
        title, source, file, head = listed[name][:4]
        assert title == row.title and source == row.source and file == row.file
        assert head == (", ".join(dict.fromkeys(f"`{each.prefix}`" for each in row.heads)) or "none")
