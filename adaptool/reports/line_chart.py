"""A line chart as inline SVG: several series over the same places, told apart by their dashes as well as by colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from adaptool.reports.figures import number
from adaptool.reports.html import Markup, scrolling, tag

WIDTH, HEIGHT = 900, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 56
SPACE = 56
"""Units a label below the axis needs."""
CLOSEST = 9
"""Units between two points, below which the chart grows wider than the page and scrolls."""
TICKS = 5
SERIES = 4
"""Styles in page.css: ``.s0`` to ``.s3``."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line: a value for each label (None is a gap), and what to say on pointing at it."""

    name: str
    values: tuple[float | None, ...]
    titles: tuple[str, ...] = ()


def line_chart(
    labels: Sequence[str], series: Sequence[Series], *, caption: str, shown: Callable[[float], str] = number
) -> Markup:
    """``series`` over ``labels``, from zero to their maximum; ``shown`` words a value of the axis ("12 %")."""
    known = [value for one in series for value in one.values if value is not None and math.isfinite(value)]
    top = _ceiling(max(known, default=0.0))
    width = max(WIDTH, LEFT + RIGHT + CLOSEST * len(labels))
    step = (width - LEFT - RIGHT) / max(1, len(labels) - 1)

    def x(index: int) -> float:
        return LEFT + (step * index if len(labels) > 1 else (width - LEFT - RIGHT) / 2)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    drawing = tag(
        "svg",
        tag("title", caption),
        (_gridline(width, y(top * i / (TICKS - 1)), shown(top * i / (TICKS - 1))) for i in range(TICKS)),
        _labels(labels, x, step),
        (tag("g", _line(one, x, y), class_=f"s{i % SERIES}") for i, one in enumerate(series)),
        viewBox=f"0 0 {width} {HEIGHT}", role="img", class_="chart", style=f"min-width:{width * 0.6:.0f}px",
    )  # fmt: skip
    key = tag(
        "ul",
        (tag("li", _sample(i % SERIES), one.name) for i, one in enumerate(series)),
        class_="legend",
    )
    return tag("figure", tag("figcaption", caption, key), scrolling(drawing, caption))


def _ceiling(value: float) -> float:
    """The round number at or above ``value``; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if factor * power >= value * (1 - 1e-9))


def _gridline(width: float, y: float, text: str) -> list[Markup]:
    line = tag("line", x1=LEFT, x2=width - RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid")
    return [line, tag("text", text, x=LEFT - 8, y=f"{y + 4:.1f}", text_anchor="end")]


def _labels(labels: Sequence[str], x: Callable[[int], float], step: float) -> Iterator[Markup]:
    every = max(1, math.ceil(SPACE / step)) if step else 1
    for i, label in enumerate(labels):
        if i % every == 0:
            text = label if len(label) <= 12 else f"{label[:11]}…"
            yield tag("text", text, tag("title", label), x=f"{x(i):.1f}", y=HEIGHT - BOTTOM + 20, text_anchor="middle")


def _line(series: Series, x: Callable[[int], float], y: Callable[[float], float]) -> Iterator[Markup]:
    points = [
        None if value is None or not math.isfinite(value) else (x(i), y(value)) for i, value in enumerate(series.values)
    ]
    moves = [
        f"{'M' if i == 0 or points[i - 1] is None else 'L'}{point[0]:.1f} {point[1]:.1f}"
        for i, point in enumerate(points)
        if point is not None
    ]
    yield tag("path", d="".join(moves))
    for i, point in enumerate(points):
        if point is not None:
            title = tag("title", series.titles[i]) if i < len(series.titles) else None
            yield tag("circle", title, cx=f"{point[0]:.1f}", cy=f"{point[1]:.1f}", r=4)


def _sample(style: int) -> Markup:
    line, dot = tag("path", d="M1 6H29"), tag("circle", cx=15, cy=6, r=4)
    return tag("svg", tag("g", line, dot, class_=f"s{style}"), viewBox="0 0 30 12", class_="sample", aria_hidden="true")
