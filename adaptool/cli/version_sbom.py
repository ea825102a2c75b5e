"""``adaptool version sbom``."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import click

from adaptool.cli.console import Console
from adaptool.errors import UsageError


@click.command(epilog="Example:  adaptool version sbom ./adapter --out adapter/sbom.cdx.json")
@click.argument("adapter", metavar="[ADAPTER|MERGED]", default=".")
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Write it; default: print it.")
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print it too where it is written.")
@click.pass_obj
def sbom(console: Console, /, adapter: str, out: Path | None, overwrite: bool, as_json: bool) -> int:
    """Write the lineage as a CycloneDX 1.6 ML-BOM: the adapter, its files, its base, its parents and their bases.

    The same adapter gives the same bytes, so it can be committed. No time is in it, unless SOURCE_DATE_EPOCH is set.
    """
    from adaptool.tensors.locate import locate
    from adaptool.versioning.bill.sbom import bill_of_materials
    from adaptool.writing.text_file import refuse_existing, write_text

    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    bill = bill_of_materials(locate(adapter), timestamp=_timestamp(os.environ.get("SOURCE_DATE_EPOCH")))
    text = json.dumps(bill, indent=2) + "\n"
    if out is not None:
        write_text(out, text)
        console.say(f"{len(bill['components'])} components")
    if out is None or as_json:
        click.echo(text, nl=False)
    else:
        console.result(str(out))
    return 0


def _timestamp(seconds: str | None) -> str | None:
    """The time a reproducible build says it is."""
    if not seconds:
        return None
    try:
        return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"SOURCE_DATE_EPOCH: {seconds[:40]!r} is not a number of seconds") from None
