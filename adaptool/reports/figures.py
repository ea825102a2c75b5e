"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def count(number: int) -> str:
    """41,943,040."""
    return f"{number:,}"


def size(nbytes: float) -> str:
    """Bytes in decimal units: 83.9 MB."""
    power = 0
    while nbytes >= 999.5 and power < len(UNITS) - 1:
        nbytes, power = nbytes / 1000, power + 1
    return f"{nbytes:.0f} {UNITS[power]}" if power == 0 or nbytes >= 99.95 else f"{nbytes:.1f} {UNITS[power]}"


def number(value: float | None, digits: int = 4) -> str:
    """Four digits that mean something; "" for what is not known."""
    return "" if value is None else f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A share of one, as a percentage."""
    return "" if share is None else f"{100 * share:.3g} %"


def numbers(values: Sequence[float]) -> str:
    """The different values of a column."""
    return ", ".join(number(value) for value in values)


def plural(many: int, noun: str) -> str:
    """ "1 module", "2 modules"."""
    return f"{count(many)} {noun}{'' if many == 1 else 's'}"


def layers(present: Sequence[int], missing: Sequence[int]) -> str:
    """ "0-31", "0-31, missing 7", or "1, 3" where most are missing."""
    if not present:
        return ""
    if missing and len(missing) <= len(present):
        # missing may begin before or end after what is present
        everything = sorted({*present, *missing})
        return f"{ranges(everything)}, missing {ranges(missing)}"
    return ranges(present)


def ranges(values: Iterable[int]) -> str:
    """Whole numbers in order, runs of three and more as first-last."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {count(len(names) - most)} more"
