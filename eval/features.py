"""Features of a data set, extracted once and kept: every figure of every task starts from the same rows.

A cache entry is named by all that the rows depend on: the weights, how they are fed, the images, the view,
the versions of the libraries and the kind of device. Rows are stored in fp16 where that loses nothing that
matters (see `compact`) and always pass through the stored type, so a figure is the same whether its features
were cached or not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import safetensors.numpy
import timm
import torch
from safetensors import SafetensorError

import ukd
from ukd.backbones import Backbone
from ukd.bank import Embeddings, embed
from ukd.data import Images
from ukd.files import write_atomically

MAX_ROUNDING = 2e-3
"""Features are stored in fp16 if its rounding error stays below this share of their spread."""
TILE_ROWS = 4096
_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """Name the folder of cached features: `$UKD_CACHE`, else `~/.cache/ukd`, and `features` in it."""
    return Path(os.environ.get("UKD_CACHE") or Path.home() / ".cache" / "ukd") / "features"


def cached_features(
    backbone: Backbone,
    images: Images,
    *,
    size_px: int,
    crop_pct: float,
    device: torch.device,
    batch_size: int = 256,
    num_workers: int | None = None,
    cache: Path | None = None,
    advance: Callable[[int], None] | None = None,
) -> Embeddings:
    """Extract the pooled features of every image, or read them from the cache.

    A cache file that is damaged, or belongs to something else, is reported and made anew. A cache that cannot
    be written is reported and done without.

    Args:
        backbone: What is evaluated.
        images: What it looks at.
        size_px: Side of the evaluation view.
        crop_pct: Its centre crop.
        device: Where to compute; the backbone is moved there.
        batch_size: Images in one forward pass.
        num_workers: Loader processes; None takes this process's share of the cores.
        cache: Folder of cached features; None keeps nothing.
        advance: Called with the number of images done since the last call.

    Returns:
        float32 [n, D], in the order of the images, not normalised, rounded as `compact` says.

    Raises:
        DataError: An image cannot be read.
    """
    key = _key(backbone, images, size_px, crop_pct, device)
    path = cache / f"{hashlib.sha256(_json(key)).hexdigest()[:32]}.safetensors" if cache else None
    stored = _read(path, key, (len(images), backbone.dim)) if path else None
    if stored is not None and advance:
        advance(len(images))
    if stored is None:
        embeddings = embed(
            backbone.to(device),
            images,
            size_px=size_px,
            crop_pct=crop_pct,
            device=device,
            batch_size=batch_size,
            num_workers=num_workers,
            advance=advance,
        )
        stored = compact(embeddings)
        if path:
            _write(path, key, stored)
    return stored.astype(np.float32)


def compact(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float16] | npt.NDArray[np.float32]:
    """Round features [n, D] to fp16 where its 11 bits are enough, else leave them in fp32.

    They are enough if the rounding error is below MAX_ROUNDING of the spread about the mean feature, both as
    root mean square. Overflow beyond 65,504, features too small for fp16, and those of an untrained or
    collapsed network, which differ from one another by little more than fp16 can tell, stay in fp32.
    Compacting twice changes nothing.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    rounded = np.empty(features.shape, dtype=np.float16)
    error = spread = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(features), TILE_ROWS):
            rows = features[start : start + TILE_ROWS]
            rounded[start : start + TILE_ROWS] = rows
            error += float(np.square(rounded[start : start + TILE_ROWS] - rows, dtype=np.float64).sum())
            spread += float(np.square(rows - mean).sum())
    return rounded if error < MAX_ROUNDING**2 * spread else features


def versions() -> dict[str, str]:
    """Name the versions of what features and figures are computed with."""
    return {
        "ukd": ukd.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }


def _key(backbone: Backbone, images: Images, size_px: int, crop_pct: float, device: torch.device) -> dict[str, Any]:
    info = backbone.info.as_json()
    return {
        "weights": backbone.weights_hash(),
        "fed": {name: info[name] for name in ("arch", "kwargs", "input_px", "mean", "std")},
        "images": images.fingerprint(),
        "view": {"size_px": size_px, "crop_pct": crop_pct},
        "feature": "pooled",
        "device": device.type,
        "versions": versions(),
    }


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode()


def _read(path: Path, key: Mapping[str, Any], shape: tuple[int, int]) -> npt.NDArray[np.floating[Any]] | None:
    """Read a cache entry whose manifest vouches for every byte of it; None where there is none."""
    manifest_path = path.with_suffix(".json")
    if not (path.is_file() and manifest_path.is_file()):
        return None
    try:
        manifest = json.loads(manifest_path.read_bytes())
        if _json(manifest["key"]) != _json(key) or manifest["sha256"] != _file_hash(path):
            raise ValueError("its content is not what its manifest says")
        features: npt.NDArray[np.floating[Any]] = safetensors.numpy.load_file(path)["features"]
        if features.shape != shape:
            raise ValueError(f"it holds {features.shape} where {shape} is wanted")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        _log.warning("cached features %s are damaged and extracted anew: %s", path, error)
        return None
    return features


def _write(path: Path, key: Mapping[str, Any], features: npt.NDArray[np.floating[Any]]) -> None:
    """Write the rows, then the manifest that makes them count."""
    data = safetensors.numpy.save({"features": np.ascontiguousarray(features)})
    manifest = {
        "key": key,
        "dtype": str(features.dtype),
        "shape": features.shape,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
        write_atomically(path.with_suffix(".json"), _json(manifest))
    except OSError as error:
        _log.warning("features could not be cached in %s: %s", path.parent, error.strerror)


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()
