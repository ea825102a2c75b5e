"""What ``merge`` says, before and after."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from adaptool.reports.figures import count, number, plural, size
from adaptool.reports.speaker import Speaker
from adaptool.reports.text_gguf import lines as gguf_lines

if TYPE_CHECKING:
    from adaptool.merging.options import MergeEstimate, MergeReport


def plan(console: Speaker, estimate: MergeEstimate) -> None:
    """What a merge would do: ``--dry-run``."""
    console.result(
        f"would write {estimate.out}: {size(estimate.nbytes)} of weights, {plural(len(estimate.files), 'file')}"
    )
    console.result(
        f"  {plural(estimate.changed, 'tensor')} changed, "
        f"{count(estimate.tensors - estimate.changed)} copied as they are ({size(estimate.copied_nbytes)})"
    )
    console.result(f"  about {size(estimate.memory_nbytes)} of buffers for {plural(estimate.workers, 'worker')}")
    kinds: dict[str, list[str]] = {}
    for tensor, what in estimate.changes:
        kinds.setdefault(what, []).append(tensor)
    for what, tensors in kinds.items():
        console.result(f"  {what}: {plural(len(tensors), 'tensor')}, such as {tensors[0]}")
    for gguf in estimate.exports:
        for line in gguf_lines(gguf):
            console.result(f"  {line}")


def summary(console: Speaker, report: MergeReport) -> None:
    """What a merge did, in a few lines."""
    console.say(
        f"merged {count(report.changed)} of {plural(report.tensors, 'tensor')} into {size(report.nbytes)}"
        + (f" ({size(report.copied_nbytes)} copied as it was)" if report.copied_nbytes else "")
    )
    for gguf in report.exports:
        for line in gguf_lines(gguf):
            console.say(line)
    if report.sampled_rows:
        console.say(f"checked {plural(report.sampled_rows, 'row')} against float64: all as they must be")
    for name, found in report.checks.items():
        console.say(f"{name}: {_finding(found)}")
    if report.resumed_pieces:
        console.say(f"went on from {plural(report.resumed_pieces, 'piece')} of an earlier run")


def _finding(found: Any) -> str:
    """A passed check's sentence, or its numbers where it has none."""
    if hasattr(found, "sentence"):
        return str(found.sentence)
    return ", ".join(
        f"{field.name.replace('_', ' ')} {number(value) if isinstance(value, float) else value}"
        for field in fields(found)
        for value in (getattr(found, field.name),)
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    )
