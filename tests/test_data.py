"""Images from folders, arrays and torchvision: what is read, and what is said of what cannot be."""

from __future__ import annotations

import io
import os
import random
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from torchvision import datasets

from tests import processes
from ukd.data import ArrayImages, FolderImages, Pixels, Subset, open_images, split_holdout
from ukd.errors import DataError


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: Any, mode: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


# Folders.


def test_a_folder_is_read_nested_and_in_order(tmp_path: Path) -> None:
    pixels = {name: noise(5, 4, 3, seed=i) for i, name in enumerate(["b.png", "a-b/x.PNG", "a/c/y.bmp", "a/z.tiff"])}
    for name, each in pixels.items():
        save(tmp_path / name, each)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    images = open_images(str(tmp_path))
    assert [images.id(i) for i in range(len(images))] == ["a/c/y.bmp", "a/z.tiff", "a-b/x.PNG", "b.png"]
    for i in range(4):
        np.testing.assert_array_equal(images.read(i), pixels[images.id(i)])
    assert images.labels is None and images.class_names is None and images.name == str(tmp_path)


def test_links_are_followed_and_what_is_hidden_is_not(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "cat" / "1.png", noise(2, 2, 3))
    folder = tmp_path / "subset"
    save(folder / "dog" / "2.png", noise(2, 2, 3))
    (folder / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    save(folder / ".thumbnails" / "1.png", noise(2, 2, 3))
    (folder / "dog" / "._2.png").write_bytes(b"what a Mac leaves behind")
    (folder / "album.png").mkdir()
    images = FolderImages(folder, labelled=True)
    assert [images.id(i) for i in range(len(images))] == ["cat/1.png", "dog/2.png"]
    assert images.class_names == ["cat", "dog"] and images.labels is not None and images.labels.tolist() == [0, 1]


def test_labels_are_the_first_folder_level(tmp_path: Path) -> None:
    for name in ["b/1.png", "b/deep/2.png", "a/3.png", "C/4.png"]:
        save(tmp_path / name, noise(2, 2, 3))
    images = open_images(str(tmp_path), labelled=True)
    assert images.class_names == ["C", "a", "b"]
    assert images.labels is not None and images.labels.dtype == np.int64
    assert images.labels.tolist() == [0, 1, 2, 2]
    save(tmp_path / "loose.png", noise(2, 2, 3))
    with pytest.raises(DataError, match=r"asked for labels, but loose\.png lies in no class folder.*<class>/<image>"):
        open_images(str(tmp_path), labelled=True)


def test_every_kind_of_image_becomes_rgb(tmp_path: Path) -> None:
    gray = noise(6, 5)
    deep = (np.arange(30).reshape(6, 5) * 2200).astype(np.uint16)
    save(tmp_path / "gray.png", gray)
    save(tmp_path / "alpha.png", np.dstack([noise(6, 5, 3), noise(6, 5)]))
    save(tmp_path / "gray_alpha.png", np.dstack([gray, noise(6, 5)]))
    save(tmp_path / "palette.png", noise(6, 5, 3), "P")
    save(tmp_path / "palette_see_through.png", noise(6, 5, 3), "P", transparency=bytes(range(256)))
    save(tmp_path / "cmyk.jpg", noise(6, 5, 3), "CMYK")
    save(tmp_path / "one_bit.png", gray, "1")
    save(tmp_path / "deep.png", deep)
    save(tmp_path / "deep.tif", deep)
    images = FolderImages(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = {images.id(i): images.read(i) for i in range(len(images))}
    assert {(each.shape, each.dtype) for each in read.values()} == {((6, 5, 3), np.dtype(np.uint8))}
    np.testing.assert_array_equal(read["gray.png"], np.dstack([gray] * 3))
    np.testing.assert_array_equal(read["gray_alpha.png"], np.dstack([gray] * 3))
    np.testing.assert_array_equal(read["alpha.png"], noise(6, 5, 3))  # Alpha is dropped, not blended.
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_array_equal(read[name], np.dstack([deep >> 8] * 3))
    palette = np.asarray(Image.open(tmp_path / "palette.png").convert("RGB"))
    np.testing.assert_array_equal(read["palette.png"], palette)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_photos_are_turned_upright(tmp_path: Path, orientation: int | None, suffix: str) -> None:
    corners = np.array([[0, 60, 60], [120, 240, 240]], np.uint8).repeat(16, axis=0).repeat(16, axis=1)  # 32 x 48.
    # What the camera's sensor saw of this scene, row 0 and column 0 being where EXIF's table of the tag says.
    seen = {
        2: corners[:, ::-1],  # top right
        3: corners[::-1, ::-1],  # bottom right
        4: corners[::-1],  # bottom left
        5: corners.T,  # left top
        6: np.rot90(corners),  # right top
        7: corners[::-1, ::-1].T,  # right bottom
        8: np.rot90(corners, -1),  # left bottom
    }.get(orientation or 1, corners)
    exif = Image.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    save(tmp_path / f"photo.{suffix}", seen, "RGB", exif=exif.tobytes())
    read = FolderImages(tmp_path).read(0)
    assert read.shape == (32, 48, 3)
    np.testing.assert_allclose(read.astype(int), np.dstack([corners.astype(int)] * 3), atol=12)


def test_damaged_exif_leaves_a_photo_as_it_lies(tmp_path: Path) -> None:
    pixels = noise(6, 4, 3)
    save(tmp_path / "photo.png", pixels, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(FolderImages(tmp_path).read(0), pixels)


def test_pixels_without_a_known_range_are_no_image(tmp_path: Path) -> None:
    save(tmp_path / "float.tif", np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4))
    with pytest.raises(OSError, match="F pixels have no range that is known; 8 or 16 bits a channel are wanted"):
        FolderImages(tmp_path).read(0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "ppm", "tif"])
def test_a_damaged_file_is_always_an_os_error(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"x.{suffix}", noise(20, 20, 3))
    whole, images, rng = path.read_bytes(), FolderImages(tmp_path), random.Random(0)
    num_refused = 0
    for _ in range(150):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(rng.randrange(1, 8) if damaged else 0):
            damaged[rng.randrange(min(len(damaged), 200))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert images.read(0).dtype == np.uint8
        except OSError:
            num_refused += 1
    assert num_refused > 50


def test_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"no images below .*; files ending in \.bmp \.jpeg .* are taken"):
        open_images(str(tmp_path))
    with pytest.raises(DataError, match=r"none does not exist \(looked in /"):
        open_images(str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"notes\.txt is neither a folder nor a \.npz or \.npy file"):
        open_images(str(tmp_path / "notes.txt"))
    with pytest.raises(DataError, match=r"cannot read the folder .*none: No such file"):
        FolderImages(tmp_path / "none")


def test_a_folder_s_fingerprint_is_of_names_and_sizes(tmp_path: Path) -> None:
    def fingerprint() -> str:
        return FolderImages(tmp_path / "a").fingerprint()

    save(tmp_path / "a" / "1.bmp", noise(4, 4, 3))
    first = fingerprint()
    assert first == fingerprint() and len(first) == 64
    save(tmp_path / "a" / "1.bmp", noise(4, 5, 3))
    resized = fingerprint()
    save(tmp_path / "a" / "2.bmp", noise(4, 4, 3))
    more = fingerprint()
    (tmp_path / "a" / "2.bmp").rename(tmp_path / "a" / "3.bmp")
    assert len({first, resized, more, fingerprint()}) == 4
    (tmp_path / "a").rename(tmp_path / "moved")
    (tmp_path / "moved" / "3.bmp").rename(tmp_path / "moved" / "2.bmp")
    assert FolderImages(tmp_path / "moved").fingerprint() == more  # Where the folder lies is no part of it.


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes on POSIX alone")
def test_names_in_an_old_encoding_are_no_obstacle(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    buffer = io.BytesIO()
    Image.fromarray(noise(2, 2, 3)).save(buffer, "png")
    try:
        with open(path, "wb") as file:
            file.write(buffer.getvalue())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    images = FolderImages(tmp_path)
    assert images.read(0).shape == (2, 2, 3) and len(images.fingerprint()) == 64


# Arrays.


def test_npz_with_labels_and_names(tmp_path: Path) -> None:
    pixels = noise(3, 4, 5, 3)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.array([2, 0, 1], np.int32), class_names=["x", "y", "z"])
    images = open_images(str(tmp_path / "a.npz"), labelled=True)
    assert len(images) == 3 and images.id(1) == "#1" and images.class_names == ["x", "y", "z"]
    assert images.labels is not None and images.labels.dtype == np.int64 and images.labels.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(images.read(1), pixels[1])


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 1)])
def test_grey_arrays_become_rgb(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", noise(*shape))
    images = open_images(str(tmp_path / "a.npy"))
    np.testing.assert_array_equal(images.read(2), np.dstack([noise(*shape)[2].reshape(4, 5)] * 3))
    with pytest.raises(DataError, match=r"a\.npy has no labels; a labelled folder, or a \.npz with `images` and `lab"):
        open_images(str(tmp_path / "a.npy"), labelled=True)


Writer = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npz", lambda p: np.savez(p, x=noise(2, 4, 4, 3), y=1), r"a\.npz holds x, y, but no array named `images`"),
        ("a.npy", lambda p: np.save(p, noise(2, 4, 4, 3) / 255), r"are float64 \[2, 4, 4, 3\]; uint8 \[n, H, W\]"),
        ("a.npy", lambda p: np.save(p, noise(2, 3, 4, 4)), r"uint8 \[2, 3, 4, 4\];.*RGB, channels last"),
        ("a.npy", lambda p: np.save(p, noise(4, 4)), r"uint8 \[4, 4\]; uint8"),
        ("a.npy", lambda p: np.save(p, noise(0, 4, 4, 3)), r"a\.npy holds no images"),
        ("a.npz", lambda p: np.savez(p, images=noise(3, 4, 4), labels=[1, 2]), r"3 images but labels of shape \[2\]"),
        ("a.npz", lambda p: np.savez(p, images=noise(2, 4, 4), labels=[0.5, 1]), r"labels in .* are float64; whole nu"),
        ("a.npz", lambda p: np.savez(p, images=noise(2, 4, 4), labels=["a", "b"]), r"labels in .* are <U1; whole numb"),
        ("a.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), "cannot be read as an array file.*pickle"),
        ("a.npz", lambda p: np.savez(p, images=np.array([{}])), "cannot be read as an array file.*allow_pickle=False"),
        ("a.npz", lambda p: p.write_text("hello"), "cannot be read as an array file"),
        ("a.npy", lambda p: p.write_bytes(b""), "cannot be read as an array file"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, name: str, write: Writer, message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        open_images(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.npz", "b.npz", "a.npy"])
def test_a_cut_or_garbled_array_file_is_a_mistake_not_a_crash(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    pixels = noise(4, 8, 8, 3)
    if name == "a.npy":
        np.save(path, pixels)
    else:
        (np.savez if name == "a.npz" else np.savez_compressed)(path, images=pixels)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match="cannot be read as an array file"):
            open_images(str(path))
    if name.endswith("npz"):
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
        with pytest.raises(DataError, match="cannot be read as an array file"):
            open_images(str(path))


def test_an_array_s_fingerprint_is_of_its_content() -> None:
    pixels = noise(2, 4, 6)
    changed = pixels.copy()
    changed[1, 3, 5] ^= 1
    prints = [
        ArrayImages("a", pixels).fingerprint(),
        ArrayImages("a", changed).fingerprint(),
        ArrayImages("a", pixels.reshape(2, 6, 4)).fingerprint(),
        ArrayImages("a", pixels, [0, 1]).fingerprint(),
        ArrayImages("a", pixels, [1, 0]).fingerprint(),
    ]
    assert len(set(prints)) == 5
    assert ArrayImages("b", np.asfortranarray(pixels)).fingerprint() == prints[0]


# torchvision.


def write_fashion(root: Path) -> None:
    """A FashionMNIST of 6 training and 4 test images, as IDX files."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, num in (("train", 6), ("t10k", 4)):
        header = struct.pack(">iiii", 0x803, num, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + noise(num, 28, 28, seed=num).tobytes())
        labels = (np.arange(num, dtype=np.uint8) * 3 % 10).tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, num) + labels)


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    write_fashion(tmp_path)
    return tmp_path


def download_and_open(root: str, broken: bool) -> dict[str, Any]:
    """Opens a set that is not there, in one of many processes; how often this one downloaded, and what it saw."""
    downloads = []

    def download(self: datasets.MNIST) -> None:
        downloads.append(self.root)
        if broken:
            raise RuntimeError("no such host")
        time.sleep(0.3)  # Long enough for the others to look, if they do not wait.
        write_fashion(Path(root))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets.MNIST, "download", download)
        try:
            seen = str(len(open_images("torchvision:FashionMNIST:train", root=Path(root), download=True)))
        except DataError as error:
            seen = str(error)
    return {"downloads": len(downloads), "seen": seen}


def test_one_process_downloads_and_the_others_wait(tmp_path: Path) -> None:
    found = processes.run(download_and_open, str(tmp_path / "data"), False, folder=tmp_path)
    assert found == [{"downloads": 1, "seen": "6"}, {"downloads": 0, "seen": "6"}]


def test_no_process_waits_for_a_download_that_failed(tmp_path: Path) -> None:
    first, second = processes.run(download_and_open, str(tmp_path / "data"), True, folder=tmp_path)
    assert (first["downloads"], second["downloads"]) == (1, 0)
    assert "no such host" in first["seen"] and "cannot be opened" in second["seen"]


@pytest.mark.parametrize(("split", "num"), [("train", 6), ("test", 4)])
def test_torchvision(fashion: Path, split: str, num: int) -> None:
    images = open_images(f"torchvision:FashionMNIST:{split}", root=fashion, labelled=True)
    assert len(images) == num and images.labels is not None and images.class_names is not None
    assert images.labels.tolist() == [i * 3 % 10 for i in range(num)] and images.class_names[0] == "T-shirt/top"
    np.testing.assert_array_equal(images.read(1), np.dstack([noise(num, 28, 28, seed=num)[1]] * 3))
    assert images.id(1) == "#1"
    again = open_images(f"torchvision:FashionMNIST:{split}", root=fashion)
    assert again.fingerprint() == images.fingerprint()


def test_a_torchvision_fingerprint_is_of_its_content(fashion: Path) -> None:
    before = open_images("torchvision:FashionMNIST:train", root=fashion).fingerprint()
    path = fashion / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert open_images("torchvision:FashionMNIST:train", root=fashion).fingerprint() != before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:FashionMNIST", "'torchvision:FashionMNIST' must read torchvision:NAME:SPLIT, as in"),
        ("torchvision:a:b:c", "must read torchvision:NAME:SPLIT"),
        ("torchvision:fashionmnist:train", "torchvision has no data set 'fashionmnist'"),
        ("torchvision:FashionMNIST:val", "the split must be train or test, got 'val'"),
        ("torchvision:Caltech101:train", "this data set has no splits that torchvision can select"),
        ("torchvision:MNIST:train", r"cannot be opened in .*; `data\.root` names its folder, `data\.download: true` f"),
        ("torchvision:STL10:nonsense", "cannot be opened in .*nonsense"),
    ],
)
def test_what_torchvision_does_not_have(fashion: Path, source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_images(source, root=fashion)


# Parts of a set.


def test_a_subset_is_the_images_named_without_labels() -> None:
    images = ArrayImages("a", noise(5, 2, 2, 3), [0, 1, 2, 3, 4], list("abcde"))
    subset = Subset(images, np.array([3, 1]))
    assert len(subset) == 2 and subset.id(0) == "#3" and subset.name == "a"
    assert subset.labels is None and subset.class_names is None
    np.testing.assert_array_equal(subset.read(1), images.read(1))
    prints = {Subset(images, np.array(indices)).fingerprint() for indices in ([3, 1], [1, 3], [3], [0, 1, 2, 3, 4])}
    assert len(prints | {images.fingerprint()}) == 5


@given(num_images=st.integers(0, 500), num_holdout=st.integers(0, 600))
def test_training_and_holdout_share_nothing_and_lose_nothing(num_images: int, num_holdout: int) -> None:
    training, holdout = split_holdout(num_images, num_holdout)
    assert sorted([*training, *holdout]) == list(range(num_images))
    assert len(holdout) == min(num_holdout, num_images // 10)
    assert training.tolist() == sorted(training) and holdout.tolist() == sorted(holdout)
    again, _ = split_holdout(num_images, num_holdout)
    np.testing.assert_array_equal(training, again)


def test_the_holdout_is_spread_over_the_set() -> None:
    _, holdout = split_holdout(10_000, 1000)
    counts, _ = np.histogram(holdout, bins=10, range=(0, 10_000))
    assert counts.min() > 60 and counts.max() < 140
