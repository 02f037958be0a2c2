"""What it takes to believe the figures of a report, or to make them again: protocols, hashes, versions, commands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from ukd.eval.report.collect import Run
from ukd.eval.report.markup import Node, node
from ukd.eval.results import Result


def protocols(runs: Sequence[Run]) -> Node | None:
    """Every protocol with its settings, the images and the view that it was run on, and warnings."""
    notes: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for result in (result for run in runs for result in (*run.results, *run.teacher_results)):
        notes.setdefault((("protocol", f"{result.task} · {result.preset}"), *_facts(result)), []).extend(
            result.warnings
        )
    if not notes:
        return None
    parts: list[Node] = []
    for ((_, title), *facts), said in notes.items():
        parts += [node("h3", title), _list([*facts, *(("note", note) for note in dict.fromkeys(said))])]
    return node("section", node("h2", "Protocols"), *parts)


def origins(runs: Sequence[Run]) -> Node:
    """For every run what it was made from, and the commands that make it again."""
    parts = []
    for run in runs:
        provenance = run.exported.get("provenance", {})
        data = provenance.get("data", {})
        made = "ukd-distill" if run.is_distillation else "ukd-pretrain"
        tasks = dict.fromkeys(result.task.replace("retrieval_", "retrieval ") for result in run.results)
        facts = [
            ("objective", run.objective),
            ("architecture", f"{run.exported.get('arch', '-')} {json.dumps(run.exported.get('kwargs', {}))}"),
            ("weights, sha256", next((result.model["sha256"] for result in run.results if _is_of(run, result)), "-")),
            ("teacher's weights, sha256", run.teacher_sha256 or "-"),
            (
                "training images",
                f"{data.get('train', '-')}, {data.get('num_images', '-')}, {data.get('fingerprint', '-')}",
            ),
            ("seed", str(run.recipe["seed"])),
            ("versions", _pairs(provenance.get("versions", {}))),
            ("trained with", f"{made} {run.name}/recipe.yaml output=NEW_FOLDER"),
            *(("measured with", f"ukd-eval {task} --ckpt {run.name}") for task in tasks),
        ]
        parts += [node("h3", run.name), _list(facts)]
    return node("section", node("h2", "Provenance"), *parts)


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    settings = {name: value for name, value in result.protocol.items() if name != "name"}
    yield f"settings, hash {result.preset_hash}", _pairs(settings)
    for name, facts in result.data.items():
        if isinstance(facts, dict) and "fingerprint" in facts:
            yield (
                name if name == "images" else f"{name} images",
                f"{facts['name']}, n={facts['n']}, {facts['fingerprint']}",
            )
    if "size_px" in result.data:
        yield "view", f"{result.data['size_px']} pixels, centre crop {result.data['crop_pct']}"
    yield "features", _pairs({name: result.features[name] for name in ("kind", "norm") if name in result.features})
    yield "engine", _pairs({name: value for name, value in result.engine.items() if name != "versions"})
    yield "versions", _pairs(result.engine.get("versions", {}))


def _is_of(run: Run, result: Result) -> bool:
    return bool(result.model["role"] == ("student" if run.is_distillation else "teacher"))


def _pairs(facts: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _list(facts: Sequence[tuple[str, str]]) -> Node:
    return node("dl", *(part for name, value in facts for part in (node("dt", name), node("dd", node("code", value)))))
