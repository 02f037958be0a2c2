"""Every format: a file laid out like the official one becomes timm's model, tensor for tensor, feature for feature."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from tests.formats.files import save
from tests.formats.originals import ORIGINALS, Original
from ukd.backbones import Backbone, build_backbone
from ukd.formats import match, read
from ukd.formats.reading import find_weights
from ukd.formats.table import FORMATS


def pixels(size_px: int) -> Tensor:
    return torch.rand(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))


def build(file: Original, weights: Path, **asked: object) -> Backbone:
    return build_backbone(arch=file.arch, kwargs=file.kwargs, weights=str(weights), frozen=True, **asked)  # type: ignore[arg-type]


def check_tensors(backbone: Backbone, file: Original) -> None:
    state = backbone.model.state_dict()
    assert state.keys() == file.state.keys()
    assert not [each for each in state if not torch.equal(state[each], file.state[each])]


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_file_becomes_the_model(name: str, tmp_path: Path) -> None:
    file, format = ORIGINALS[name](), name.split(":")[0]
    weights = save(file, tmp_path)
    found = match(read(find_weights(weights)))
    assert found.row.name == (file.found_as or format)
    check_tensors(build(file, weights), file)
    backbone = build(file, weights, format=format)
    check_tensors(backbone, file)
    views = pixels(backbone.info.input_px or 64)
    pooled = backbone(views).pooled
    assert not torch.allclose(pooled[0], pooled[1], rtol=1e-3)  # It looks at the pixels.
    with torch.no_grad():
        if file.forward:
            expected = file.forward((views - backbone.mean) / backbone.std)
            torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
        assert (match(read(find_weights(weights)), format).head is None) == (file.head is None)
        if file.head:
            teacher, projected = build(file, weights, format=format, features="head"), file.head.eval()(pooled)
            assert torch.equal(teacher(views).pooled, projected) and teacher.dim == projected.shape[1]
            assert teacher.weights_hash() != backbone.weights_hash()


def test_every_row_of_the_table_is_here() -> None:
    assert {name.split(":")[0] for name in ORIGINALS} == FORMATS.keys()


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("dinov2", timm.models.vision_transformer.checkpoint_filter_fn),
        ("dinov2:registers", timm.models.vision_transformer.checkpoint_filter_fn),
        ("dinov3", timm.models.eva.checkpoint_filter_fn),
        ("dinov3:gated", timm.models.eva.checkpoint_filter_fn),
        ("dinov3:zero biases", timm.models.eva.checkpoint_filter_fn),
        ("dinov3:convnext", timm.models.convnext.checkpoint_filter_fn),
    ],
)
def test_timm_converts_it_to_the_same(name: str, theirs: object, tmp_path: Path) -> None:
    file = ORIGINALS[name]()
    ours = build(file, save(file, tmp_path)).model.state_dict()
    assert callable(theirs)
    expected = theirs(dict(file.tree), timm.create_model(file.arch, num_classes=0, **file.kwargs))
    assert expected.keys() == ours.keys() and all(torch.equal(value, expected[key]) for key, value in ours.items())
