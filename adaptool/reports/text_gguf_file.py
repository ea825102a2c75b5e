"""A GGUF as ``inspect`` shows it."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.reports.figures import count, plural, size
from adaptool.reports.layout import BLANK, Column, Line, Span, Style, fact, heading, table, visible
from adaptool.summary.gguf import GgufFileSummary

WHAT = {"model": "model", "adapter": "LoRA", "vocabulary": "vocabulary only", "imatrix": "importance matrix"}


def gguf_report(summary: GgufFileSummary, width: int, *, verbose: bool = False) -> list[Line]:
    """One GGUF, in lines of at most ``width`` columns; ``verbose`` lists every key and every tensor."""
    kinds = ["GGUF", WHAT[summary.what], *filter(None, (summary.architecture, summary.file_type))]
    lines: list[Line] = [(Span(visible(summary.name), "title"), Span("  "), Span(visible(" · ".join(kinds)))), BLANK]
    for label, value, style in _facts(summary):
        lines += fact(label, value, width, style)
    if summary.dtypes:
        rows = [
            [share.dtype, count(share.tensors), size(share.nbytes), f"{share.nbytes / max(1, _nbytes(summary)):.1%}"]
            for share in summary.dtypes
        ]
        columns = [
            Column("type"),
            Column("tensors", right=True),
            Column("bytes", right=True),
            Column("share", right=True),
        ]
        lines += [BLANK, heading("TENSORS BY TYPE"), *table(columns, rows, width)]
    if verbose:
        lines += [BLANK, heading("KEYS")]
        keys = [[key.name, key.value] for key in summary.keys]
        lines += table([Column("key"), Column("value", elastic=True)], keys, width)
        rows = [[t.name, t.dtype, " × ".join(map(str, t.shape))] for t in summary.tensor_list]
        lines += [BLANK, heading("TENSORS"), *table([Column("tensor"), Column("type"), Column("shape")], rows, width)]
    return lines


def _nbytes(summary: GgufFileSummary) -> int:
    return sum(share.nbytes for share in summary.dtypes)


def _facts(summary: GgufFileSummary) -> Iterator[tuple[str, str, Style]]:
    if summary.title:
        yield "name", summary.title, ""
    if summary.parameters:
        bits = f", {summary.bits_per_weight:.2f} bits per weight" if summary.bits_per_weight else ""
        yield "parameters", f"{count(summary.parameters)}{bits}", "good"
    files = f" in {summary.parts} files" if summary.parts > 1 else ""
    yield (
        "size",
        f"{size(summary.nbytes)}{files}, {plural(summary.tensors, 'tensor')}, aligned to {summary.alignment}",
        "",
    )
    if summary.sizes:
        yield "shape", ", ".join(f"{each.name} {each.value}" for each in summary.sizes), ""
    if summary.lora_ranks:
        yield "rank", ", ".join(map(str, summary.lora_ranks)), ""
    if summary.lora_scale:
        yield "scale", summary.lora_scale, ""
    if summary.tokenizer:
        yield "tokenizer", ", ".join(f"{each.name} {each.value}" for each in summary.tokenizer), ""
    for each in summary.imatrix:
        yield "imatrix", f"{each.name} {each.value}", ""
    for each in summary.origin:
        yield each.name, each.value, "dim" if each.name == "written by" else ""
    if not summary.origin:
        yield "made from", "the file does not say", "dim"
