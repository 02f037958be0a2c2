"""Few-shot banks against a loop over draws made by hand, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from ukd.errors import DataError
from ukd.eval.fewshot import FewShots, drawn_rows, evaluate_few_shots, few_shot_preset
from ukd.eval.knn import PRESETS, evaluate

FEW = FewShots(3, (0, 1, 2))


def clouds(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=num) * 5
    centres = np.random.default_rng(9).standard_normal((16, 8))
    return (centres[labels] + 1.5 * rng.standard_normal((num, 8))).astype(np.float32), labels


def test_figures_are_the_mean_and_deviation_of_whole_evaluations_of_each_draw() -> None:
    queries, targets = clouds(90, seed=0)
    bank, labels = clouds(200, seed=1)
    presets = [PRESETS["ukd"], PRESETS["dino"]]
    found = evaluate_few_shots(queries, targets, bank, labels, presets, FEW)
    alone = []
    for seed in FEW.seeds:
        rows = drawn_rows(labels, 3, seed)
        alone.append(evaluate(queries, targets, bank[rows], labels[rows], presets).rows)
    assert [(row.preset.name, row.k) for row in found.rows] == [("ukd-3-shot", 1), ("dino-3-shot", 10)]
    for place, row in enumerate(found.rows):
        for ours, std, theirs in (
            (row.top1, row.top1_std, [rows[place].top1.value for rows in alone]),
            (row.top5, row.top5_std, [rows[place].top5.value for rows in alone]),
        ):
            assert ours.value == pytest.approx(np.mean(theirs), abs=1e-12) and ours.low <= ours.value <= ours.high
            assert std == pytest.approx(np.std(theirs, ddof=1), abs=1e-12)
    assert found.rows[0].top1_std > 0  # type: ignore[operator]
    assert "ukd: k=20 left out: the bank holds 12 images" in found.warnings


def test_each_draw_takes_as_many_images_of_each_class_and_no_image_twice() -> None:
    labels = np.repeat([7, 2, 40], [20, 5, 90])
    draws = [drawn_rows(labels, 5, seed) for seed in range(20)]
    for rows in draws:
        assert np.unique(labels[rows], return_counts=True)[1].tolist() == [5, 5, 5]
        assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(draws[3], drawn_rows(labels, 5, 3))
    assert len(np.unique(np.concatenate(draws))) > 60


def test_a_class_with_too_few_images_is_named() -> None:
    with pytest.raises(DataError, match=r"--shots 6 but 1 classes .* \(class 2 has 5\); choose --shots <= 5"):
        drawn_rows(np.repeat([7, 2], [20, 5]), 6, 0)


def test_one_draw_has_no_deviation_and_the_protocol_names_shots_and_seeds() -> None:
    bank, labels = clouds(200, seed=1)
    (row,) = evaluate_few_shots(bank, labels, bank, labels, [PRESETS["ukd"]], FewShots(3, (4,))).rows
    assert row.top1_std is None is row.top5_std
    preset = few_shot_preset(PRESETS["ukd"], FEW)
    assert (preset.shots, preset.seeds, preset.ks, preset.vote) == (3, (0, 1, 2), (1, 20), "majority")
    assert len({preset.hash, row.preset.hash, PRESETS["ukd"].hash}) == 3
