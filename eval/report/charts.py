"""Small charts as inline SVG: they need no script, no network and no library, and take the page's own colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ukd.eval.report.collect import Curve
from ukd.eval.report.markup import Node, node
from ukd.eval.report.spaces import Floats64

WIDTH, HEIGHT = 360, 228
LEFT, RIGHT, TOP, BOTTOM = 46, 350, 10, 194
"""Where the axes are; a chart is never drawn smaller than 320 pixels wide, so that 11 pixels stay readable."""
MAX_POINTS = 200
"""Points of a line: about one in two pixels."""
NUM_COLOURS = 10


def figure(caption: str, *drawn: Node) -> Node:
    """Put a caption above what is drawn."""
    return node("figure", node("figcaption", caption), *drawn)


def line_chart(caption: str, lines: Mapping[int, Curve], x_name: str, dashed: Curve = ()) -> Node:
    """Draw lines over one pair of axes, x from 0; a line of one point is a dot.

    Args:
        caption: What is shown.
        lines: Points (x, y) of each line, by the number of its colour.
        x_name: What stands under the x axis.
        dashed: A line to compare with.
    """
    every = [point for points in (*lines.values(), dashed) for point in points]
    axes = _Axes([0.0, *(x for x, _ in every)], [y for _, y in every])
    drawn = axes.drawn(x_name)
    for line, classes in [(dashed, "line dashed"), *((each, f"line c{c % NUM_COLOURS}") for c, each in lines.items())]:
        if line:
            step = math.ceil(len(line) / MAX_POINTS)
            points = [*line[:: step or 1], line[-1]]
            d = "M" + "L".join(axes.place(x, y) for x, y in points)
            drawn.append(node("path", d=d, class_=classes))
        if len(line) == 1:
            drawn.append(node("path", d=f"M{axes.place(*line[0])}h0", class_=f"dots big {classes.split()[-1]}"))
    return figure(caption, _svg(caption, drawn))


def point_chart(caption: str, x: Floats64, y: Floats64, x_name: str, y_name: str, colour: int) -> Node:
    """Draw points (x, y) over equal axes, and the diagonal where both are equal."""
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    axes = _Axes([low, high], [low, high])
    drawn = axes.drawn(x_name, y_name)
    drawn.append(node("path", d=f"M{axes.place(low, low)}L{axes.place(high, high)}", class_="line dashed"))
    d = "".join(f"M{axes.place(float(a), float(b))}h0" for a, b in zip(x, y, strict=True))
    drawn.append(node("path", d=d, class_=f"dots c{colour % NUM_COLOURS}"))
    return figure(caption, _svg(caption, drawn))


def map_chart(caption: str, flat: Floats64, colours: Sequence[int | None]) -> Node:
    """Draw a map of images [n, 2] without axes, which mean nothing there; an image of colour None is grey."""
    reach = float(np.abs(flat).max()) or 1.0
    side, drawn = 320, []
    places = side / 2 + flat / reach * (side / 2 - 6)
    for colour in sorted(set(colours), key=lambda each: -1 if each is None else each):
        of_it = [place for place, its in zip(places, colours, strict=True) if its == colour]
        d = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in of_it)
        drawn.append(node("path", d=d, class_="dots grey" if colour is None else f"dots c{colour}"))
    return figure(caption, _svg(caption, drawn, side, side))


def gap_chart(caption: str, rows: Sequence[tuple[str, float, float]], colour: int) -> Node:
    """Draw for every class the teacher's share as a ring, the student's as a dot, and the way between.

    Args:
        caption: What is shown.
        rows: Class, student's share, teacher's share.
        colour: Number of the student's colour.
    """
    start, pitch = 120, 20
    height = TOP + pitch * len(rows) + 26
    drawn = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = start + share * (RIGHT - start - 12)
        drawn.append(node("path", d=f"M{x:.1f} {TOP}V{height - 24}", class_="grid"))
        drawn.append(node("text", f"{100 * share:.0f}", x=f"{x:.1f}", y=height - 8, text_anchor="middle"))
    for i, (name, student, teacher) in enumerate(rows):
        y = TOP + pitch * (i + 0.5)
        ours, theirs = (start + share * (RIGHT - start - 12) for share in (student, teacher))
        short = name if len(name) <= 16 else f"{name[:15]}…"
        drawn.append(node("text", short, x=start - 8, y=f"{y + 4:.1f}", text_anchor="end"))
        drawn.append(node("path", d=f"M{theirs:.1f} {y:.1f}H{ours:.1f}", class_="way"))
        drawn.append(node("circle", cx=f"{theirs:.1f}", cy=f"{y:.1f}", r=4.5, class_="ring"))
        drawn.append(node("circle", cx=f"{ours:.1f}", cy=f"{y:.1f}", r=4, class_=f"disc c{colour % NUM_COLOURS}"))
    return figure(caption, _svg(caption, drawn, WIDTH, height))


def legend(names: Mapping[int, str]) -> Node:
    """Say which colour is whose."""
    items = (node("li", node("span", class_=f"key c{c % NUM_COLOURS}"), name) for c, name in names.items())
    return node("ul", *items, class_="legend")


def ticks(low: float, high: float, most: int) -> list[float]:
    """Choose round numbers from low to high: multiples of 1, 2 or 5 times a power of ten, at most `most` + 1 of them.

    Args:
        low: Least value.
        high: Greatest value, above low.
        most: About how many are wanted.
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class _Axes:
    """Where numbers lie in a chart."""

    def __init__(self, x: Sequence[float], y: Sequence[float]) -> None:
        self._x, self._y = _range(x), _range(y)

    def place(self, x: float, y: float) -> str:
        across, up = ((value - low) / (high - low) for value, (low, high) in ((x, self._x), (y, self._y)))
        return f"{LEFT + across * (RIGHT - LEFT):.1f} {BOTTOM - up * (BOTTOM - TOP):.1f}"

    def drawn(self, x_name: str, y_name: str = "") -> list[Node]:
        drawn = []
        for value in ticks(*self._y, 5):
            x, y = self.place(self._x[0], value).split()
            drawn.append(node("path", d=f"M{x} {y}H{RIGHT}", class_="grid"))
            drawn.append(node("text", f"{value:.4g}", x=LEFT - 6, y=f"{float(y) + 4:.1f}", text_anchor="end"))
        for value in ticks(*self._x, 4):
            x, _ = self.place(value, self._y[0]).split()
            drawn.append(node("text", f"{value:.6g}", x=x, y=BOTTOM + 15, text_anchor="middle"))
        drawn.append(node("text", x_name, x=RIGHT, y=HEIGHT - 4, text_anchor="end", class_="name"))
        if y_name:
            drawn.append(node("text", y_name, x=LEFT + 4, y=TOP + 8, class_="name"))
        return drawn


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _svg(title: str, drawn: Sequence[Node], width: int = WIDTH, height: float = HEIGHT) -> Node:
    return node("svg", node("title", title), *drawn, viewBox=f"0 0 {width} {height:g}", role="img")
