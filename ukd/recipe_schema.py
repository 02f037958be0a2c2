"""A recipe's JSON Schema, and pydantic's complaints about a recipe in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from ukd.recipe import Problem, RunRecipe

Schema = dict[str, Any]


def json_schema(model: type[RunRecipe], objective_options: Mapping[str, type[BaseModel]]) -> Schema:
    """JSON Schema (2020-12) by which an editor completes and checks a recipe while it is typed.

    Args:
        model: Kind of recipe.
        objective_options: Options of every objective that the recipe may name.
    """
    schema = model.model_json_schema()
    definitions = schema["$defs"]
    weight = definitions.pop("ObjectiveSpec")["properties"]["weight"]
    for name, options in objective_options.items():
        own = options.model_json_schema()
        definitions |= own.pop("$defs", {})
        own["title"] = name
        own["properties"] = {"name": {"const": name}, "weight": weight, **own.get("properties", {})}
        own["required"] = ["name", *own.get("required", [])]
        definitions[f"objective-{name}"] = own
    one = [
        {"enum": list(objective_options)},
        *({"$ref": f"#/$defs/objective-{name}"} for name in objective_options),
    ]
    several = {"type": "array", "items": {"anyOf": one}, "minItems": 1}
    described = schema["properties"]["objective"].get("description", "")
    schema["properties"]["objective"] = {"description": described, "anyOf": [*one, several]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def explain(error: ValidationError, model: type[BaseModel], extra_keys: Iterable[str] = ()) -> list[Problem]:
    """Every complaint of pydantic with its dotted key and what would be right.

    Args:
        error: What validating against `model` raised.
        model: The model.
        extra_keys: Keys that are right beside the model's own.
    """
    root = model.model_json_schema()
    problems: dict[str, Problem] = {}
    for complaint in error.errors():
        keys, schema, parent = _find(root, complaint["loc"])
        match complaint["type"]:
            case "missing":
                hint = f" ({schema['description'].rstrip('.')})" if "description" in schema else ""
                message = f"missing; must be {_wanted(schema, root)}{hint}"
            case "extra_forbidden":
                beside = extra_keys if len(keys) == 1 else ()
                message = _unknown_key(keys[-1], [*beside, *parent.get("properties", {})], root)
            case "value_error":
                message = str(complaint["ctx"]["error"])
            case "finite_number":
                message = f"must be finite, got {complaint['input']}"
            case _:
                message = f"must be {_wanted(schema, root)}, got {said(complaint['input'])}"
        # A union complains once for each of its members; the first is enough.
        problems.setdefault(".".join(keys), Problem(".".join(keys), message))
    return list(problems.values())


def nearest_or_all(word: str, words: Iterable[str], several: str) -> str:
    """`did you mean x?` where one of the words is near, else all of them after `several`."""
    words = list(words)
    near = get_close_matches(word, words, n=1)
    return f"did you mean {near[0]}?" if near else f"{several} {', '.join(words) or 'none'}"


def _unknown_key(key: str, siblings: list[str], root: Schema) -> str:
    if not get_close_matches(key, siblings):
        # A right key in the wrong place, such as `lr` beside `optimizer`.
        for part, schema in root.get("properties", {}).items():
            if key in _resolved(schema, root).get("properties", {}):
                return f"unknown key; did you mean {part}.{key}?"
    return f"unknown key; {nearest_or_all(key, siblings, 'the keys here are')}"


def _resolved(schema: Schema, root: Schema) -> Schema:
    """The schema behind a reference, and the one that is not null of a pair with null."""
    reference = schema.get("$ref")
    if reference:
        target = root["$defs"][reference.rsplit("/", 1)[1]]
        return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    others = [choice for choice in schema.get("anyOf", []) if choice.get("type") != "null"]
    return _resolved(others[0], root) if len(others) == 1 else schema


def _find(root: Schema, location: tuple[int | str, ...]) -> tuple[list[str], Schema, Schema]:
    """Keys, schema and parent's schema of a location; the name that pydantic adds for a member of a union is no key."""
    keys: list[str] = []
    schema, parent = root, root
    for part in location:
        parent = _resolved(schema, root)
        member = next((each for each in parent.get("anyOf", []) if each.get("$ref") == f"#/$defs/{part}"), None)
        if member is not None:
            schema = member
            continue
        if "properties" in parent:
            child = parent["properties"].get(part, {})
        elif "prefixItems" in parent and isinstance(part, int):
            child = parent["prefixItems"][part]
        elif isinstance(parent.get("items"), dict) and isinstance(part, int):
            child = parent["items"]
        else:
            break
        keys.append(str(part))
        schema = child
    return keys, schema, parent


def _wanted(schema: Schema, root: Schema) -> str:
    """What a value must be, for example `a whole number above 0`."""
    schema = _resolved(schema, root)
    if "enum" in schema or "const" in schema:
        return "one of " + ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if "anyOf" in schema:
        return " or ".join(_wanted(choice, root) for choice in schema["anyOf"])
    match schema.get("type"):
        case "integer":
            return f"a whole number{_range(schema)}"
        case "number":
            return f"a number{_range(schema)}"
        case "boolean":
            return "true or false"
        case "string":
            return "text"
        case "array" if "prefixItems" in schema:
            items = schema["prefixItems"]
            return f"a list of {len(items)}, each {_wanted(items[0], root)}"
        case "array" if "items" in schema:
            return f"a list, each {_wanted(schema['items'], root)}"
        case "array":
            return "a list"
        case "object" if schema.get("properties"):
            return f"a mapping with keys from: {', '.join(schema['properties'])}"
        case "object":
            return "a mapping"
        case "null":
            return "null"
        case _:
            return "a value"


def _range(schema: Schema) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']:g} to {schema['maximum']:g}"
    words = {
        "exclusiveMinimum": "above",
        "minimum": "of at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    limits = [f"{word} {schema[key]:g}" for key, word in words.items() if key in schema]
    return f" {' and '.join(limits)}" if limits else ""


def said(value: Any) -> str:
    """A value as the recipe's author wrote it, shortened."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return repr(value if len(value) <= 40 else value[:37] + "...")
        case list() | tuple():
            return f"a list of {len(value)}" if value else "an empty list"
        case dict():
            return "a mapping"
        case _:
            return str(value)
