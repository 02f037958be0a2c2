"""Plain YAML: `1e-4` is a number, `no` is text, and nothing that a reader could mistake is let in."""

from __future__ import annotations

import re
import sys
from typing import Any

import yaml

from ukd.recipe import Problem

# YAML 1.2's core types. PyYAML follows 1.1: 1e-4 is text, `no` is false, 010 is eight and 1:30 is ninety.
# Whole numbers end at 999 digits, as Python refuses to read those above 4300.
_PLAIN_TYPES = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,998})", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class YamlError(Exception):
    """A text whose values cannot be known; carries every reason found."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__(problems)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types and nothing that hides a value: no anchors, no tags."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own class attribute)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.refused: list[Problem] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Note what the next event may not be, then read it as usual."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        where = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            self.refused.append(Problem(where, f"the alias *{event.anchor} hides a value; write it out"))
        elif event.anchor is not None:
            message = f"the anchor &{event.anchor} is not allowed; write values out where they are used"
            self.refused.append(Problem(where, message))
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            message = f"the tag {tag} is not allowed; write the value plainly, in quotes if it is text"
            self.refused.append(Problem(where, message))
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back, quoting also what a YAML 1.1 reader would misread."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value out each time it occurs."""
        return True

    def represent_row(self, data: list[Any] | tuple[Any, ...]) -> yaml.Node:
        """A list of plain values goes on one line."""
        on_one_line = not any(isinstance(value, list | tuple | dict) for value in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=on_one_line)

    def represent_text(self, data: str) -> yaml.Node:
        """Unicode's line breaks are escaped: PyYAML would write them bare and read them as spaces."""
        style = '"' if any(mark in data for mark in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


for _name, _pattern, _first in _PLAIN_TYPES:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_representer(list, _Dumper.represent_row)
_Dumper.add_representer(tuple, _Dumper.represent_row)


def parse(text: str, key: str = "") -> tuple[Any, list[Problem]]:
    """Read one YAML document into dicts (keys are always text), lists, text, numbers, booleans and None.

    Args:
        text: The document.
        key: Dotted key that the document is the value of; empty for a whole file.

    Returns:
        The value, and the keys given more than once (the last one stands).

    Raises:
        YamlError: No YAML, or YAML with anchors, aliases or tags.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise YamlError([Problem(key, _syntax(error))]) from error
    if loader.refused:
        raise YamlError(loader.refused)
    problems: list[Problem] = []
    return (None if node is None else _plain(loader, node, key, problems)), problems


def write(value: dict[str, Any]) -> str:
    """YAML of a mapping, in its own order, that `parse` reads back to an equal one."""
    # One line a value: PyYAML would fold long ones.
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return str(text)


def _plain(loader: _Loader, node: yaml.Node, key: str, problems: list[Problem]) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, f"{key}.{i}", problems) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    value: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem(f"line {line}", "a key must be text, not a list or a mapping"))
            continue
        name = str(key_node.value)
        full = f"{key}.{name}" if key else name
        if name in lines:
            message = f"given twice, on lines {lines[name]} and {line}; keep one of them"
            problems.append(Problem(full, message))
        lines[name] = line
        value[name] = _plain(loader, value_node, full, problems)
    return value


def _syntax(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        # PyYAML begins some sentences in one attribute and ends them in the other.
        start = f"{error.context}, " if str(error.problem).startswith("but ") else ""
        return f"line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {start}{error.problem}"
    return f"not valid YAML: {' '.join(str(error).split())}"
