"""`ukd-eval report` from end to end: real results of a real run on digits, the page as a browser would read it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.eval.commands import run_cli, stored

pytestmark = pytest.mark.usefixtures("surroundings")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
WIDTHS_PX = [400, 1280]
MEASURE = """
onload = () => {
  const across = (a, b) => a.left >= b.left - 1 && a.right <= b.right + 1
  const within = (a, b) => across(a, b) && a.top >= b.top - 1 && a.bottom <= b.bottom + 1
  const box = each => each.getBoundingClientRect()
  for (const each of document.querySelectorAll("details")) each.open = true
  const page = {left: 0, right: innerWidth}
  const elements = [...document.body.querySelectorAll("*:not(.figures, .figures *)")]
  const texts = [...document.querySelectorAll("svg text")]
  parent.postMessage({
    width: innerWidth,
    title: document.title,
    outside: elements.filter(each => !across(box(each), page)).map(each => each.outerHTML.slice(0, 80)),
    cut: texts.filter(each => !within(box(each), box(each.ownerSVGElement))).map(each => each.textContent),
    asked: performance.getEntriesByType("resource").map(each => each.name),
  }, "*")
}
"""
"""What is wider than the page outside of what scrolls, texts beyond their chart, and what the page has asked for."""
COLLECT = "const told = []; onmessage = each => { told.push(each.data); document.title = JSON.stringify(told) }"
CURVES = [{"step": step, "loss": 2.0 / step, "teacher_cosine": 0.5, "lr": 0.1} for step in (3, 6, 9)]


class Page(HTMLParser):
    """What a page shows and asks for: texts by the tag that was opened last before them, attributes, tags."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.opened = [""]
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.opened[-1], []).append(data)

    def values(self, tag: str, name: str) -> list[str]:
        return [value for its, named, value in self.attributes if (its, named) == (tag, name)]


@pytest.fixture
def trained(run: Path) -> Path:
    """A run that has logged something."""
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in CURVES) + '{"step": 12, "lo')
    return run


def test_a_run_is_shown_with_everything_that_is_known_of_it(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in ("knn", "fidelity"):
        assert run_cli([task, "--ckpt", trained], monkeypatch) == 0
    assert run_cli(["report", trained], monkeypatch) == 0
    page = Page(trained / "report.html")
    sections = ["Models", "Learning curves", "Nearest neighbours", "Maps of the feature spaces"]
    sections += ["Gap to the teacher by class", "Fidelity", "Protocols", "Provenance"]
    assert page.texts["h2"] == sections and page.texts["title"][0] == "ukd report: run"
    roles = ["teacher", "student", "untrained student", "raw pixels"]
    assert page.texts["b"] == roles
    results = stored(trained / "results" / "knn.json")
    top1 = {each["model"]["role"]: each["metrics"]["top1_k20"] for each in results if each["preset"] == "dino"}
    ours, theirs = top1["student"]["value"], top1["teacher"]["value"]
    half = 50 * (top1["student"]["ci"][1] - top1["student"]["ci"][0])
    kept = f"({100 * (ours - theirs):+.1f}, {100 * ours / theirs:.1f}\xa0%\xa0kept)".replace("-", "−")
    assert f"{100 * ours:.1f} ±{half:.1f}" in page.texts["span"] and kept in page.texts["small"]
    assert "ad4d3ed44bcbe6f0" in " ".join(page.texts["dt"])  # Hash of kNN's preset `ukd`.
    shown = " ".join(page.texts["code"])
    assert all(each["model"]["sha256"] in shown for each in results if each["model"]["role"] == "student")
    assert page.texts["h3"] == ["fidelity · ukd", "knn · dino", "knn · ukd", str(trained)]
    # A query, and six neighbours of teacher and student, eight times.
    pictures = page.values("img", "src")
    assert len(pictures) == 8 * 13 and all(src.startswith("data:image/png;base64,") for src in pictures)

    lines = (trained / "report.md").read_text().splitlines()
    assert len(lines) == 2 + len(roles) and f"{100 * ours:.1f} ±{half:.1f} {kept}" in lines[3]
    rows = list(csv.DictReader((trained / "report.csv").read_text().splitlines()))
    (row,) = (r for r in rows if (r["role"], r["preset"], r["metric"]) == ("student", "dino", "top1_k20"))
    assert (float(row["value"]), float(row["teacher"]), float(row["gap"])) == (ours, theirs, ours - theirs)
    assert len(rows) == sum(len(each["metrics"]) for each in [*results, *stored(trained / "results" / "fidelity.json")])


def test_a_page_asks_nothing_of_the_network_and_escapes_what_runs_bring_along(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, "<img src=x>&\"'")
    assert run_cli(["report", trained, "<img src=x>&\"'", "--output", "out/all.html"], monkeypatch) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["all.csv", "all.html", "all.md"]
    page = Page(Path("out/all.html"))
    assert "<img src=x>&\"'" in "".join(page.texts["title"])
    addresses = [value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "srcset", "data")]
    assert addresses and all(value.startswith("data:") for value in addresses)
    text = Path("out/all.html").read_text()
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_a_run_without_results_says_which_command_makes_them(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_cli(["report", trained], monkeypatch) == 0
    page = Page(trained / "report.html")
    assert f"ukd-eval knn --ckpt {trained}" in page.texts["code"] and "table" not in page.opened
    assert page.texts["figcaption"][0] == "loss of coss"


def test_images_that_are_gone_cost_their_pictures_only(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_cli(["knn", "--ckpt", trained], monkeypatch) == 0
    (trained.parent / "test.npz").unlink()
    (trained / "neighbours.png").write_bytes(b"drawn while it trained")
    assert run_cli(["report", trained], monkeypatch) == 0
    page = Page(trained / "report.html")
    assert any("test.npz does not exist" in text for text in page.texts["p"])
    assert page.values("img", "src") == ["data:image/png;base64,ZHJhd24gd2hpbGUgaXQgdHJhaW5lZA=="]
    assert "Gap to the teacher by class" not in page.texts["h2"] and "table" in page.opened


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: None, "nothing to show, neither metrics.jsonl nor results; train first"),
        (lambda run: shutil.rmtree(run), "is no run folder: it holds no recipe.yaml"),
        (lambda run: (run / "recipe.yaml").write_text("seed: 1\n"), "is not the folder of a run: 'objective'"),
        (lambda run: (run / "student.json").write_text("{"), "is not the folder of a run"),
    ],
)
def test_what_cannot_be_reported_on_is_named(
    change: object, message: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(run)  # type: ignore[operator]
    assert run_cli(["report", run], monkeypatch) == 2
    shown = capsys.readouterr().err
    assert f"ukd-eval: report: {run}" in shown and message in shown and "Traceback" not in shown
    assert not (run / "report.html").exists()


def test_a_browser_shows_the_page_whole_on_a_desk_and_on_a_telephone(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the PATH")
    for task in ("knn", "fidelity"):
        assert run_cli([task, "--ckpt", trained], monkeypatch) == 0
    shutil.copytree(trained, "other")
    results = Path("other", "results", "knn.json")
    document = json.loads(results.read_text())
    for each in document["results"]:
        each["data"]["test"] |= {"name": "images/" * 12, "fingerprint": "of others"}
    results.write_text(json.dumps(document))
    assert run_cli(["report", trained, "other", "--output", "report.html"], monkeypatch) == 0
    page = Path("report.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{MEASURE}</script></body>"))
    # A browser's window has a least width; a frame has none.
    frames = "".join(f'<iframe src="page.html" width="{width}" height="800"></iframe>' for width in WIDTHS_PX)
    (tmp_path / "frames.html").write_text(f"<!doctype html><title></title><script>{COLLECT}</script>{frames}")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    flags += ["--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom"]
    command = [browser, *flags, (tmp_path / "frames.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    told = re.search(r"<title>(.+)</title>", done.stdout)
    assert told, done.stdout + done.stderr
    seen = sorted(json.loads(unescape(told[1])), key=lambda each: each["width"])
    assert [each["width"] for each in seen] == WIDTHS_PX
    for each in seen:
        assert each["title"] == "ukd report: run, other"
        assert each["outside"] == each["cut"] == each["asked"] == []
    assert "CONSOLE" not in done.stderr, done.stderr
