"""``adaptool version init``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option
from adaptool.cli.version_options import carry_out, digest_of_base, folders_of, said_of, said_options
from adaptool.errors import UsageError

if TYPE_CHECKING:
    from adaptool.versioning.planned import Planned


@click.command(epilog="Example:  adaptool version init adapters/sql --base-revision 0a1b2c… --metric accuracy=0.83")
@click.argument("adapters", metavar="[ADAPTER]...", nargs=-1)
@click.option("--name", help="What it is called; default: its folder, or in the root the repository.")
@click.option("--version", metavar="X.Y.Z", help="The first version; default: 0.1.0.")
@said_options
@click.option("--overwrite", is_flag=True, help="Begin anew where there is a manifest already.")
@json_option
@click.pass_obj
def init(console: Console, /, adapters: tuple[str, ...], name: str | None, base_digest: str | None, overwrite: bool,
         dry_run: bool, as_json: bool, **said: Any) -> int:  # fmt: skip
    """Put adapters under version: write adaptool.json beside each.

    ADAPTER is a folder, or a tree with many; default: this folder. One that validate --fix or compose made keeps what
    its manifest tells of its origin.
    """
    from adaptool.versioning.beginning import begin
    from adaptool.versioning.naming import distinct_names
    from adaptool.versioning.record import version_beside

    folders = folders_of(adapters)
    if name is not None and len(folders) > 1:
        raise UsageError(f"--name: {len(folders)} adapters cannot have one name", hint="name one adapter")
    digest, names = digest_of_base(base_digest), distinct_names(folders)

    def plan(folder: Path) -> Planned | None:
        if len(folders) > 1 and not overwrite and (known := version_beside(folder)) is not None:
            console.say(f"{folder}: has a version already, {known}")
            return None
        told = said_of(folder, name=name, base_digest=digest, **said)
        return begin(folder, told, name=names[folder], overwrite=overwrite)

    return carry_out(console, "version-init", folders, plan, dry_run=dry_run, as_json=as_json)
