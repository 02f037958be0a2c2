"""Revisited landmarks: against the protocol written as a slow loop, and their files as they lie on disk."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.eval.retrieval.fakes import BOX, NUM_DISTRACTORS, NUM_LANDMARKS, make_landmarks
from ukd.errors import DataError
from ukd.eval.retrieval.landmarks import PRESETS, Truth, evaluate, open_landmarks

PRESET = PRESETS["roxford"]["dino"]
LEVELS = ("easy", "medium", "hard")


def random_truth(num_queries: int, num: int, seed: int) -> Truth:
    """Lists that share no image, some of them empty."""
    rng = np.random.default_rng(seed)
    parts = [np.split(rng.permutation(num)[: rng.integers(3, 15)], np.sort(rng.integers(0, 6, 2))) for _ in range(40)]
    easy, hard, junk = zip(*parts[:num_queries], strict=True)
    return Truth(easy, hard, junk)


def slow_level(similarity: np.ndarray, truth: Truth, level: str) -> tuple[list[float], dict[int, list[float]]]:
    """Average precisions and precisions at k of one level, image by image."""
    aps, precisions = [], {k: [] for k in PRESET.ks}
    for scores, easy, hard, junk in zip(similarity, truth.easy, truth.hard, truth.junk, strict=True):
        right = {"easy": set(easy), "medium": {*easy, *hard}, "hard": set(hard)}[level]
        ignored = {"easy": {*hard, *junk}, "medium": set(junk), "hard": {*easy, *junk}}[level]
        if not right:
            continue
        places, place, ap = [], 0, 0.0
        for image in np.argsort(-scores, kind="stable"):
            if image in ignored:
                continue
            if image in right:
                before = len(places) / place if place else 1.0
                places.append(place)
                ap += (before + len(places) / (place + 1)) / (2 * len(right))
            place += 1
        aps.append(ap)
        for k, each in precisions.items():
            depth = min(k, places[-1] + 1)
            each.append(sum(place < depth for place in places) / depth)
    return aps, precisions


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_the_protocol_as_a_slow_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, database = rng.standard_normal((12, 8)), rng.standard_normal((60, 8))
    truth = random_truth(12, 60, seed)
    similarity = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        database / np.linalg.norm(database, axis=1, keepdims=True)
    ).T
    shares = evaluate(queries, database, truth, PRESET).shares
    for level in LEVELS:
        aps, precisions = slow_level(similarity, truth, level)
        assert shares[f"map_trapz_{level}"].value == pytest.approx(np.mean(aps), abs=1e-12)
        assert shares[f"map_trapz_{level}"].n == len(aps)
        for k, each in precisions.items():
            assert shares[f"mp_at_{k}_{level}"].value == pytest.approx(np.mean(each), abs=1e-12)


def test_junk_moves_what_follows_up() -> None:
    database = np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.3]])
    none = np.array([], dtype=np.int64)
    truth = Truth((np.array([2]),), (none,), (np.array([0, 1]),))
    shares = evaluate(database[:1], database, truth, PRESET).shares
    assert shares["map_trapz_easy"].value == shares["mp_at_1_medium"].value == 1
    wrong = Truth((np.array([2]),), (none,), (none,))
    assert evaluate(database[:1], database, wrong, PRESET).shares["map_trapz_easy"].value == pytest.approx(1 / 6)


def test_queries_without_an_answer_do_not_count_and_are_said() -> None:
    features, none = np.eye(4), np.array([], dtype=np.int64)
    truth = Truth((np.array([0]), none), (none, none), (none, none))
    figures = evaluate(features[:2], features, truth, PRESET)
    assert {share.n for share in figures.shares.values()} == {1}
    assert figures.warnings == (
        "easy: 1 of 2 queries have no answer at this level and do not count",
        "medium: 1 of 2 queries have no answer at this level and do not count",
        "hard left out: no query has an answer at this level",
    )
    with pytest.raises(DataError, match="no query has an answer at any level"):
        evaluate(features[:1], features, Truth((none,), (none,), (none,)), PRESET)
    with pytest.raises(DataError, match="3 queries but ground truth for 2"):
        evaluate(features[:3], features, truth, PRESET)


def test_files_are_opened_from_their_folder_and_from_above(tmp_path: Path) -> None:
    place = make_landmarks(tmp_path)
    inside, above = open_landmarks(place, "roxford"), open_landmarks(tmp_path, "roxford")
    assert len(above.queries) == len(above.cropped) == NUM_LANDMARKS
    assert len(above.database) == 4 * NUM_LANDMARKS - 1 + NUM_DISTRACTORS
    assert above.queries.id(3) == "query_3.jpg" and above.database.id(2) == "landmark_0_hard_12.jpg"
    assert inside.database.fingerprint() == above.database.fingerprint()
    left, top, right, bottom = BOX
    np.testing.assert_array_equal(above.cropped.read(2), above.queries.read(2)[top:bottom, left:right])
    assert above.cropped.fingerprint() != above.queries.fingerprint()
    assert [each.tolist() for each in above.truth.hard[-2:]] == [[14], []]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imlist": None}, "TypeError"),
        ({"gnd": [{"easy": [0]}]}, "KeyError 'hard'"),
        ({"gnd": [{"easy": [99], "hard": [], "junk": [], "bbx": [0, 0, 1, 1]}]}, "IndexError image 99 of 27"),
        ({"gnd": [{"easy": [-1], "hard": [], "junk": [], "bbx": [0, 0, 1, 1]}]}, "IndexError image -1 of 27"),
        ({"gnd": [{"easy": [0], "hard": [], "junk": [], "bbx": [0, 0, 1]}]}, "ValueError"),
        ({"qimlist": ["query_0"]}, "ValueError"),
    ],
)
def test_other_ground_truth_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = make_landmarks(tmp_path) / "gnd_roxford5k.pkl"
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), **change}))
    with pytest.raises(DataError, match=f"is not the ground truth of roxford5k: {message}"):
        open_landmarks(tmp_path, "roxford")


def test_a_box_beyond_its_image_is_refused(tmp_path: Path) -> None:
    path = make_landmarks(tmp_path) / "gnd_roxford5k.pkl"
    truth = pickle.loads(path.read_bytes())
    truth["gnd"][1]["bbx"] = [500.0, 10.0, 600.0, 40.0]
    path.write_bytes(pickle.dumps(truth))
    with pytest.raises(OSError, match=r"query_1.jpg: its box \[500, 10, 600, 40\] lies outside of it"):
        open_landmarks(tmp_path, "roxford").cropped.read(1)
