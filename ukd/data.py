"""Images from folders, arrays and torchvision behind one small interface: uint8 RGB, and labels if there are any."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ukd.errors import DataError
from ukd.torchvision_data import TorchvisionImages

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff"})

DECODING = b"upright\n"
"""Part of every folder's fingerprint: features of the same files decoded in another way are not these."""

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

    def file(self, index: int) -> Path | None:
        """The file that holds one image and nothing else; None where the fingerprint is not of files."""

    def fingerprint(self) -> str:
        """sha256 hex of what stands for the content, without reading all of a large set."""


class FolderImages:
    """Image files below a folder, flat or nested, in sorted order, turned upright where EXIF says how they were taken.

    Args:
        folder: The folder; searched recursively and through links, without what is hidden (`.thumbnails/`, `._a.jpg`).
        labelled: Take the first folder level as class names.

    Raises:
        DataError: No such folder, no images in it, or labels asked for and no class folders.
    """

    def __init__(self, folder: Path, labelled: bool = False) -> None:
        self.name = str(folder)
        self._folder = folder
        try:
            self._paths = sorted(_image_files(folder), key=lambda path: path.split("/"))
        except OSError as error:
            raise DataError(f"data: cannot read the folder {error.filename}: {error.strerror}") from None
        if not self._paths:
            wanted = " ".join(sorted(IMAGE_SUFFIXES))
            raise DataError(f"data: no images below {folder}; files ending in {wanted} are taken")
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
        try:
            with Image.open(self._folder / self._paths[index]) as image:
                return _rgb(image)
        except OSError:
            raise
        except Exception as error:  # Pillow raises errors of many types where a file is damaged.
            raise OSError(f"{self._paths[index]}: {error}") from error

    def id(self, index: int) -> str:
        return self._paths[index]

    def file(self, index: int) -> Path | None:
        return self._folder / self._paths[index]

    def fingerprint(self) -> str:
        """Hash of every relative path and file size; file contents are not read."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(DECODING)
        for path in self._paths:
            digest.update(os.fsencode(f"{path}\0{(self._folder / path).stat().st_size}\n"))
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
        self.labels = None if labels is None else _class_numbers(name, np.asarray(labels), len(pixels))
        self.class_names = None if class_names is None else [str(each) for each in class_names]

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: int) -> Pixels:
        pixels = self._pixels[index]
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))

    def id(self, index: int) -> str:
        return f"#{index}"

    def file(self, index: int) -> Path | None:
        return None

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._pixels.shape}".encode())
        digest.update(np.ascontiguousarray(self._pixels).data)
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()


def _image_files(folder: Path) -> Iterator[str]:
    """Paths of the image files below a folder, relative to it."""

    def stop(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=stop, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield Path(place, name).relative_to(folder).as_posix()


def _rgb(image: Image.Image) -> Pixels:
    """uint8 RGB of any image, upright; Pillow alone would turn nearly every deep grey value into white."""
    image.load()  # Decoded first: what fails below is not the pixels, and TIFF files are upright already.
    with suppress(Exception):  # Pillow raises errors of many types where EXIF is damaged; it then says nothing.
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise OSError(f"{image.mode} pixels have no range that is known; 8 or 16 bits a channel are wanted")
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of see-through palettes otherwise; the colours are the same.
    return np.asarray(image.convert("RGB"))


def _class_numbers(name: str, labels: npt.NDArray[Any], num_images: int) -> Labels:
    if labels.dtype.kind not in "iu":
        raise DataError(f"data: labels in {name} are {labels.dtype}; whole numbers, one for each image, are wanted")
    if labels.shape != (num_images,):
        raise DataError(f"data: {name} holds {num_images} images but labels of shape {list(labels.shape)}")
    return labels.astype(np.int64)


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
        if isinstance(stored, np.ndarray):
            return ArrayImages(source, stored)
        if "images" not in stored:
            raise DataError(f"data: {source} holds {', '.join(stored.files)}, but no array named `images`")
        return ArrayImages(source, stored["images"], stored.get("labels"), stored.get("class_names"))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"data: {source} cannot be read as an array file: {error}") from None


class Subset:
    """Some images of a set, in the given order; labels are left behind."""

    def __init__(self, images: Images, indices: npt.NDArray[np.int64]) -> None:
        self.name = images.name
        self.labels: Labels | None = None
        self.class_names: list[str] | None = None
        self.whole = images
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Pixels:
        return self.whole.read(int(self._indices[index]))

    def id(self, index: int) -> str:
        return self.whole.id(int(self._indices[index]))

    def file(self, index: int) -> Path | None:
        return self.whole.file(int(self._indices[index]))

    def fingerprint(self) -> str:
        return hashlib.sha256(self.whole.fingerprint().encode() + self._indices.tobytes()).hexdigest()


def split_holdout(num_images: int, num_holdout: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Splits image numbers into training and held-out ones, a tenth at most held out, the same for every seed."""
    num_holdout = min(num_holdout, num_images // 10)
    order = np.random.Generator(np.random.Philox(key=num_images)).permutation(num_images)
    return np.sort(order[num_holdout:]), np.sort(order[:num_holdout])
