"""Copydays: answers by the beginnings of names, and average precision that ends with the list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.eval.retrieval.fakes import COPIES, make_copydays, save, scene
from ukd.errors import DataError
from ukd.eval.retrieval.copydays import Preset, evaluate, open_copydays


def test_copies_are_answered_by_the_original_whose_name_begins_alike(tmp_path: Path) -> None:
    found = open_copydays(make_copydays(tmp_path))
    assert sorted(found.queries) == sorted(COPIES) and len(found.originals) == 6
    assert found.answers["strong"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert found.queries["strong"].id(3) == "strong/200102.jpg"
    assert found.answers["crops/50"].tolist() == list(range(6))


def test_average_precision_of_one_answer_is_that_of_its_place() -> None:
    angles = np.arange(30) / 100
    database = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    queries, answers = np.tile(database[:1], (4, 1)), np.array([0, 1, 19, 20])
    shares = evaluate([queries], {"strong": answers}, database, Preset("dino")).shares
    # At place r the precision jumps from 0 to 1 / (r + 1); the first place starts from 1, the list ends at 20.
    assert shares["map_trapz_at_20_strong"].value == pytest.approx((1 + 1 / 4 + 1 / 40 + 0) / 4)


def test_qualities_and_crops_are_averaged_over_all_of_theirs() -> None:
    database = np.eye(3)
    blocks = {"jpegqual/3": np.array([1]), "jpegqual/75": np.array([0, 1]), "strong": np.array([2])}
    queries = [database[:1], database[:2], database[:1]]
    shares = evaluate(queries, blocks, database, Preset("dino", k=1)).shares
    assert {name: share.value for name, share in shares.items()} == {
        "map_trapz_at_1_jpegqual/3": 0,
        "map_trapz_at_1_jpegqual/75": 1,
        "map_trapz_at_1_strong": 0,
        "map_trapz_at_1_jpegqual": pytest.approx(2 / 3),
    }
    assert shares["map_trapz_at_1_jpegqual"].n == 3


def test_what_cannot_be_told_apart_or_matched_is_refused(tmp_path: Path) -> None:
    folder = make_copydays(tmp_path / "copydays")
    save(folder / "strong" / "999901.jpg", scene(0))
    with pytest.raises(DataError, match=r"1 copies have no original whose name begins alike: strong/999901.jpg"):
        open_copydays(folder)
    save(folder / "original" / "200099.jpg", scene(0))
    with pytest.raises(DataError, match="two originals have the same first 4 letters"):
        open_copydays(folder)
    save(tmp_path / "alone" / "original" / "200000.jpg", scene(0))
    with pytest.raises(DataError, match="alone has no copies"):
        open_copydays(tmp_path / "alone")
