"""Fidelity as a whole: equal spaces, unrelated ones, few images, collapse; and the choice of images."""

from __future__ import annotations

import numpy as np
import pytest

from ukd.data import ArrayImages
from ukd.errors import DataError
from ukd.eval.fidelity import PRESETS, Fidelity, Preset, chosen_images, compare, space_of

SMALL = Preset("small", (5, 20), 10, 10_000, 200, 1e-7)


def gaussian(num: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, dim)).astype(np.float32)


def fidelity(student: np.ndarray, teacher: np.ndarray, preset: Preset = SMALL) -> Fidelity:
    return compare(space_of(student, preset), space_of(teacher, preset), preset)


@pytest.mark.parametrize("change", ["itself", "rotated", "scaled"])
def test_a_space_equal_up_to_rotation_and_scale_is_wholly_faithful(change: str) -> None:
    teacher = gaussian(300, 16)
    rotation = np.linalg.qr(gaussian(16, 16, seed=1).astype(np.float64))[0]
    student = {"itself": teacher, "rotated": teacher.astype(np.float64) @ rotation, "scaled": 0.01 * teacher}[change]
    found = fidelity(student, teacher)
    assert found.mutual_knn == {5: 1, 20: 1} == found.mutual_knn_l2
    assert found.procrustes_error == pytest.approx(0, abs=1e-6)
    assert (found.dimension_cosine == pytest.approx(1)) == (change != "rotated")
    assert (found.cka, found.length_correlation) == (pytest.approx(1, abs=1e-6), pytest.approx(1, abs=1e-6))
    assert (found.trustworthiness, found.continuity) == (1, 1)
    assert found.rank == pytest.approx(found.teacher_rank)
    assert found.warnings == () and (found.num_images, found.num_ranked) == (300, 200)


def test_unrelated_spaces_are_at_chance() -> None:
    found = fidelity(gaussian(2000, 32), gaussian(2000, 48, seed=1))
    assert found.chance == {5: 5 / 1999, 20: 20 / 1999}
    for k, share in found.mutual_knn.items():
        assert share == pytest.approx(found.chance[k], rel=0.35)
        assert found.mutual_knn_l2[k] == pytest.approx(found.chance[k], rel=0.35)
    assert found.procrustes_error > 0.95 and found.dimension_cosine is None  # type: ignore[operator]
    (warning,) = found.warnings
    assert warning.startswith("cosine of dimensions left out: features are 32 wide and the teacher's 48; where a run")
    assert found.cka == pytest.approx(0, abs=0.01)
    assert found.trustworthiness == pytest.approx(0.5, abs=0.05)
    assert found.rank < 32 < found.teacher_rank < 48


def test_lengths_count_for_neighbours_by_distance_alone() -> None:
    teacher = gaussian(300, 8)
    found = fidelity(teacher * np.random.default_rng(1).uniform(0.1, 10, (300, 1)), teacher)
    assert found.mutual_knn[5] == 1 > 0.5 > found.mutual_knn_l2[5]


def test_trustworthiness_and_continuity_are_told_apart() -> None:
    teacher = gaussian(200, 8)
    student = teacher[:, :3]  # What only the other columns tell apart lies together in the student.
    found = fidelity(student, teacher)
    swapped = fidelity(teacher, student)
    assert found.trustworthiness == swapped.continuity != found.continuity == swapped.trustworthiness
    assert found.trustworthiness < found.continuity  # type: ignore[operator]


def test_what_few_images_cannot_tell_is_left_out_and_said() -> None:
    found = fidelity(gaussian(15, 4), gaussian(15, 4, seed=1))
    assert list(found.mutual_knn) == [5] and found.trustworthiness is None is found.continuity
    assert found.warnings == (
        "mutual kNN at k=20 left out: each of the 15 images has 14 others",
        "trustworthiness and continuity left out: k=10 needs more than 20 images",
    )


def test_a_collapsed_student_has_a_result() -> None:
    found = fidelity(np.ones((50, 4), dtype=np.float32), gaussian(50, 4))
    assert found.cka is None is found.length_correlation is found.procrustes_error
    assert found.rank == pytest.approx(1, abs=1e-4)
    assert [line.split(" left out")[0] for line in found.warnings] == ["CKA and Procrustes error", "norm correlation"]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="3 images; at least 4"):
        space_of(gaussian(3, 4), SMALL)
    with pytest.raises(DataError, match="50 images of the student but 40 of the teacher"):
        fidelity(gaussian(50, 4), gaussian(40, 4))
    broken = gaussian(50, 4)
    broken[7, 1] = np.inf
    with pytest.raises(DataError, match=r"NaN or infinity in 1 of 50 rows \(row 7\)"):
        space_of(broken, SMALL)


def test_the_choice_of_images_is_fixed_and_knows_no_order() -> None:
    images = ArrayImages("many", np.zeros((1000, 2, 2), dtype=np.uint8))
    assert chosen_images(images, 1000) is None
    chosen, again = chosen_images(images, 100), chosen_images(images, 100)
    assert chosen is not None and again is not None
    np.testing.assert_array_equal(chosen, again)
    assert len(np.unique(chosen)) == 100 and (np.diff(chosen) > 0).all()
    assert np.histogram(chosen, bins=4, range=(0, 1000))[0].min() > 10
    grown = chosen_images(ArrayImages("more", np.zeros((1010, 2, 2), dtype=np.uint8)), 100)
    assert len(np.intersect1d(chosen, grown)) >= 95  # type: ignore[arg-type]


def test_the_preset_is_frozen() -> None:
    # This hash stands in result files: whoever changes it changes a protocol, and should name it anew.
    assert PRESETS["ukd"].hash == "42aad1ee3ecf0419"
