"""All of Kornblith's transfer sets as they lie on disk, of a few tiny images each."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from PIL import Image

from ukd.eval.transfer_sets import VOC_CLASSES

CLASSES = ("ant", "bee", "cat")


def save_image(path: Path, label: int, seed: int) -> None:
    """A noisy image whose brightness tells the class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 60, (8, 8, 3))
    Image.fromarray((60 * (label % 4) + noise % 40).astype(np.uint8)).save(path)


def save_text(path: Path, lines: list[str]) -> None:
    """A text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def folders(folder: Path, num: int, classes: tuple[str, ...] = CLASSES) -> None:
    """`num` images of each class, below folders of their names."""
    for label, name in enumerate(classes):
        for index in range(num):
            save_image(folder / name / f"image_{index + 1:04d}.jpg", label, index)


def food101(root: Path) -> None:
    """10 training and 4 test images of each class."""
    folders(root / "food-101" / "images", 14)
    for split, numbers in (("train", range(1, 11)), ("test", range(11, 15))):
        named = {name: [f"{name}/image_{index:04d}" for index in numbers] for name in CLASSES}
        save_text(root / "food-101" / "meta" / f"{split}.json", [json.dumps(named)])


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 training and 2 test images of each class of CIFAR-10, and 5 and 1 of CIFAR-100, whatever their hashes."""
    for name, num_classes, files in (
        ("cifar-10-batches-py", 10, [(f"data_batch_{i}", 2) for i in range(1, 6)] + [("test_batch", 2)]),
        ("cifar-100-python", 100, [("train", 5), ("test", 1)]),
    ):
        (root / name).mkdir(parents=True)
        names = [f"class {number}" for number in range(num_classes)]
        meta = ("batches.meta", "label_names") if num_classes == 10 else ("meta", "fine_label_names")
        (root / name / meta[0]).write_bytes(pickle.dumps({meta[1]: names}))
        for file, num in files:
            labels = list(range(num_classes)) * num
            data = np.full((len(labels), 3072), 7, dtype=np.uint8)
            key = "labels" if num_classes == 10 else "fine_labels"
            (root / name / file).write_bytes(pickle.dumps({"data": data, key: labels}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, _=None: Path(path).exists())


def sun397(root: Path) -> None:
    """6 images of each of two nested classes, 4 of them in the list for training, and one that no list names."""
    lines: dict[str, list[str]] = {"Training": [], "Testing": []}
    for label, name in enumerate(("a/abbey", "b/bar/indoor")):
        for index in range(7):
            save_image(root / "SUN397" / name / f"sun_{index}.jpg", label, index)
            if index < 6:
                lines["Training" if index < 4 else "Testing"].append(f"/{name}/sun_{index}.jpg")
    for split, listed in lines.items():
        save_text(root / "SUN397" / f"{split}_01.txt", listed)


def cars(root: Path) -> None:
    """10 training and 4 test images of each class, their labels in MATLAB's files."""
    folder = root / "stanford_cars"
    for split, num, file in (
        ("train", 10, folder / "devkit" / "cars_train_annos.mat"),
        ("test", 4, folder / "cars_test_annos_withlabels.mat"),
    ):
        rows = [(f"{index:05d}.jpg", index % 3 + 1) for index in range(3 * num)]
        for index, (name, label) in enumerate(rows):
            save_image(folder / f"cars_{split}" / name, label - 1, index)
        file.parent.mkdir(parents=True, exist_ok=True)
        annotations = np.array(rows, dtype=[("fname", object), ("class", np.uint8)])
        scipy.io.savemat(file, {"annotations": annotations})
    names = np.array(CLASSES, dtype=object)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})


def aircraft(root: Path) -> None:
    """8, 4 and 4 images of each class in the three splits; names of classes hold spaces."""
    data = root / "fgvc-aircraft-2013b" / "data"
    save_text(data / "variants.txt", [f"Model {name}" for name in CLASSES])
    number = 0
    for split, num in (("train", 8), ("val", 4), ("test", 4)):
        lines = []
        for index in range(3 * num):
            save_image(data / "images" / f"{number:07d}.jpg", index % 3, number)
            lines.append(f"{number:07d} Model {CLASSES[index % 3]}")
            number += 1
        save_text(data / f"images_variant_{split}.txt", lines)


def voc2007(root: Path) -> None:
    """12 images in each of three splits; image i shows class i mod 20 and the next but nine, one being difficult."""
    main = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    for place, split in enumerate(("train", "val", "test")):
        names = [f"{100 * place + index:06d}" for index in range(24)]
        save_text(main / f"{split}.txt", names)
        for index, name in enumerate(names):
            save_image(root / "VOCdevkit" / "VOC2007" / "JPEGImages" / f"{name}.jpg", index % 4, index)
        for number, each in enumerate(VOC_CLASSES):
            marks = [1 if index % 20 == number else 0 if index == number + 1 else -1 for index in range(24)]
            lines = [f"{name} {mark:2d}" for name, mark in zip(names, marks, strict=True)]
            save_text(main / f"{each}_{split}.txt", lines)


def dtd(root: Path) -> None:
    """4 images of each class in each split."""
    folders(root / "dtd" / "dtd" / "images", 12)
    for place, split in enumerate(("train", "val", "test")):
        lines = [f"{name}/image_{4 * place + index + 1:04d}.jpg" for index in range(4) for name in CLASSES]
        save_text(root / "dtd" / "dtd" / "labels" / f"{split}1.txt", lines)


def pets(root: Path) -> None:
    """10 and 4 images of each class; labels count from 1."""
    folder = root / "oxford-iiit-pet"
    for split, numbers in (("trainval", range(10)), ("test", range(10, 14))):
        lines = []
        for label, name in enumerate(CLASSES):
            for index in numbers:
                save_image(folder / "images" / f"{name}_{index}.jpg", label, index)
                lines.append(f"{name}_{index} {label + 1} 1 1")
        save_text(folder / "annotations" / f"{split}.txt", lines)


def flowers102(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image of each of the 102 classes in each split, whatever the files' hashes."""
    folder = root / "flowers-102"
    for number in range(306):
        save_image(folder / "jpg" / f"image_{number + 1:05d}.jpg", number % 102, number)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.arange(306) % 102 + 1})
    ids = {key: np.arange(102) + 102 * place + 1 for place, key in enumerate(("trnid", "valid", "tstid"))}
    scipy.io.savemat(folder / "setid.mat", ids)
    monkeypatch.setattr(torchvision.datasets.flowers102, "check_integrity", lambda path, _=None: Path(path).exists())


def everything(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All twelve."""
    for write in (food101, sun397, cars, aircraft, voc2007, dtd, pets):
        write(root)
    cifar(root, monkeypatch)
    flowers102(root, monkeypatch)
    folders(root / "birdsnap" / "train", 6)
    folders(root / "birdsnap" / "test", 2)
    folders(root / "caltech101" / "101_ObjectCategories", 33, ("BACKGROUND_Google", *CLASSES))
