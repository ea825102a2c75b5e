"""GGUFs in words: what a conversion would write, and what it wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptool.reports.figures import count, plural, size

if TYPE_CHECKING:
    from adaptool.gguf.job import ConvertReport
    from adaptool.gguf.output import GgufSummary
    from adaptool.reports.speaker import Speaker


def plan(console: Speaker, estimate: ConvertReport) -> None:
    """What a conversion would do: ``--dry-run``."""
    console.result(f"would write {estimate.out}: {size(estimate.nbytes)}, {plural(len(estimate.files), 'file')}")
    for gguf in estimate.ggufs:
        for line in lines(gguf):
            console.result(f"  {line}")


def summary(console: Speaker, report: ConvertReport) -> None:
    """What a conversion did."""
    for gguf in report.ggufs:
        for line in lines(gguf):
            console.say(line)
    if report.resumed_pieces:
        console.say(f"went on from {plural(report.resumed_pieces, 'piece')} of an earlier run")


def lines(gguf: GgufSummary) -> list[str]:
    """One GGUF: its type and size, the types really in it, and why those that depart from the recipe do."""
    where = gguf.files[0] if len(gguf.files) == 1 else f"{gguf.files[0]} … ({len(gguf.files)} files)"
    kinds = ", ".join(f"{number} {name}" for name, number, _ in gguf.types)
    result = [
        f"{where}: {gguf.recipe}, {size(gguf.nbytes)}, {gguf.bits_per_weight:.2f} bits per weight",
        f"  {plural(gguf.tensors, 'tensor')}: {kinds}",
    ]
    for name, why, number in gguf.departures:
        result.append(f"  {count(number)} as {name}: {why}")
    return result
