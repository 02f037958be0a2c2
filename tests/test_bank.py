"""Embeddings: one row an image, in order, whoever computes them, in memory or on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests import processes
from ukd.backbones import Backbone, build_backbone
from ukd.bank import Embeddings, embed, in_memory, on_disk
from ukd.blocks import round_blocks
from ukd.data import ArrayImages, Images, Pixels, Subset, open_images
from ukd.errors import DataError, UserError
from ukd.extractor import Extractor
from ukd.stamps import edited, stamps_of
from ukd.store import MANIFEST, Draft, StoreError, open_store
from ukd.views import evaluation_view

NUM, SIZE_PX = 23, 16
MANY = 600
"""Images of three blocks."""


class Photos(ArrayImages):
    """Noise; the images named cannot be read."""

    def __init__(self, damaged: set[int] = frozenset(), num: int = NUM) -> None:  # type: ignore[assignment]
        rng = np.random.default_rng(0)
        super().__init__("photos", rng.integers(0, 256, (num, SIZE_PX, SIZE_PX, 3), dtype=np.uint8))
        self._damaged = damaged
        self.num_read = 0

    def read(self, index: int) -> Pixels:
        self.num_read += 1
        if index in self._damaged:
            raise OSError("damaged")
        return super().read(index)


def backbone(**changes: Any) -> Backbone:
    kwargs = {"channels": [8, 8, 16, 32], "stem_width": 8}
    return build_backbone(**{"arch": "resnet10t", "kwargs": kwargs, "seed": 1, **changes})


def extractor(images: Images, model: Backbone | None = None, **changes: Any) -> Extractor:
    options: dict[str, Any] = {"size_px": 16, "crop_pct": 1.0, "batch_size": 5, "num_workers": 0, **changes}
    return Extractor(model or backbone(), images, device=torch.device("cpu"), **options)


def embedded(images: Photos, model: Backbone | None = None, **changes: Any) -> Embeddings:
    return in_memory(extractor(images, model, **changes))


def files(folder: Path) -> dict[str, str]:
    """What a store consists of: names and hashes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_rows_are_the_images_in_order_in_evaluation_mode() -> None:
    model = backbone()
    rows = embedded(Photos(), model)
    assert rows.shape == (NUM, 32) and rows.dtype == np.float32
    assert model.training and model.weights_hash() == backbone().weights_hash()
    model.eval()
    for index in (0, 4, 5, 22):
        pixels = torch.from_numpy(evaluation_view(Photos().read(index), 16, 1.0).copy())
        alone: Tensor = model((pixels.permute(2, 0, 1) / 255).unsqueeze(0)).pooled
        np.testing.assert_allclose(rows[index], alone[0].detach().numpy(), rtol=1e-4, atol=1e-6)
    embedded(Photos(), model)
    assert not model.training


def test_embed_is_the_pooled_feature_in_memory() -> None:
    options: dict[str, Any] = {"size_px": 16, "crop_pct": 1.0, "device": torch.device("cpu"), "num_workers": 0}
    np.testing.assert_array_equal(embed(backbone(), Photos(), batch_size=5, **options), embedded(Photos()))


def test_fp64_backbones_give_fp32_rows() -> None:
    rows = embedded(Photos(), backbone().double())
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, embedded(Photos()), rtol=1e-3, atol=1e-5)


def test_progress_adds_up() -> None:
    counts: list[int] = []
    embedded(Photos(), advance=counts.append)
    assert counts == [5, 5, 5, 5, 3]


def test_an_unreadable_image_is_an_error_unless_it_may_be_skipped() -> None:
    with pytest.raises(DataError, match=r"cannot read #150 in photos; repair or remove it"):
        embedded(Photos({150}, 200), batch_size=100)
    lines: list[str] = []
    rows = embedded(Photos({150}, 200), batch_size=100, on_unreadable=lines.append)
    assert lines == ["unreadable image skipped: #150 (1 so far)"]
    np.testing.assert_allclose(rows[150], rows[151], rtol=1e-5)
    with pytest.raises(DataError, match=r"1 of 23 images in photos cannot be read \(at most 1% may\): #3"):
        embedded(Photos({3}), on_unreadable=lines.append)


def test_a_kind_that_the_backbone_lacks_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    images = Photos()
    for extract in (in_memory, lambda each: on_disk(each, tmp_path / "store")):
        with pytest.raises(UserError, match="resnet10t has no cls; it has pooled, avg"):
            extract(extractor(images, kind="cls"))
    assert images.num_read == 0 and not any(tmp_path.iterdir())


def test_a_store_gives_the_rows_of_memory_rounded(tmp_path: Path) -> None:
    images = Photos(num=MANY)
    store = on_disk(extractor(images), tmp_path)
    np.testing.assert_array_equal(store[:], round_blocks(embedded(images)))
    assert store.dtype == np.float16 and not np.array_equal(store[:], embedded(images))
    np.testing.assert_array_equal(open_store(tmp_path, extractor(images).key())[:], store[:])


def test_what_is_there_is_not_read_again(tmp_path: Path) -> None:
    images = Photos(num=MANY)
    on_disk(extractor(images), tmp_path)
    before, num_read, counts = files(tmp_path), images.num_read, list[int]()
    on_disk(extractor(images, advance=counts.append), tmp_path)
    assert (files(tmp_path), images.num_read, counts) == (before, num_read, [MANY])


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "empty"])
def test_a_damaged_block_alone_is_made_anew(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, counts = Photos(num=MANY), list[int]()
    on_disk(extractor(images), tmp_path)
    before, num_read = files(tmp_path), images.num_read
    path = tmp_path / "rows-0000000256.safetensors"
    whole = path.read_bytes()
    damaged = {"truncated": whole[:-100], "flipped": whole[:-3] + b"\xff\xff\xff", "empty": b""}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        on_disk(extractor(images, advance=counts.append), tmp_path)
    assert (files(tmp_path), images.num_read) == (before, num_read + 256)
    assert counts[0] == MANY - 256 and sum(counts) == MANY
    assert caplog.text.count("is damaged and extracted anew") == (damage != "missing")


def test_whatever_the_rows_depend_on_is_refused_if_it_changed(tmp_path: Path) -> None:
    images = Photos()
    on_disk(extractor(images), tmp_path)
    before = files(tmp_path)
    for other, reason in (
        (extractor(images, backbone(seed=2)), "of other weights;"),
        (extractor(images, backbone(mean=(0.0, 0.0, 0.0))), r"of fed.mean \[.+\] where \[0.0, 0.0, 0.0\] is asked"),
        (extractor(images, size_px=12), "of view.size_px 16 where 12 is asked for;"),
        (extractor(images, crop_pct=0.5), "of view.crop_pct 1.0 where 0.5 is asked for;"),
        (extractor(images, kind="avg"), "of kind pooled where avg is asked for;"),
        (extractor(Photos(num=22)), "of the same images before they changed on disk"),
    ):
        with pytest.raises(StoreError, match=reason):
            on_disk(other, tmp_path)
    assert files(tmp_path) == before
    on_disk(extractor(images, batch_size=7, num_workers=1), tmp_path)


def test_images_that_changed_on_disk_are_refused(tmp_path: Path) -> None:
    folder, store = tmp_path / "photos", tmp_path / "store"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(Photos().read(index)).save(folder / f"{index}.png")
    on_disk(extractor(open_images(str(folder))), store)
    on_disk(extractor(open_images(str(folder))), store)
    Image.fromarray(Photos().read(3)[:8]).save(folder / "1.png")
    with pytest.raises(StoreError, match="the same images before they changed on disk"):
        on_disk(extractor(open_images(str(folder))), store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images of equal size, last changed long ago."""
    place = tmp_path / "photos"
    place.mkdir()
    for index in range(9):
        Image.fromarray(Photos().read(index)).save(place / f"{index}.bmp")
        os.utime(place / f"{index}.bmp", (1e9, 1e9))
    return place


def edit(path: Path) -> None:
    """Changes a pixel in place: neither name nor size nor number of files change."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(byte ^ 1 for byte in whole[-4:]))


def test_an_edit_that_keeps_the_size_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    on_disk(extractor(open_images(str(folder))), tmp_path / "store")
    fingerprint = open_images(str(folder)).fingerprint()
    edit(folder / "4.bmp")
    assert open_images(str(folder)).fingerprint() == fingerprint
    with pytest.raises(StoreError, match=r"the same images before some changed on disk: 4\.bmp \(of the same size,"):
        on_disk(extractor(open_images(str(folder))), tmp_path / "store")
    edit(folder / "4.bmp")  # Back again: another time, the same bytes.
    on_disk(extractor(open_images(str(folder))), tmp_path / "store")


def test_copies_and_touched_files_are_accepted(folder: Path, tmp_path: Path) -> None:
    store = on_disk(extractor(open_images(str(folder))), tmp_path / "store")
    (folder / "3.bmp").touch()
    shutil.copytree(folder, tmp_path / "copies", copy_function=shutil.copyfile)
    for place in (folder, tmp_path / "copies"):
        images = open_images(str(place))
        np.testing.assert_array_equal(on_disk(extractor(images), tmp_path / "store")[:], store[:])


def test_of_a_part_of_a_folder_its_own_images_count(folder: Path, tmp_path: Path) -> None:
    def part() -> Images:
        return Subset(open_images(str(folder)), np.array([1, 5, 7]))

    on_disk(extractor(part()), tmp_path / "store")
    edit(folder / "4.bmp")
    on_disk(extractor(part()), tmp_path / "store")
    edit(folder / "5.bmp")
    with pytest.raises(StoreError, match=r"changed on disk: 5\.bmp"):
        on_disk(extractor(part()), tmp_path / "store")


def test_files_of_the_same_time_are_not_read_and_of_many_others_some(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(str(folder))
    held = [(range(4), stamps_of(images, range(4))), (range(4, 9), stamps_of(images, range(4, 9)))]
    read: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))  # type: ignore[func-returns-value]
    assert edited(images, held) == [] and read == []
    (folder / "7.bmp").touch()
    assert edited(images, held) == [] and read == ["7.bmp"]
    for path in folder.iterdir():
        edit(path)
    assert edited(images, held) == [*range(9)]
    monkeypatch.setattr("ukd.stamps.MAX_READ", 4)
    assert edited(images, held) == [0, 3, 6]


def test_blocks_that_do_not_say_which_files_they_are_of_are_made_anew(folder: Path, tmp_path: Path) -> None:
    images = extractor(open_images(str(folder)))
    store = on_disk(images, tmp_path)
    rows = store[:]
    Draft(tmp_path, images.key(), 9, str(folder)).write(range(9), rows + 1, [])
    np.testing.assert_array_equal(on_disk(images, tmp_path)[:], rows)


def test_stand_ins_are_named_cold_and_warm_and_refused_where_they_may_not_be(tmp_path: Path) -> None:
    images, lines = Photos({255, 256}, MANY), list[str]()
    skipping = extractor(images, on_unreadable=lines.append)
    store = on_disk(skipping, tmp_path)
    assert store.unreadable == [255, 256] and np.array_equal(store[np.array([255])], store[np.array([257])])
    assert sorted(line.split()[3] for line in lines) == ["#255", "#256"]
    on_disk(skipping, tmp_path)
    assert sorted(line.split()[3] for line in lines) == ["#255", "#255", "#256", "#256"]
    with pytest.raises(DataError, match="cannot read #255 in photos"):
        on_disk(extractor(images), tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match=r"features: cannot use .+file/store: Not a directory"):
        on_disk(extractor(Photos()), tmp_path / "file" / "store")


def rows_in_memory(num: int) -> Tensor:
    return torch.from_numpy(embedded(Photos(num=num)))


def rows_on_disk(num: int, folder: Path) -> Tensor:
    counts: list[int] = []
    store = on_disk(extractor(Photos(num=num), advance=counts.append), folder)
    assert sum(counts) in (num, 0)  # All of them, or nothing where a process had no block.
    return torch.from_numpy(store[:])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes of a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("num", [MANY, 2])
def test_any_number_of_processes_gives_the_same_rows(num: int, tmp_path: Path) -> None:
    """Of more blocks than processes, and of fewer images than processes."""
    alone = rows_in_memory(num)
    for rows in processes.run(rows_in_memory, num, folder=tmp_path, num=3):
        assert torch.equal(rows, alone)
    on_disk(extractor(Photos(num=num)), tmp_path / "one")
    for rows in processes.run(rows_on_disk, num, tmp_path / "many", folder=tmp_path, num=3):
        assert np.array_equal(rows, round_blocks(alone.numpy().copy()))
    assert files(tmp_path / "many") == files(tmp_path / "one")


@pytest.mark.usefixtures("one_thread")
def test_another_number_of_processes_continues(tmp_path: Path) -> None:
    on_disk(extractor(Photos(num=MANY)), tmp_path / "store")
    before = files(tmp_path / "store")
    (tmp_path / "store" / "rows-0000000256.safetensors").unlink()
    (tmp_path / "store" / MANIFEST).unlink()
    processes.run(rows_on_disk, MANY, tmp_path / "store", folder=tmp_path)
    assert files(tmp_path / "store") == before


def complaint_on_each(folder: Path) -> list[str]:
    """What each process says where the second cannot write."""
    from ukd import blocks, distributed

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if distributed.rank() == 1:
        blocks.write_atomically = fail  # type: ignore[assignment]
    with pytest.raises(StoreError) as refused:
        on_disk(extractor(Photos(num=MANY)), folder)
    return [str(refused.value)]


def test_where_one_process_fails_none_waits_for_it(tmp_path: Path) -> None:
    (first,), (second,) = processes.run(complaint_on_each, tmp_path / "store", folder=tmp_path)
    assert "cannot be used by another process" in first and second.endswith("store: No space left on device")
