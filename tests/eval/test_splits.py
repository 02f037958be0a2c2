"""Labels that serve, and what is held out of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ukd.errors import DataError
from ukd.eval.splits import check_classes, single_image_warning, stratified_holdout


@given(st.lists(st.integers(0, 6), min_size=2, max_size=200), st.floats(0.01, 0.9), st.integers(0, 3))
def test_every_class_gives_its_share_and_keeps_an_image(labels: list[int], share: float, seed: int) -> None:
    numbers = np.array(labels)
    sizes = np.bincount(numbers)
    if sizes.max() == 1:
        with pytest.raises(DataError, match="probe: every class has one training image"):
            stratified_holdout("probe", numbers, share, seed)
        return
    heldout = stratified_holdout("probe", numbers, share, seed)
    for each in np.unique(numbers):
        expected = min(max(1, round(share * sizes[each])), sizes[each] - 1)
        assert heldout[numbers == each].sum() == expected
    assert np.array_equal(heldout, stratified_holdout("probe", numbers, share, seed))


def test_another_seed_holds_other_images_out() -> None:
    labels = np.zeros(100, dtype=np.int64)
    assert (stratified_holdout("probe", labels, 0.1, 0) != stratified_holdout("probe", labels, 0.1, 1)).any()


def test_labels_that_cannot_be_learned_are_refused_by_name() -> None:
    check_classes("probe", np.array([0, 1, 2]), np.array([2, 0]), None)
    with pytest.raises(DataError, match=r"probe: 2 classes of the test images have no training image \(cat, 7\)"):
        check_classes("probe", np.array([0, 2]), np.array([1, 2, 7]), ["dog", "cat", "cow"])
    with pytest.raises(DataError, match="probe: all training images are of one class"):
        check_classes("probe", np.array([3, 3]), np.array([3]), None)


def test_classes_of_one_image_are_counted() -> None:
    assert single_image_warning(np.array([0, 0, 1, 2])) == [
        "2 classes have a single training image, which is never held out"
    ]
    assert single_image_warning(np.array([0, 0])) == []
