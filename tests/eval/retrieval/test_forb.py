"""FORB: thresholds and t-mAP against a slow loop written from its definition, and its files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.eval.retrieval.fakes import OBJECTS, make_forb
from ukd.errors import DataError
from ukd.eval.retrieval.forb import PRESETS, ap_above, evaluate, open_forb, thresholds_at

PRESET = PRESETS["one-scale"]


def slow_tmap(queries: np.ndarray, inside: np.ndarray, outside: np.ndarray, answers: list[set[int]], k: int) -> float:
    """Mean over false-positive rates 0, 0.1, ..., 1 of mean AP@k of what reaches the threshold of each."""
    best = sorted(max(outside @ query) for query in queries)
    figures = []
    for rate in np.linspace(0, 1, 11):
        threshold = -1.0 if rate == 1 else best[math.ceil((1 - rate) * len(best)) - 1]
        aps = []
        for query, right in zip(queries, answers, strict=True):
            scores = inside @ query
            listed = [image for image in np.argsort(-scores, kind="stable")[:10] if scores[image] >= threshold]
            if not right:
                aps.append(float(not listed))
                continue
            hits = [place for place, image in enumerate(listed[:k]) if image in right]
            aps.append(sum((rank + 1) / (place + 1) for rank, place in enumerate(hits)) / len(right))
        figures.append(np.mean(aps))
    return float(np.mean(figures))


def unit(rng: np.random.Generator, num: int) -> np.ndarray:
    rows = rng.standard_normal((num, 6))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("num_queries", [7, 40])
def test_figures_are_those_of_the_definition_as_a_slow_loop(num_queries: int) -> None:
    rng = np.random.default_rng(num_queries)
    inside, outside = unit(rng, 60), unit(rng, 25)
    answers = [set(rng.choice(60, rng.integers(0, 4), replace=False).tolist()) for _ in range(num_queries)]
    queries = np.stack([inside[min(right)] + 0.3 * unit(rng, 1)[0] if right else unit(rng, 1)[0] for right in answers])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    levels = ["easy", "hard"] * (num_queries // 2) + ["easy"] * (num_queries % 2)
    lists = [np.array(sorted(right), dtype=np.int64) for right in answers]
    shares = evaluate(queries, inside, outside, lists, levels, PRESET).shares
    for k in (1, 5):
        expected = slow_tmap(queries, inside, outside, answers, k)
        assert 0.1 < expected < 0.9
        assert shares[f"tmap_at_{k}"].value == pytest.approx(expected, abs=1e-9)
        by_level = [shares[f"tmap_at_{k}_{level}"] for level in ("easy", "hard")]
        mean = sum(share.value * share.n for share in by_level) / num_queries
        assert mean == pytest.approx(shares[f"tmap_at_{k}"].value)


@pytest.mark.parametrize("num", [1, 3, 10, 97])
def test_thresholds_let_their_share_of_wrong_answers_pass(num: int) -> None:
    best = np.random.default_rng(0).random(num)
    thresholds = thresholds_at(best)
    assert len(thresholds) == 11 and thresholds[0] == best.max() and thresholds[-1] == -np.inf
    for step, threshold in enumerate(thresholds[:-1]):
        # The image that sets a threshold reaches it, so that one more than the share passes.
        assert (best >= threshold).sum() == num - math.ceil((10 - step) * num / 10) + 1


def test_finding_nothing_is_right_only_where_nothing_is() -> None:
    similarity = np.array([[0.9, 0.5], [0.4, 0.3], [0.9, 0.5], [0.4, 0.3]])
    right = np.array([[False, True], [True, False], [False, False], [False, False]])
    num_right = np.array([1, 2, 0, 0])
    assert ap_above(0.5, similarity, right, num_right, 2).tolist() == [0.5, 0, 0, 1]
    assert ap_above(-np.inf, similarity, right, num_right, 2).tolist() == [0.5, 0.5, 0, 0]


def test_answers_are_found_by_their_paths_in_both_databases(tmp_path: Path) -> None:
    found = open_forb(make_forb(tmp_path))
    assert found.objects == OBJECTS and len(found.queries) == 12
    assert len(found.database) == len(found.inside) == 24 and len(found.outside) == 12
    for query, answer in enumerate(found.answers):
        (image,) = found.inside[answer]
        assert found.database.id(image) == found.queries.id(query).replace("query", "database")
    assert all("/other/" in found.database.id(image) for image in found.outside)
    assert found.levels[:4] == ("easy", "medium", "hard", "easy")


def test_images_of_the_second_database_need_not_be_in_the_first(tmp_path: Path) -> None:
    folder = make_forb(tmp_path)
    path = folder / "metadata" / "all_database_images.txt"
    path.write_text("".join(line for line in path.open() if "other" not in line))
    found = open_forb(folder)
    assert len(found.database) == 24 and len(found.inside) == 12
    assert set(found.inside) & set(found.outside) == set()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("logos_gt.ndjson", "{broken\n", r"logos_gt.ndjson, line 1: Expecting property name"),
        ("logos_gt.ndjson", '{"query_image": "logos/query/0.jpg"}\n', "'groundtruth_images' is missing"),
        ("all_database_images.txt", "logos/database/0.jpg\n", "'logos/database/1.jpg' is missing"),
        ("oods_database_images.txt", "logos/nowhere.jpg\n", "1 of 25 images are missing in .*: logos/nowhere.jpg"),
    ],
)
def test_broken_metadata_is_refused_by_name(tmp_path: Path, file: str, text: str, message: str) -> None:
    folder = make_forb(tmp_path)
    (folder / "metadata" / file).write_text(text)
    with pytest.raises(DataError, match=message):
        open_forb(folder)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    folder = make_forb(tmp_path)
    (folder / "metadata" / "oods_database_images.txt").unlink()
    with pytest.raises(DataError, match=r"cannot read .*oods_database_images.txt: No such file"):
        open_forb(folder)
