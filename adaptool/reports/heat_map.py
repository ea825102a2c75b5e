"""A heat map as an HTML table: rows × columns of shares, in colours that are told apart by their lightness alone.

Each cell holds its figure as text, so that a screen reader, a search and a copy find it where the eye sees a colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adaptool.reports.html import Markup, scrolling, tag

STEPS = 9
"""Colours of the scale: ``.h0`` to ``.h8`` in page.css."""
WIDE_RANGE = 20.0
"""Largest over smallest value from which the scale is logarithmic."""
DECADES = 4
"""What a logarithmic scale spans at most below its end."""
NAMES, WIDEST, NARROWEST, NARROWEST_FIGURES = 220, 60, 8, 28
"""Pixels of the rows' names, and of a column: at most, and at least, also where it shows figures."""
READABLE, NAMED = 20, 12
"""Columns up to which the figures are shown in the cells; of more, how many have their names above."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One cell: a share with its colour, or a mark ("+", "−") where there is none."""

    value: float | None
    title: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """From a share to one of the colours; ``low`` is where the first one ends on a logarithmic scale."""

    low: float
    high: float

    @property
    def logarithmic(self) -> bool:
        """Whether each colour is a factor more than the last."""
        return self.low > 0

    def step(self, value: float) -> int:
        """The colour of a value: 0 to STEPS − 1."""
        if self.high <= 0:
            return 0
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return min(STEPS - 1, int(share * STEPS))

    def bounds(self) -> list[float]:
        """Where each colour ends."""
        shares = [(i + 1) / STEPS for i in range(STEPS)]
        if self.logarithmic:
            return [self.low * (self.high / self.low) ** share for share in shares]
        return [self.high * share for share in shares]


def scale_of(values: Iterable[float | None]) -> Scale:
    """The scale on which these can be told apart: logarithmic where they range widely."""
    known = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    if not known:
        return Scale(0.0, 0.0)
    low, high = min(known), max(known)
    return Scale(max(low, high / 10**DECADES) if high > WIDE_RANGE * low else 0.0, high)


def heat_map(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[Tile | None]]],
    scale: Scale,
    *,
    corner: str,
) -> Markup:
    """``rows`` of tiles under ``columns``; None where there is nothing to show. ``corner`` names what both are."""
    named = READABLE if len(columns) <= READABLE else NAMED
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1 << 40) if len(columns) <= named * step)
    head = tag(
        "tr",
        tag("th", corner, scope="col"),
        (
            tag("th", tag("span", name, class_="hidden" if i % every else None), scope="col")
            for i, name in enumerate(columns)
        ),
    )
    body = (tag("tr", tag("th", name, scope="row"), (_cell(tile, scale) for tile in tiles)) for name, tiles in rows)
    readable = len(columns) <= READABLE
    narrowest = NAMES // 2 + (NARROWEST_FIGURES if readable else NARROWEST) * len(columns)
    content = tag(
        "table", tag("caption", caption, class_="hidden"), tag("thead", head), tag("tbody", body),
        class_="heat figures" if readable else "heat",
        style=f"min-width:{narrowest}px;max-width:{NAMES + WIDEST * len(columns)}px",
    )  # fmt: skip
    return scrolling(content, caption)


def _cell(tile: Tile | None, scale: Scale) -> Markup:
    if tile is None:
        return tag("td", class_="none")
    if tile.value is None or not math.isfinite(tile.value):
        return tag("td", tile.mark or "?", class_="mark", title=tile.title)
    if tile.value == 0:
        return tag("td", "=", class_="same", title=tile.title)
    return tag("td", short(tile.value), class_=f"h{scale.step(tile.value)}", title=tile.title)


def short(share: float) -> str:
    """A share in percent in the fewest characters: "12", "3.4", ".02", "<.01"."""
    value = 100 * share
    if value >= 9.95:
        return f"{value:.0f}" if value < 9999.5 else f"{value:.0e}".replace("e+0", "e")
    if value >= 0.095:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.2f}".lstrip("0") if value >= 0.005 else "<.01"


def legend(scale: Scale, marks: Sequence[tuple[str, str, str]] = ()) -> Markup:
    """What the colours mean, and each mark's (class, sign, meaning)."""
    bounds = scale.bounds() if scale.high > 0 else []
    steps = [tag("li", tag("i", class_=f"h{i}"), f"≤ {short(end)} %") for i, end in enumerate(bounds)]
    others = [tag("li", tag("i", sign, class_=kind), meaning) for kind, sign, meaning in marks]
    return tag("ul", steps, others, class_="legend")
