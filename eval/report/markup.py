"""HTML and SVG as a tree, so that whatever text a run brings along is escaped by whoever writes the tree."""

from __future__ import annotations

from xml.etree import ElementTree

Node = ElementTree.Element
Child = Node | str


def node(tag: str, *children: Child, **attributes: object) -> Node:
    """Make an element; `class_` and `data_label` become the attributes `class` and `data-label`.

    Args:
        tag: Its name.
        children: Elements and texts, in order.
        attributes: Its attributes; None leaves one out.
    """
    made = Node(
        tag,
        {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items() if value is not None},
    )
    last: Node | None = None
    for child in children:
        if not isinstance(child, str):
            made.append(child)
            last = child
        elif last is None:
            made.text = (made.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return made


def document(title: str, style: str, *body: Child) -> str:
    """Write a whole page.

    Args:
        title: Its title.
        style: Its style sheet, trusted: it is not escaped.
        body: What stands in it.
    """
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("title", title),
        node("style", style),
    )
    page = node("html", head, node("body", *body), lang="en")
    return "<!doctype html>\n" + ElementTree.tostring(page, encoding="unicode", method="html") + "\n"
