"""``adaptool validate``."""

from __future__ import annotations

import gc
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptool.cli.console import Console
from adaptool.cli.options import base_option, json_option
from adaptool.errors import UsageError

if TYPE_CHECKING:
    from adaptool.rules.engine import Validation

FORMATS = click.Choice(["text", "json", "sarif", "junit", "github", "markdown"])
LEVELS = click.Choice(["error", "warning", "info"])
PATHS = click.Path(path_type=Path)
RARELY = (200_000, 20, 20)
"""Collections of garbage: the values of a hundred thousand tensors are millions of objects, and none of them is."""

RUNTIMES = "vllm, sglang, lorax, tgi, tensorrt-llm, llama.cpp, ollama, mlx, peft"


@click.command(epilog="Example:  adaptool validate ./adapter --base ./model --for vllm --max-rank 64")
@click.argument("paths", metavar="ADAPTER...", nargs=-1, required=True)
@base_option(
    required=False, help="The model it is for: modules, shapes and vocabulary are checked against its headers."
)
@click.option("--for", "consumers", metavar="CONSUMER,...", multiple=True, help=f"Where it must work: {RUNTIMES}.")
@click.option("--max-rank", type=click.IntRange(1), help="What the server is started with (vLLM's --max-lora-rank).")
@click.option("--select", metavar="CODES", multiple=True, help="Only these rules: codes or prefixes, TEN,VAL2, or ALL.")
@click.option("--ignore", metavar="CODES", multiple=True, help="Not these.")
@click.option("--fail-on", type=LEVELS, help="The mildest finding that fails (default: error).")
@click.option("--baseline", type=PATHS, help="What an earlier --json run found does not count.")
@click.option(
    "--config", "settings", type=PATHS, help="The settings; default: the nearest adaptool.toml, pyproject.toml."
)
@click.option("--format", "style", type=FORMATS, default="text", show_default=True, help="What to print.")
@click.option("--fix", is_flag=True, help="Write what has one faithful answer to --out, and check the result.")
@click.option("--out", type=PATHS, help="With --fix: the folder to write.")
@click.option("--dry-run", is_flag=True, help="With --fix: say what would be changed.")
@click.option("--overwrite", is_flag=True, help="With --fix: replace OUT, if adaptool wrote all that is in it.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads; default: one per processor.")
@json_option
@click.pass_obj
def validate(console: Console, /, paths: tuple[str, ...], base: Path | None, style: str, as_json: bool, fix: bool,
             out: Path | None, dry_run: bool, overwrite: bool, **how: Any) -> int:  # fmt: skip
    """Check adapters: files, config, tensors, values, and with --base and --for whether they will work there.

    A folder without an adapter is searched for them. Nothing is executed, and nothing written without --fix.

    Exit code 0: good. 1: findings. 3: something could not be checked, which is never "good".
    """
    gc.set_threshold(*RARELY)
    from adaptool import api
    from adaptool.rules.settings import find_settings

    style = "json" if as_json else style
    if not fix and (out is not None or dry_run or overwrite):
        raise UsageError("--out, --dry-run and --overwrite go with --fix", hint="add --fix, or leave them out")
    how["settings"] = how["settings"] or find_settings(Path.cwd())
    options = api.validation_options(today=date.today(), **how)
    if fix:
        from adaptool.cli.fixing import carry_out_fix

        code = carry_out_fix(console, paths, base, out, options, dry_run=dry_run, overwrite=overwrite, style=style)
        if code is not None:
            return code
    validation = api.validate(paths, base, options)
    show(console, validation, style)
    return validation.exit_code


def show(console: Console, validation: Validation, style: str) -> None:
    """The validation on stdout as ``style``; paths that could not be looked at on stderr too, where a person reads."""
    from adaptool.reports.validation import WRITERS, validation_text

    if style != "text":
        if text := WRITERS[style](validation):
            console.result(text)
        return
    text = validation_text(
        validation, console.width, verbose=console.verbose, quiet=console.quiet, paints=console.paints
    )
    if text:
        click.echo(text)
    for failure in validation.failures:
        console.fail(failure.message, failure.hint, code=3)
