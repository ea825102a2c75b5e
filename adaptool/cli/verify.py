"""``adaptool verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adaptool.cli.console import Console
from adaptool.cli.options import base_option, json_option, weighted

if TYPE_CHECKING:
    from adaptool.merging.merged import Rounding

ROUNDINGS = click.Choice(["once", "safe"])


@click.command(epilog="Example:  adaptool verify ./merged --base ./model --adapter ./adapter")
@click.argument("checkpoint", metavar="MERGED")
@base_option(required=True, help="The model it was merged into: a folder, a weights file, or an index file.")
@click.option(
    "--adapter", "adapters", metavar="ADAPTER[:WEIGHT]", multiple=True, required=True,
    help="What was merged; once for each adapter, in the order they were merged in.",
)  # fmt: skip
@click.option("--rounding", type=ROUNDINGS, default="once", help="Expect PEFT's default, or its safe_merge=True.")
@click.option("--onto-nf4", is_flag=True, help="It was merged onto the NF4 round trip of the base.")
@click.option("--double-quant", is_flag=True, help="With --onto-nf4: the block scales were quantised as well.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads; default: one per processor.")
@json_option
@click.pass_obj
def verify(console: Console, checkpoint: str, base: str, adapters: tuple[str, ...], rounding: Rounding, onto_nf4: bool,
           double_quant: bool, workers: int | None, as_json: bool) -> int:  # fmt: skip
    """Check a merged model, whoever made it, against its base and adapters: every tensor, in constant memory.

    Names, sharding, file format and type may differ from adaptool's own. A tensor is bit-equal, within one rounding,
    or wrong, and what is wrong is named: not applied, scaled, applied twice, another adapter, another base …

    Exit code 0: it is that merge. 1: it is not. 3: it could not be checked.
    """
    from adaptool.api import open_inputs
    from adaptool.parity.verify import open_job
    from adaptool.tensors.locate import locate

    inputs = open_inputs([weighted(item) for item in adapters], base, onto_nf4=onto_nf4, double_quant=double_quant)
    job = open_job(inputs.base, inputs.adapters, locate(checkpoint), rounding=rounding, workers=workers)
    for note in inputs.notes:
        console.note(note)
    console.progress(job, job.nbytes)
    if as_json:
        from adaptool.reports.json import to_json

        console.result_json(to_json("verify", job.report))
    else:
        from adaptool.reports.layout import coloured, plain
        from adaptool.reports.verify_text import verification_report

        lines = verification_report(job.report, checkpoint, console.width)
        click.echo(coloured(lines) if console.paints else plain(lines))
    return 0 if job.report.ok else 1
