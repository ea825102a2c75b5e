"""Results for people: the text of ``inspect``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from adaptool.reports.figures import count, layers, listed, number, numbers, plural, size
from adaptool.reports.layout import (
    BLANK,
    INDENT,
    Column,
    Line,
    Row,
    Span,
    Style,
    fact,
    heading,
    table,
    under_stacks,
    visible,
    wrap,
)
from adaptool.summary.settings import title

if TYPE_CHECKING:
    from adaptool.summary.summary import AdapterSummary, ModelSummary, Summary
    from adaptool.summary.targets import FullTensors, Target


ROLES = {
    "trained": "shared by all modules",
    "fixed": "shared, not trained",
    "frozen": "shared, not trained",
    "copy": "trained whole",
    "unfrozen": "trained in place",
    "carried": "saved along, not trained",
    "undeclared": "not accounted for",
    "stray": "ignored by PEFT",
}

LONG_VALUE = 48
"""Characters of a setting that are worth the room; -v shows all."""

UNREMARKABLE = {"weights", "adapter config", "model config", ""}


def inspection_report(summaries: Iterable[Summary], width: int, *, verbose: bool = False) -> list[Line]:
    """What ``inspect`` found, one after another."""
    lines: list[Line] = []
    for summary in summaries:
        lines += [BLANK] if lines else []
        if summary.kind == "adapter":
            lines += adapter_report(summary, width, verbose=verbose)
        elif summary.kind == "gguf":
            from adaptool.reports.text_gguf_file import gguf_report

            lines += gguf_report(summary, width, verbose=verbose)
        else:
            lines += model_report(summary, width)
    return lines


def adapter_report(summary: AdapterSummary, width: int, *, verbose: bool = False) -> list[Line]:
    """One adapter, in lines of at most ``width`` columns."""
    from adaptool.reports.text_weights import strength_lines

    lines = [_title(summary.name, [title(summary.peft_type), *summary.variants]), BLANK]
    lines += [
        line
        for label, value, style in _adapter_facts(summary, verbose=verbose)
        for line in fact(label, value, width, style)
    ]
    if summary.targets:
        lines += [BLANK, *_targets(summary, width)]
    if summary.full_tensors:
        lines += [BLANK, *_full_tensors(summary, width, verbose=verbose)]
    if summary.strength is not None:
        lines += [BLANK, *strength_lines(summary, width, verbose=verbose)]
    if summary.unaccounted:
        lines += [BLANK, heading("NOT ACCOUNTED FOR")]
        for left in summary.unaccounted:
            names = left.names if verbose else ()
            lines += _item(f"{left.reason}: {listed(left.names, most=len(names) or 6)}", width, "warn")
    return lines


def _facts(facts: Iterable[tuple[str, str, Style]], width: int) -> list[Line]:
    return [line for label, value, style in facts for line in fact(label, value, width, style)]


def _title(name: str, kinds: list[str]) -> Line:
    return (Span(visible(name), "title"), Span("  "), Span(visible(" · ".join(kinds))))


def _adapter_facts(summary: AdapterSummary, *, verbose: bool) -> Iterator[tuple[str, str, Style]]:
    revision = f" @ {summary.revision}" if summary.revision else ""
    yield "base", f"{summary.base_model}{revision}" if summary.base_model else "not named", ""
    made = f"PEFT {summary.peft_version}" if summary.peft_version else "a PEFT before 0.18, or another tool"
    yield "task", f"{summary.task_type}, saved by {made}" if summary.task_type else f"none given; saved by {made}", ""
    if summary.scalings:
        yield "rank", _scalings(summary), ""
    if not summary.targets and summary.target_modules:
        yield "targets", listed(summary.target_modules, 12), ""
    if summary.settings:
        short = ((s.name, s.value if verbose or len(s.value) <= LONG_VALUE else "…") for s in summary.settings)
        yield "settings", ", ".join(map("=".join, short)), ""
    yield from _size_facts(summary)
    yield "header hash", summary.header_digest, "dim"
    if summary.content_digest:
        yield "content hash", summary.content_digest, "dim"
    beside = [f"{file.name} ({file.what})" for file in summary.files if file.what not in UNREMARKABLE]
    others = [file.name for file in summary.files if file.what == ""]
    if beside or others:
        yield "beside it", listed([*beside, *others], 8), ""
    if pickled := [file.name for file in summary.files if file.pickled]:
        yield "pickled", f"{listed(pickled)}: loading with torch.load may run code; adaptool does not", "warn"
    yield from _verdict(summary)


def _scalings(summary: AdapterSummary) -> str:
    root = "alpha/√r" if "rsLoRA" in summary.variants else "alpha/r"
    many = len(summary.scalings) > 1
    texts = []
    for group in summary.scalings[:4]:
        alpha = "" if group.alpha is None else f", alpha {number(group.alpha)}"
        scale = "" if group.scale is None else f", scale {number(group.scale)}" + ("" if many else f" ({root})")
        texts.append(f"{group.rank}{alpha}{scale}" + (f" in {plural(group.modules, 'module')}" if many else ""))
    more = len(summary.scalings) - 4
    return "; ".join(texts) + (f"; and {more} other combinations" if more > 0 else "")


def _size_facts(summary: AdapterSummary) -> Iterator[tuple[str, str, Style]]:
    if summary.weights == "read":
        kinds = ", ".join(share.dtype for share in summary.dtypes)
        yield "size", f"{size(summary.nbytes)} in {plural(summary.tensors, 'tensor')}, {kinds}", ""
    else:
        expected = "; the figures are what its config makes of the base" if summary.weights == "expected" else ""
        yield "size", f"no weights here{expected}", "warn"
    counted = summary.parameters
    if counted.total is not None and counted.trainable is not None:
        share = f"{count(counted.trainable)} of {count(counted.total)} parameters = {counted.percent:.4f} %"
        yield "trains", share, "good"
    elif counted.trainable is not None:
        yield "trains", f"{plural(counted.trainable, 'parameter')}", "good"
    if counted.note:
        yield "" if counted.trainable is not None else "trains", counted.note, "dim"


def _verdict(summary: AdapterSummary) -> Iterator[tuple[str, str, Style]]:
    """Whether a merge would go through, as far as can be told from here."""
    cover = summary.coverage
    if cover is not None and cover.modules:
        found = "all" if cover.found == cover.modules else f"{count(cover.found)} of"
        yield (
            "on the base",
            f"{found} {plural(cover.modules, 'module')} found in {cover.base}",
            ("" if cover.found == cover.modules else "warn"),
        )
        if cover.absent:
            yield "not there", listed(cover.absent, 4), "warn"
    for note in cover.notes if cover is not None else ():
        yield "note", note, "dim"
    if summary.refusal is not None:
        yield "merge", f"refused: {summary.refusal.reason}", "warn"
        yield "", f"way out: {summary.refusal.way_out}", ""
    elif summary.weights != "read":
        yield "merge", "there is nothing to merge without weights", "warn"
    elif any(left.fatal for left in summary.unaccounted):
        yield "merge", "would fail over what is not accounted for, below", "warn"
    elif cover is not None and cover.problem:
        yield "merge", f"would fail: {cover.problem}", "warn"
    elif cover is not None:
        yield "merge", "would go through", "good"
    else:
        yield "merge", "nothing in the config speaks against it", ""


def _targets(summary: AdapterSummary, width: int) -> list[Line]:
    columns = [Column("TARGETS", elastic=True), Column("LAYERS", keep=8), Column("RANK", right=True, keep=6),
               Column("ALPHA", right=True, keep=3), Column("SCALE", right=True, keep=4),
               Column("PARAMETERS", right=True, keep=7)]  # fmt: skip
    return table(columns, under_stacks((target.stack, _target(target)) for target in summary.targets), width)


def _target(target: Target) -> list[str]:
    per_layer = target.modules // max(1, len(target.layers))
    times = f" ×{per_layer}" if per_layer > 1 and target.layers else ""
    return [
        f"{target.name}{times}", layers(target.layers, target.missing), numbers(target.ranks),
        numbers(target.alphas), numbers(target.scales), count(target.parameters),
    ]  # fmt: skip


def _full_tensors(summary: AdapterSummary, width: int, *, verbose: bool) -> list[Line]:
    columns = [Column("WHOLE TENSORS", elastic=True), Column("WHAT", keep=8), Column("SHAPE", keep=5),
               Column("TYPE", keep=4), Column("SIZE", right=True, keep=7)]  # fmt: skip
    biases = [full for full in summary.full_tensors if full.role == "unfrozen"]
    shown = [full for full in summary.full_tensors if verbose or full.role != "unfrozen"]
    rows: list[Row] = [_full(full) for full in shown]
    if biases and not verbose:
        # one row for all: they are many, small, and always the same story
        many, nbytes = sum(full.tensors for full in biases), sum(full.nbytes for full in biases)
        types = ", ".join(sorted({kind for full in biases for kind in full.dtypes}))
        rows.append([f"biases ×{count(many)}", ROLES["unfrozen"], "", types, size(nbytes)])
    return table(columns, rows, width)


def _full(full: FullTensors) -> list[str]:
    name = full.name + (f" ×{full.tensors}" if full.tensors > 1 else "")
    shape = "×".join(map(str, full.shapes[0])) if len(full.shapes) == 1 else "several"
    return [name, ROLES[full.role], shape, ", ".join(full.dtypes), size(full.nbytes)]


def _item(text: str, width: int, style: Style) -> list[Line]:
    return [
        (Span(INDENT + ("- " if i == 0 else "  ")), Span(line, style)) for i, line in enumerate(wrap(text, width - 4))
    ]


def model_report(summary: ModelSummary, width: int) -> list[Line]:
    """One model, in short."""
    kind = ", ".join(summary.architectures) or summary.model_type or "a model without a config.json"
    facts: list[tuple[str, str, Style]] = []
    if summary.layers:
        facts.append(("layers", count(summary.layers), ""))
    if summary.vocabulary:
        tied = ", output head tied to the embedding" if summary.tied else ""
        facts.append(("vocabulary", f"{count(summary.vocabulary)}{tied}", ""))
    if summary.parameters:
        facts.append(("parameters", count(summary.parameters), "good"))
    if summary.weights == "read":
        kinds = ", ".join(f"{share.dtype} ({size(share.nbytes)})" for share in summary.dtypes)
        facts.append(("size", f"{size(summary.nbytes)} in {plural(summary.tensors, 'tensor')}: {kinds}", ""))
    else:
        facts.append(("size", "no weights here, only a config", "warn"))
    if summary.quantised:
        facts.append(("quantised", summary.quantised, "warn"))
    facts.append(("header hash", summary.header_digest, "dim"))
    if summary.content_digest:
        facts.append(("content hash", summary.content_digest, "dim"))
    if beside := [f"{file.name} ({file.what})" for file in summary.files if file.what not in UNREMARKABLE]:
        facts.append(("beside it", listed(beside, 8), ""))
    facts += [("note", note, "warn") for note in summary.notes]
    return [
        _title(summary.name, [kind]),
        BLANK,
        *(line for one in facts for line in fact(one[0], one[1], width, one[2])),
    ]
