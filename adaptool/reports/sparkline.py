"""Sparklines: a row of numbers as a row of bars."""

from __future__ import annotations

from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
NOTHING = "·"
"""Exactly zero, or no number there: told apart from merely small."""


def sparkline(values: Sequence[float | None], width: int) -> str:
    """``values`` from 0 to their maximum in at most ``width`` characters; too many, and neighbours are averaged."""
    binned = _binned(values, width)
    top = max((value for value in binned if value), default=0.0)
    return "".join(NOTHING if not value or top == 0 else _bar(value / top) for value in binned)


def _bar(share: float) -> str:
    return BARS[min(len(BARS) - 1, int(share * len(BARS)))]


def _binned(values: Sequence[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    bins = []
    for i in range(width):
        inside = values[i * len(values) // width : (i + 1) * len(values) // width]
        known = [value for value in inside if value is not None]
        bins.append(sum(known) / len(known) if known else None)
    return bins
