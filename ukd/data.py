"""Images from folders, arrays and torchvision behind one small interface: uint8 RGB, and labels if there are any."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ukd.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class Images(Protocol):
    """A finite, indexable set of images.

    Attributes:
        name: What the user called it.
        labels: int64 [n] class numbers, or None.
        class_names: Name of each class number, or None.
    """

    name: str
    labels: Labels | None
    class_names: list[str] | None

    def __len__(self) -> int: ...

    def read(self, index: int) -> Pixels:
        """Decodes one image, uint8 RGB [H, W, 3]. Raises OSError where the file cannot be decoded."""

    def id(self, index: int) -> str:
        """What a log calls this image: its path or its number."""

    def fingerprint(self) -> str:
        """sha256 hex of what identifies the content: two sets that differ have different fingerprints."""


class FolderImages:
    """Image files below a folder, flat or nested, in sorted order.

    Args:
        folder: The folder; searched recursively.
        labelled: Take the first folder level as class names.

    Raises:
        DataError: No such folder, no images in it, or labels asked for and no class folders.
    """

    def __init__(self, folder: Path, labelled: bool = False) -> None:
        self.name = str(folder)
        self._folder = folder
        try:
            found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        except OSError as error:
            raise DataError(f"data: cannot read the folder {folder}: {error.strerror}") from None
        if not found:
            wanted = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"data: no images below {folder}; files ending in {wanted} are taken")
        self._paths = [path.relative_to(folder).as_posix() for path in found]
        self.labels: Labels | None = None
        self.class_names: list[str] | None = None
        if labelled:
            self._label_by_folder()

    def _label_by_folder(self) -> None:
        loose = next((path for path in self._paths if "/" not in path), None)
        if loose is not None:
            raise DataError(
                f"data: {self.name} is asked for labels, but {loose} lies in no class folder; "
                "labels are the names of the first folder level: <class>/<image>"
            )
        classes = [path.split("/", 1)[0] for path in self._paths]
        self.class_names = sorted(set(classes))
        number = {name: index for index, name in enumerate(self.class_names)}
        self.labels = np.array([number[name] for name in classes], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Pixels:
        with Image.open(self._folder / self._paths[index]) as image:
            return np.asarray(image.convert("RGB"))

    def id(self, index: int) -> str:
        return self._paths[index]

    def fingerprint(self) -> str:
        """Hash of every relative path and file size; file contents are not read."""
        digest = hashlib.sha256()
        for path in self._paths:
            digest.update(f"{path}\0{(self._folder / path).stat().st_size}\n".encode())
        return digest.hexdigest()


class ArrayImages:
    """Images held in memory as one uint8 array.

    Args:
        name: What the user called it.
        pixels: uint8 [n, H, W], [n, H, W, 1] or [n, H, W, 3]; grey becomes RGB when read.
        labels: Integers [n], or None.
        class_names: Name of each class number, or None.

    Raises:
        DataError: Another shape or dtype, no images, or a label count that differs.
    """

    def __init__(
        self,
        name: str,
        pixels: Pixels,
        labels: npt.ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (3, 4)
            or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3))
        ):
            raise DataError(
                f"data: images in {name} are {pixels.dtype} {list(pixels.shape)}; uint8 [n, H, W] (grey) "
                "or [n, H, W, 3] (RGB, channels last) is wanted"
            )
        if not len(pixels):
            raise DataError(f"data: {name} holds no images")
        self.name = name
        self._pixels = pixels
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.class_names = None if class_names is None else [str(each) for each in class_names]
        if self.labels is not None and self.labels.shape != (len(pixels),):
            raise DataError(f"data: {name} holds {len(pixels)} images but labels of shape {list(self.labels.shape)}")

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: int) -> Pixels:
        pixels = self._pixels[index]
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))

    def id(self, index: int) -> str:
        return f"#{index}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._pixels.shape}".encode())
        digest.update(np.ascontiguousarray(self._pixels).tobytes())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()


class TorchvisionImages:
    """A classification data set of torchvision, by name: `torchvision:CIFAR10:train`.

    Raises:
        DataError: Unknown name, data not on disk (nothing is downloaded unless asked), or no such split.
    """

    def __init__(self, source: str, root: Path, download: bool) -> None:
        from torchvision import datasets

        self.name = source
        try:
            _, dataset_name, split = source.split(":")
        except ValueError:
            raise DataError(
                f"data: {source!r} must read torchvision:NAME:SPLIT, as in torchvision:CIFAR10:train"
            ) from None
        if dataset_name not in datasets.__all__:
            raise DataError(
                f"data: torchvision has no data set {dataset_name!r}; names are written as in its documentation"
            )
        self._dataset = _torchvision_dataset(getattr(datasets, dataset_name), source, split, root, download)
        targets = getattr(
            self._dataset,
            "targets",
            getattr(self._dataset, "labels", getattr(self._dataset, "_labels", None)),
        )
        self.labels = None if targets is None else np.asarray(targets, dtype=np.int64)
        self.class_names = getattr(self._dataset, "classes", None)

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int) -> Pixels:
        return np.asarray(self._dataset[index][0].convert("RGB"))

    def id(self, index: int) -> str:
        return f"#{index}"

    def fingerprint(self) -> str:
        """Hash of the name, the size, the labels, and the pixels of a hundred images spread over the set."""
        digest = hashlib.sha256(f"{self.name} {len(self)}".encode())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        for index in np.linspace(0, len(self) - 1, min(100, len(self)), dtype=int):
            digest.update(self.read(int(index)).tobytes())
        return digest.hexdigest()


def _torchvision_dataset(factory, source: str, split: str, root: Path, download: bool):  # type: ignore[no-untyped-def]
    """Builds the data set whichever way it spells its split; torchvision has two ways and no common type."""
    import inspect

    parameters = inspect.signature(factory).parameters
    arguments: dict[str, object] = {"download": download} if "download" in parameters else {}
    if "train" in parameters:
        if split not in ("train", "test"):
            raise DataError(f"data: {source}: the split must be train or test, got {split!r}")
        arguments["train"] = split == "train"
    elif "split" in parameters:
        arguments["split"] = split
    else:
        raise DataError(f"data: {source}: this data set has no splits that torchvision can select")
    try:
        return factory(str(root), **arguments)
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        hint = "" if download else "; `data.root` names its folder, `data.download: true` fetches it"
        raise DataError(f"data: {source} cannot be opened in {root}: {error}{hint}") from None


def open_images(source: str, *, root: Path = Path("data"), download: bool = False, labelled: bool = False) -> Images:
    """Opens a source of images as a recipe or a command names it.

    Args:
        source: A folder, a .npz file (`images`, and `labels` if it has them), a .npy file, or `torchvision:NAME:SPLIT`.
        root: Folder of torchvision data sets.
        download: Let torchvision fetch a missing data set.
        labelled: Labels are needed.

    Raises:
        DataError: Nothing usable there, said with what would be.
    """
    images = _open(source, root, download, labelled)
    if labelled and images.labels is None:
        raise DataError(
            f"data: {source} has no labels; a labelled folder, or a .npz with `images` and `labels`, is wanted"
        )
    return images


def _open(source: str, root: Path, download: bool, labelled: bool) -> Images:
    if source.startswith("torchvision:"):
        return TorchvisionImages(source, root, download)
    path = Path(source)
    if path.is_dir():
        return FolderImages(path, labelled)
    if not path.exists():
        raise DataError(f"data: {source} does not exist (looked in {Path.cwd()})")
    if path.suffix not in (".npz", ".npy"):
        raise DataError(f"data: {source} is neither a folder nor a .npz or .npy file")
    try:
        stored = np.load(path, allow_pickle=False)
        if path.suffix == ".npy":
            return ArrayImages(source, stored)
        if "images" not in stored:
            raise DataError(f"data: {source} holds {', '.join(stored.files)}, but no array named `images`")
        return ArrayImages(source, stored["images"], stored.get("labels"), stored.get("class_names"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"data: {source} cannot be read as an array file: {error}") from None


class Subset:
    """Some images of a set, in the given order; labels are left behind."""

    def __init__(self, images: Images, indices: npt.NDArray[np.int64]) -> None:
        self.name = images.name
        self.labels: Labels | None = None
        self.class_names: list[str] | None = None
        self._images = images
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Pixels:
        return self._images.read(int(self._indices[index]))

    def id(self, index: int) -> str:
        return self._images.id(int(self._indices[index]))

    def fingerprint(self) -> str:
        return hashlib.sha256(self._images.fingerprint().encode() + self._indices.tobytes()).hexdigest()


def split_holdout(num_images: int, num_holdout: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Splits image numbers into training and held-out ones, a tenth at most held out, the same for every seed."""
    num_holdout = min(num_holdout, num_images // 10)
    order = np.random.Generator(np.random.Philox(key=num_images)).permutation(num_images)
    return np.sort(order[num_holdout:]), np.sort(order[:num_holdout])
