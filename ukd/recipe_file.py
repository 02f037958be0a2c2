"""A recipe from its file and the command line: read, checked as a whole, and written again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from ukd.recipe import ObjectiveSpec, Part, Problem, RecipeError, RunRecipe, objective_list
from ukd.recipe_schema import explain, nearest_or_all, said
from ukd.recipe_yaml import YamlError, parse, write

R = TypeVar("R", bound=RunRecipe)


def load(
    path: str | Path,
    overrides: Sequence[str],
    model: type[R],
    objective_options: Mapping[str, type[BaseModel]],
) -> R:
    """Read a recipe and check all of it, so that one look shows every mistake.

    Args:
        path: YAML file.
        overrides: `key.sub=value` each, the value in YAML; they stand above the file, the last one highest.
        model: Kind of recipe.
        objective_options: Options of every objective that the recipe may name.

    Returns:
        The recipe with every default filled in, those of the objectives' options too.

    Raises:
        RecipeError: Lists every problem with its dotted key and what would be right.
    """
    try:
        raw, problems = _read(Path(path))
        problems += [problem for override in overrides for problem in _override(raw, override)]
    except YamlError as error:
        raise RecipeError(str(path), error.problems) from error
    resolved, option_problems = _with_options(raw, objective_options)
    recipe = None
    try:
        recipe = model.model_validate(resolved)
    except ValidationError as error:
        problems += _shown(explain(error, model), resolved)
    problems += _shown(option_problems, resolved)
    problems += _disagreements(model, resolved, {problem.key for problem in problems})
    if recipe is None or problems:
        order = [*model.model_fields]
        problems.sort(key=lambda problem: _rank(problem.key, order))
        raise RecipeError(str(path), problems)
    return recipe


def dump(recipe: RunRecipe) -> str:
    """YAML of the whole recipe, defaults included, that `load` reads back to an equal one."""
    return write(recipe.model_dump())


def _read(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise YamlError([Problem("", "no such file")]) from None
    except UnicodeDecodeError:
        raise YamlError([Problem("", "is not text in UTF-8; a recipe is a YAML file")]) from None
    except OSError as error:
        raise YamlError([Problem("", f"cannot be read: {error.strerror}")]) from error
    raw, problems = parse(text)
    if not isinstance(raw, dict):
        wrong = "is empty" if raw is None else f"holds {said(raw)}"
        raise YamlError([Problem("", f"{wrong}; a recipe is a mapping, one `key: value` a line")])
    _spell_objectives_out(raw)
    return raw, problems


def _spell_objectives_out(raw: dict[str, Any]) -> None:
    try:
        raw["objective"] = objective_list(raw["objective"])
    except (KeyError, ValueError):
        return  # Missing or wrong: validation says so.


def _override(raw: dict[str, Any], override: str) -> list[Problem]:
    """Put `key.sub=value` into the raw recipe."""
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        return [Problem(override, "is no override; write key.sub=value")]
    try:
        value, problems = parse(text, key)
    except YamlError as error:
        return [Problem(key, f"{override}: {message}") for _, message in error.problems]
    objectives = raw.get("objective")
    if parts[0] == "objective" and len(parts) > 1 and isinstance(objectives, list) and not parts[1].isdigit():
        if len(objectives) > 1:
            named = " or ".join(f"objective.{i}.{'.'.join(parts[1:])}" for i in range(len(objectives)))
            return [Problem(key, f"there are {len(objectives)} objectives; say {named}")]
        parts.insert(1, "0")
    wrong = _put(raw, parts, value)
    if wrong:
        return [Problem(key, wrong)]
    _spell_objectives_out(raw)
    return problems


def _put(raw: dict[str, Any], parts: list[str], value: Any) -> str | None:
    """Set a nested value, making the mappings on its way; what is wrong where one of them is none."""
    place: Any = raw
    for depth, part in enumerate(parts):
        is_last = depth == len(parts) - 1
        above = ".".join(parts[:depth])
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                return f"{above} is a list of {len(place)}; choose from 0 to {len(place) - 1}"
            position: Any = int(part)
        elif isinstance(place, dict):
            position = part
            if not is_last and place.get(part) is None:
                place[part] = {}
        else:
            return f"{above} is {said(place)}, which has no keys of its own"
        if is_last:
            place[position] = value
        else:
            place = place[position]
    return None


def _with_options(
    raw: dict[str, Any], objective_options: Mapping[str, type[BaseModel]]
) -> tuple[dict[str, Any], list[Problem]]:
    """The recipe with every objective's options filled in, and what is wrong with names and options."""
    objectives = raw.get("objective")
    if not isinstance(objectives, list):
        return raw, []
    own_keys = ObjectiveSpec.model_fields
    filled, problems = [], []
    for i, entry in enumerate(objectives):
        name = entry.get("name") if isinstance(entry, dict) else None
        filled.append(entry)
        if not isinstance(name, str):
            continue  # Validation of the recipe says so.
        if name not in objective_options:
            hint = nearest_or_all(name, objective_options, "choose from")
            problems.append(Problem(f"objective.{i}.name", f"unknown objective {name!r}; {hint}"))
            continue
        options_model = objective_options[name]
        given = {key: value for key, value in entry.items() if key not in own_keys}
        try:
            filled[i] = {**entry, **options_model.model_validate(given).model_dump()}
        except ValidationError as error:
            wrong = explain(error, options_model, own_keys)
            problems += [Problem(f"objective.{i}.{key}", message) for key, message in wrong]
    return {**raw, "objective": filled}, problems


def _shown(problems: list[Problem], raw: dict[str, Any]) -> list[Problem]:
    """A single objective needs no number: `objective.scale` instead of `objective.0.scale`."""
    objectives = raw.get("objective")
    if not isinstance(objectives, list) or len(objectives) > 1:
        return problems
    return [problem._replace(key=problem.key.replace("objective.0", "objective", 1)) for problem in problems]


def _disagreements(model: type[RunRecipe], raw: dict[str, Any], wrong: set[str]) -> Iterator[Problem]:
    """What is wrong between fields; a rule whose own fields are wrong or missing is left out."""
    values = dict(_values(model, raw))
    for keys, rule in _RULES:
        if values.keys() >= set(keys) and not wrong & set(keys):
            message = rule(*(values[key] for key in keys))
            if message:
                yield Problem(keys[0], message)


def _values(model: type[Part], raw: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every field, defaults included."""
    for name, field in model.model_fields.items():
        value = raw.get(name, field.default)
        yield prefix + name, value
        types = [field.annotation, *get_args(field.annotation)]
        part = next((t for t in types if isinstance(t, type) and issubclass(t, Part)), None)
        if part is not None and isinstance(value, dict):
            yield from _values(part, value, f"{prefix}{name}.")


def _rank(key: str, order: list[str]) -> int:
    """Problems of the whole file first, then in the order of the fields, unknown keys last."""
    top = key.partition(".")[0]
    if not top or top.startswith("line "):
        return -1
    return order.index(top) if top in order else len(order)


def _names_a_model(arch: str | None, weights: str | None) -> str | None:
    if arch or weights:
        return None
    return "missing; give a timm name such as resnet18, or weights that say it themselves"


def _has_one_source(pretrained: bool, weights: str | None) -> str | None:
    return "is true, but weights are given as well; choose one of the two" if pretrained and weights else None


def _has_learnt_something(weights: str | None, pretrained: bool) -> str | None:
    if pretrained or weights:
        return None
    return "missing; a teacher needs weights (a file or a run folder), or pretrained: true for timm's own"


def _draws_from_enough(k: int, nearest: int) -> str | None:
    if k <= nearest:
        return None
    return f"must be at most neighbours.nearest = {nearest}, which it is drawn from, got {k}"


def _holds_whole_groups(batch_size: int, k: int) -> str | None:
    group, over = k + 1, batch_size % (k + 1)
    if not over:
        return None
    fitting = [size for size in (batch_size - over, batch_size - over + group) if size]
    return (
        f"must be a multiple of neighbours.k + 1 = {group} (an anchor and its neighbours), "
        f"got {batch_size}; {' or '.join(map(str, fitting))} would do"
    )


def _has_bank_and_queries(test: str | None, train: str | None) -> str | None:
    if (test is None) == (train is None):
        return None
    missing = "labelled_train" if train is None else "labelled_test"
    return f"data.{missing} is missing; labelled_train and labelled_test go together"


_BACKBONES = ("teacher", "student", "backbone")
_RULES: list[tuple[tuple[str, ...], Callable[..., str | None]]] = [
    *(((f"{who}.arch", f"{who}.weights"), _names_a_model) for who in _BACKBONES),
    *(((f"{who}.pretrained", f"{who}.weights"), _has_one_source) for who in _BACKBONES),
    (("teacher.weights", "teacher.pretrained"), _has_learnt_something),
    (("data.labelled_test", "data.labelled_train"), _has_bank_and_queries),
    (("neighbours.k", "neighbours.nearest"), _draws_from_enough),
    (("batch_size", "neighbours.k"), _holds_whole_groups),
]
