"""Every set of the suite opens from its own layout on disk, with its own splits; suites are checked strictly."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision

from tests.eval import transfer_world as world
from ukd.errors import DataError, NotOnDiskError
from ukd.eval.transfer import Use
from ukd.eval.transfer_sets import VOC_CLASSES, TransferSet, open_set
from ukd.eval.transfer_suite import SetSpec, load_suite
from ukd.recipe import RecipeError

SUITE = load_suite("kornblith")


def opened(name: str, root: Path, download: bool = False) -> TransferSet:
    return open_set(name, SUITE.sets[name], root=root, download=download, val_share=SUITE.val_share, seed=0)


def counts(found: TransferSet) -> tuple[int, ...]:
    return tuple(int((found.use == use).sum()) for use in Use)


def test_the_suite_is_the_papers() -> None:
    assert {name: spec.metric for name, spec in SUITE.sets.items() if spec.metric != "top1"} == {
        "aircraft": "mean_per_class",
        "voc2007": "map_11point",
        "pets": "mean_per_class",
        "caltech101": "mean_per_class",
        "flowers102": "mean_per_class",
    }
    assert [name for name, spec in SUITE.sets.items() if spec.val] == ["aircraft", "voc2007", "dtd", "flowers102"]
    assert len(SUITE.sets) == 12


def test_every_set_opens_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.everything(tmp_path, monkeypatch)
    sets = {name: opened(name, tmp_path) for name in SUITE.sets}
    assert {name: counts(found) for name, found in sets.items()} == {
        "food101": (24, 6, 12),
        "cifar10": (80, 20, 20),
        "cifar100": (400, 100, 100),
        "birdsnap": (15, 3, 6),
        "sun397": (6, 2, 4),
        "cars": (24, 6, 12),
        "aircraft": (24, 12, 12),
        "voc2007": (24, 24, 24),
        "dtd": (12, 12, 12),
        "pets": (24, 6, 12),
        "caltech101": (96, 24, 12),
        "flowers102": (102, 102, 102),
    }
    for name, found in sets.items():
        assert sum(map(len, found.images)) == len(found.labels) == len(found.use)
        if name.startswith("cifar") or found.labels.ndim == 2:
            continue
        read = [images.read(index).mean() for images in found.images for index in range(len(images))]
        # The brightness of an image tells its class, as `save_image` made it.
        np.testing.assert_array_equal(np.round((np.array(read) - 20) / 60), found.labels % 4, err_msg=name)
    assert sets["sun397"].class_names == ["a/abbey", "b/bar/indoor"]
    assert sets["caltech101"].class_names == ["BACKGROUND_Google", *world.CLASSES]
    train_and_val = sets["caltech101"].labels[sets["caltech101"].use != Use.TEST]
    assert np.bincount(train_and_val).tolist() == [30] * 4
    again = opened("caltech101", tmp_path)
    np.testing.assert_array_equal(again.use, sets["caltech101"].use)
    assert again.facts() == sets["caltech101"].facts() and again.facts()["num_test"] == 12


def test_voc_marks_are_those_of_its_lists(tmp_path: Path) -> None:
    world.voc2007(tmp_path)
    found = opened("voc2007", tmp_path)
    assert found.labels.shape == (72, 20) and found.class_names == list(VOC_CLASSES)
    assert found.labels[21].tolist() == [-1, 1] + [-1] * 18
    assert found.labels[5].tolist() == [-1] * 4 + [0, 1] + [-1] * 14
    assert found.images[2].id(3) == "000203.jpg"
    lists = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    lines = (lists / "cat_val.txt").read_text().splitlines()
    (lists / "cat_val.txt").write_text("\n".join([*lines[:-1], f"{lines[-1]}0"]))
    with pytest.raises(DataError, match=r"cat_val\.txt does not mark the images of val\.txt with -1, 0, 1"):
        opened("voc2007", tmp_path)


MISSING: list[tuple[str, Callable[[Path], None], str, str]] = [
    ("food101", world.food101, "food-101/meta", r"torchvision:Food101:train in /"),
    ("aircraft", world.aircraft, "fgvc-aircraft-2013b/data/images_variant_val.txt", r"FGVCAircraft:val in /"),
    ("sun397", world.sun397, "SUN397/Testing_01.txt", r"/SUN397/Testing_01\.txt$"),
    ("sun397", world.sun397, "SUN397/a/abbey/sun_2.jpg", r"lacks 1 of the 8 images of .*Training_01\.txt \(a/abbey/s"),
    ("voc2007", world.voc2007, "VOCdevkit/VOC2007/ImageSets/Main/test.txt", r"/Main/test\.txt$"),
    ("cars", world.cars, "stanford_cars/cars_test", "torchvision:StanfordCars:test in /"),
]


@pytest.mark.parametrize(("name", "write", "gone", "message"), MISSING)
def test_a_set_that_is_not_whole_is_not_on_disk(
    tmp_path: Path, name: str, write: Callable[[Path], None], gone: str, message: str
) -> None:
    with pytest.raises(NotOnDiskError):
        opened(name, tmp_path)
    write(tmp_path)
    opened(name, tmp_path)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(NotOnDiskError, match=message):
        opened(name, tmp_path)


def test_torchvision_fetches_only_what_is_missing_and_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(url: str, *_: object, **__: object) -> None:
        fetched.append(url)
        world.dtd(tmp_path)

    monkeypatch.setattr(torchvision.datasets.dtd, "download_and_extract_archive", fetch)
    with pytest.raises(NotOnDiskError):
        opened("dtd", tmp_path)
    assert not fetched
    assert counts(opened("dtd", tmp_path, download=True)) == (12, 12, 12)
    opened("dtd", tmp_path, download=True)
    assert len(fetched) == 1
    with pytest.raises(NotOnDiskError, match="original URL is broken"):
        opened("cars", tmp_path, download=True)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.voc, "download_and_extract_archive", fail)
    with pytest.raises(NotOnDiskError, match=r"voc2007:train cannot be fetched to .*: no route to host"):
        opened("voc2007", tmp_path, download=True)


def test_folders_that_do_not_match_are_refused(tmp_path: Path) -> None:
    world.folders(tmp_path / "birdsnap" / "train", 4)
    world.folders(tmp_path / "birdsnap" / "test", 2, ("ant", "bee", "dog"))
    with pytest.raises(DataError, match=r"test has 1 classes that .*train lacks \(dog\)"):
        opened("birdsnap", tmp_path)
    shutil.rmtree(tmp_path / "birdsnap" / "test" / "dog")
    (tmp_path / "birdsnap" / "test" / "cat").mkdir()
    with pytest.raises(DataError, match=r"1 class folders of .*test hold no images \(cat\); fill or remove them"):
        opened("birdsnap", tmp_path)
    world.folders(tmp_path / "birdsnap" / "test", 2)
    assert counts(opened("birdsnap", tmp_path)) == (9, 3, 6)


def test_arrays_are_a_source_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((8, 4, 4, 3), np.uint8), labels=[0, 0, 0, 0, 1, 1, 1, 1])
    spec = SetSpec(metric="top1", train="a.npz", train_per_class=3)
    assert counts(open_set("x", spec, root=tmp_path, download=False, val_share=0.4, seed=0)) == (4, 2, 2)


GOOD = "name: x\nsets:\n  a:\n    metric: top1\n    train: a\n    test: b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "    tset: c\n", r"sets\.a\.tset: unknown key; did you mean test\?"),
        (
            GOOD.replace("    metric: top1\n", ""),
            r"sets\.a\.metric: missing; must be one of top1, mean_per_class, map_1",
        ),
        (GOOD.replace("top1", "top5"), r"sets\.a\.metric: must be one of top1, .*, map_11point, got 'top5'"),
        (GOOD.replace("    test: b\n", ""), r"sets\.a: must give either test, or train_per_class"),
        (GOOD + "    train_per_class: 3\n", r"sets\.a: must give either test, or train_per_class"),
        (GOOD.replace("top1", "map_11point"), r"sets\.a: map_11point wants voc2007:train, voc2007:val and"),
        (GOOD.replace("test: b", "test: voc2007:test"), r"sets\.a: voc2007 has several classes an image, which top1"),
        (GOOD.replace("test: b", "test: {folder: b}"), r"sets\.a\.test\S*: missing"),
        (GOOD.replace("name: x\n", ""), r"name: missing"),
        (GOOD + "val_share: 1.5\n", r"val_share: must be a number .*got 1\.5"),
        (GOOD + "seed: 1\n", r"seed: unknown key"),
        (GOOD + "    test: c\n", r"sets\.a\.test: given twice"),
        (GOOD + "  b: 3\n", r"sets\.b: must be"),
        ("name: x\nsets: {}\n", r"sets: must be"),
        ("- a\n", "a suite is a mapping: name, and sets by name"),
        ("a: [", "x.yaml: 1 problem"),
    ],
)
def test_suites_are_checked_strictly(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    assert load_suite(str(tmp_path / "good.yaml")).sets["a"].test == "b"
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_suite(str(tmp_path / "x.yaml"))


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file or directory; give a YAML file, or one of kornblith"):
        load_suite(str(tmp_path / "none"))
