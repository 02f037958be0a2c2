"""The parts of a report: markup, scales, figures against the teacher's, and what is drawn of feature spaces."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from ukd.eval.report import spaces
from ukd.eval.report.charts import MAX_POINTS, line_chart, ticks
from ukd.eval.report.collect import Run
from ukd.eval.report.figures import headlines, models_of, titles
from ukd.eval.report.markup import document, node
from ukd.eval.report.pictures import SIDE_PX, data_uri
from ukd.eval.report.tables import csv_table, markdown_table
from ukd.eval.results import Metric, Result

RECIPE = {"teacher": {"weights": None}}


def run(name: str, teacher: str, *results: Result) -> Run:
    return Run(Path(name), RECIPE, "coss", {}, teacher, results, (), {}, None)


def result(role: str, sha256: str, top1: float, *, images: str = "i", size_px: int = 32, task: str = "knn") -> Result:
    return Result(
        task=task,
        model={"role": role, "sha256": sha256, "source": f"{role}|{sha256}", "num_parameters": 1_500_000},
        data={"test": {"name": "digits", "n": 80, "fingerprint": images}, "size_px": size_px, "crop_pct": 1.0},
        features={"kind": "pooled"},
        engine={},
        seed=0,
        preset="dino",
        preset_hash="h",
        metrics={"top1_k10": Metric(0.0, 80), "top1_k20": Metric(top1, 80, (top1 - 0.02, top1 + 0.02))},
    )


def test_a_gap_is_to_the_student_s_own_teacher_under_the_same_protocol() -> None:
    # The second run never measured its teacher, whose figures the first run has; the third run's nobody has.
    runs = [
        run("a", "t", result("teacher", "t", 0.8), result("student", "a", 0.6)),
        run("b", "t", result("student", "b", 0.4)),
        run("c", "u", result("student", "c", 0.5)),
        run("d", "t", result("student", "d", 0.5, images="others")),
        run("e", "t", result("student", "e", 0.5, size_px=64)),
    ]
    rows = models_of(runs)
    assert [(row.name, row.role) for row in rows][:3] == [("teacher|t", "teacher"), ("a", "student"), ("b", "student")]
    cells = {row.name: next(c for column, c in row.cells.items() if column.metric == "top1_k20") for row in rows}
    assert cells["a"].gap == pytest.approx(-0.2) and cells["a"].kept == pytest.approx(0.75)
    assert cells["b"].kept == pytest.approx(0.5)
    assert [cells[name].gap for name in ("teacher|t", "c", "d", "e")] == [None] * 4


def test_a_baseline_that_several_runs_measured_is_one_row_but_equal_students_are_two() -> None:
    both = [result("raw pixels", "p", 0.1), result("teacher", "t", 0.8), result("student", "s", 0.5)]
    rows = models_of([run("a", "t", *both), run("b", "t", *both)])
    assert [(row.name, row.role) for row in rows] == [
        ("teacher|t", "teacher"),
        ("a", "student"),
        ("b", "student"),
        ("raw pixels|p", "raw pixels"),
    ]


def test_a_row_holds_figures_of_all_tasks_and_a_column_the_most_quoted_one() -> None:
    rows = models_of([run("a", "t", result("student", "s", 0.5), result("student", "s", 0.25, task="odd"))])
    columns = headlines(rows)
    assert [column.title for column in columns] == ["knn · dino · top1_k20", "odd · dino · top1_k10"]
    assert len(rows) == 1 and csv_table(rows).count("\n") == 1 + 4


def test_columns_of_one_title_tell_what_they_differ_in() -> None:
    of = {name: result("student", "s", 0.5, images=name) for name in "ab"}
    of["b"].data["test"]["name"] = "letters"  # type: ignore[index]
    runs = [run("1", "t", of["a"], result("student", "s", 0.5, size_px=64)), run("2", "t", of["b"])]
    assert titles(headlines(models_of(runs))) == [
        "knn · dino · top1_k20 · digits · 32, 1.0, pooled",
        "knn · dino · top1_k20 · digits · 64, 1.0, pooled",
        "knn · dino · top1_k20 · letters",
    ]


def test_markdown_keeps_its_columns_whatever_models_are_called() -> None:
    rows = models_of([run("a|b", "t", result("teacher", "t", 0.8), result("student", "s", 0.6))])
    assert markdown_table(rows, headlines(rows)).splitlines() == [
        "| model | role | parameters | knn · dino · top1_k20 |",
        "| --- | --- | ---: | ---: |",
        r"| teacher\|t | teacher | 1.5 M | 80.0 ±2.0 |",
        "| a\\|b | student | 1.5 M | 60.0 ±2.0 (−20.0, 75.0\xa0%\xa0kept) |",
    ]


def test_text_is_escaped_and_stands_where_it_was_put() -> None:
    page = document("a < b", "x{}", node("p", "1 ", node("b", "<i>", title='"'), " & 2", data_label="x", class_="c"))
    assert "<title>a &lt; b</title>" in page
    assert '<p data-label="x" class="c">1 <b title="&quot;">&lt;i&gt;</b> &amp; 2</p>' in page


@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-3, 1e6), most=st.integers(2, 8))
def test_ticks_are_few_even_and_within(low: float, width: float, most: int) -> None:
    chosen = ticks(low, low + width, most)
    assert 1 <= len(chosen) <= most + 1
    slack = 1e-6 * (abs(low) + width)
    assert low - slack <= chosen[0] and chosen[-1] <= low + width + slack
    assert np.allclose(np.diff(chosen, 2), 0, atol=slack)


def test_ticks_by_hand() -> None:
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-133, -99, 4) == [-130, -120, -110, -100]


def test_a_long_line_is_thinned_but_keeps_its_ends_and_a_single_point_is_a_dot() -> None:
    drawn = line_chart("loss", {0: [(step, step / 2) for step in range(10_000)], 1: [(5, 5.0)]}, "step")
    paths = {path.get("class"): str(path.get("d")) for path in drawn.iter("path")}
    assert paths["line c0"].count("L") <= MAX_POINTS + 1
    xs = [float(point.split()[0]) for point in paths["line c0"][1:].split("L")]
    assert min(xs) == xs[0] < 65 and max(xs) == xs[-1] > 335
    assert paths["dots big c1"].endswith("h0")


def test_thumbnails_are_the_centre_square_and_small() -> None:
    pixels = np.zeros((100, 300, 3), dtype=np.uint8)
    pixels[:, 100:200] = (0, 120, 240)
    uri = data_uri(pixels)
    assert uri.startswith("data:image/jpeg;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert image.size == (SIDE_PX, SIDE_PX)
    assert np.abs(np.asarray(image).astype(int) - (0, 120, 240)).max() < 6


def test_accuracy_by_class_is_that_of_scikit_learn_leaving_one_out() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([3, 5, 9], [20, 15, 10]))
    features = (rng.normal(size=(45, 6)) + np.eye(10)[labels][:, :6]).astype(np.float32)
    found = spaces.accuracy_by_class(features, labels, 5)
    right = []
    for i in range(45):
        others = np.arange(45) != i
        model = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(features[others], labels[others])
        right.append(model.predict(features[i : i + 1])[0] == labels[i])
    assert found == pytest.approx({c: np.mean(np.array(right)[labels == c]) for c in (3, 5, 9)})


def test_pairs_are_of_different_images_and_the_same_in_both_spaces() -> None:
    features = np.eye(7, dtype=np.float32)
    ours, theirs = spaces.similarities(features, np.concatenate([features, -features], axis=1), 500)
    assert (ours == 0).all() and (theirs == 0).all()
    same = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    ours, theirs = spaces.similarities(same, 3 * same, 50)
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_shared_neighbours_by_hand() -> None:
    one, two = np.array([[1, 2, 3], [0, 2, 3]], dtype=np.int32), np.array([[1, 3, 4], [2, 0, 3]], dtype=np.int32)
    assert spaces.shared_by_k(one, two, (1, 2, 3, 4)) == [(1, 0.5), (2, 0.75), (3, pytest.approx(5 / 6))]


def test_a_map_keeps_groups_together_and_starts_where_it_is_told() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(3), 20)
    features = (8 * np.eye(5)[groups] + rng.normal(size=(60, 5))).astype(np.float32)
    teacher = spaces.flat_map(features)
    student = spaces.flat_map(features @ rng.normal(size=(5, 8)).astype(np.float32), teacher)
    for flat in (teacher, student):
        nearest = np.linalg.norm(flat[:, None] - flat[None], axis=2).argsort(axis=1)[:, 1:6]
        assert flat.shape == (60, 2) and (groups[nearest] == groups[:, None]).mean() > 0.9
    centres = [np.stack([flat[groups == g].mean(axis=0) for g in range(3)]) for flat in (teacher, student)]
    assert all(np.dot(one, two) > 0 for one, two in zip(*centres, strict=True))
    assert (spaces.flat_map(features) == teacher).all()
