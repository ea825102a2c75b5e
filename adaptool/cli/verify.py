"""``adaptool verify``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptool.cli.console import Console
from adaptool.cli.options import base_option, json_option, weighted
from adaptool.errors import UsageError
from adaptool.tensors.sniff import sniff

if TYPE_CHECKING:
    from adaptool.reports.layout import Line

ROUNDINGS = click.Choice(["once", "safe"])


@click.command(epilog="Example:  adaptool verify ./merged --base ./model --adapter ./adapter")
@click.argument("checkpoint", metavar="MERGED|FILE.gguf")
@base_option(required=True, help="The model it was merged into, or converted from.")
@click.option(
    "--adapter", "adapters", metavar="ADAPTER[:WEIGHT]", multiple=True,
    help="What was merged; once for each adapter, in the order they were merged in. None: a GGUF of BASE itself.",
)  # fmt: skip
@click.option("--rounding", type=ROUNDINGS, default="once", help="Expect PEFT's default, or its safe_merge=True.")
@click.option("--onto-nf4", is_flag=True, help="It was merged onto the NF4 round trip of the base.")
@click.option("--double-quant", is_flag=True, help="With --onto-nf4: the block scales were quantised as well.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="What the GGUF was quantised with.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads; default: one per processor.")
@json_option
@click.pass_obj
def verify(console: Console, /, checkpoint: str, base: str, adapters: tuple[str, ...], imatrix: Path | None,
           as_json: bool, **how: Any) -> int:  # fmt: skip
    """Check a merged model, whoever made it, against its base and adapters: every tensor, in constant memory.

    Names, sharding, file format and type may differ from adaptool's own. A tensor is bit-equal, within one rounding,
    or wrong, and what is wrong is named: not applied, scaled, applied twice, another adapter, another base …

    A GGUF is checked whatever its types: bit for bit what llama-quantize writes of this model, or within what its types
    lose, or wrong: not applied, rows permuted, tensors exchanged, metadata that contradict the config …

    Exit code 0: it is that merge. 1: it is not. 3: it could not be checked.
    """
    from adaptool import api
    from adaptool.parity.verify import open_job
    from adaptool.tensors.locate import locate

    merged = [weighted(item) for item in adapters]
    path = locate(checkpoint)
    if path.is_file() and sniff(path) == "gguf":
        from adaptool.reports.verify_gguf_text import gguf_verification_report

        report = partial(gguf_verification_report, name=checkpoint, width=console.width, verbose=console.verbose)
        checking = api.verify_gguf(path, base, merged, imatrix=imatrix, **how)
        return _answer(console, checking, checking.notes, "verify-gguf", report, as_json=as_json)
    if imatrix is not None:
        raise UsageError("--imatrix goes with a GGUF", hint="leave it out")
    if not merged:
        raise UsageError(f"{checkpoint}: no --adapter given", hint="say what was merged; only a GGUF goes without")
    workers, rounding = how.pop("workers"), how.pop("rounding")
    inputs = api.open_inputs(merged, base, **how)
    job = open_job(inputs.base, inputs.adapters, path, rounding=rounding, workers=workers)
    from adaptool.reports.verify_text import verification_report

    report = partial(verification_report, name=checkpoint, width=console.width)
    return _answer(console, job, inputs.notes, "verify", report, as_json=as_json)


def _answer(
    console: Console, job: Any, notes: Iterable[str], kind: str, report: Callable[[Any], list[Line]], *, as_json: bool
) -> int:
    """Run a verification and tell what it found: as JSON of ``kind``, or in the lines ``report`` makes of it."""
    for note in notes:
        console.note(note)
    console.progress(job, job.nbytes)
    if as_json:
        from adaptool.reports.json import to_json

        console.result_json(to_json(kind, job.report))
    else:
        _show(console, report(job.report))
    return 0 if job.report.ok else 1


def _show(console: Console, lines: Iterable[Line]) -> None:
    from adaptool.reports.layout import coloured, plain

    click.echo(coloured(lines) if console.paints else plain(lines))
