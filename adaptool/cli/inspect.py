"""``adaptool inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adaptool.cli.console import Console
from adaptool.cli.options import base_option, json_option
from adaptool.errors import AdaptoolError

if TYPE_CHECKING:
    from adaptool.summary.summary import Inspection, Summary


@click.command(epilog="Example:  adaptool inspect ./adapter --base ./model --weights")
@click.argument("paths", metavar="ADAPTER|MODEL...", nargs=-1, required=True)
@click.option("--weights", is_flag=True, help="Read the weights too: norms, ranks, energy by layer, zeros, NaN.")
@base_option(required=False, help="The model it was trained on, or its config.json: trained share, coverage, ‖ΔW‖/‖W‖.")
@json_option
@click.pass_obj
def inspect(console: Console, paths: tuple[str, ...], weights: bool, base: str | None, as_json: bool) -> int:
    """Show what an adapter is; a model gets a short summary.

    Reads headers only, unless --weights is given. With -v every module and every name is listed.
    """
    from adaptool.summary.summary import Failure, Inspection, inspect_path, open_model
    from adaptool.tensors.locate import locate

    model = None if base is None else open_model(locate(str(base)))
    results: list[Summary] = []
    failures: list[Failure] = []
    for path in paths:
        try:
            results.append(inspect_path(locate(path), model, weights=weights))
        except AdaptoolError as error:
            if len(paths) == 1:
                raise
            failures.append(Failure(path, error.message, error.hint))
    _show(console, Inspection(tuple(results), tuple(failures)), as_json=as_json)
    for failure in failures:
        console.fail(failure.message, failure.hint, code=3)
    return 3 if failures else 0


def _show(console: Console, found: Inspection, *, as_json: bool) -> None:
    """Styles become colours on a terminal; the report has escaped what files say."""
    if as_json:
        from adaptool.reports.json import to_json

        console.result_json(to_json("inspect", found))
        return
    from adaptool.reports.layout import coloured, plain
    from adaptool.reports.text import inspection_report

    lines = inspection_report(found.results, console.width, verbose=console.verbose)
    if found.results:
        click.echo(coloured(lines) if console.paints else plain(lines))
