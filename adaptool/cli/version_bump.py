"""``adaptool version bump``."""

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


@click.command(epilog="Example:  adaptool version bump adapters/sql --metric accuracy=0.85 && git commit -a")
@click.argument("adapters", metavar="[ADAPTER]...", nargs=-1)
@click.option("--auto", is_flag=True, help="As far as the change asks (the default).")
@click.option("--major", "level", flag_value="major", help="Another base, type, vocabulary; something removed.")
@click.option("--minor", "level", flag_value="minor", help="New modules, another rank, a parent merged in.")
@click.option("--patch", "level", flag_value="patch", help="Other numbers.")
@click.option("--pre", metavar="WORD", help="A pre-release of it: rc makes 1.3.0-rc.1, then 1.3.0-rc.2.")
@click.option("--to", metavar="X.Y.Z", help="This version.")
@click.option("--name", help="What it is called from now on.")
@said_options
@json_option
@click.pass_obj
def bump(console: Console, /, adapters: tuple[str, ...], auto: bool, level: Any, pre: str | None, to: str | None,
         base_digest: str | None, dry_run: bool, as_json: bool, **said: Any) -> int:  # fmt: skip
    """Read adapters again, write what they hold into their manifests, and move their versions.

    Without a level the change decides, counted from the manifest at HEAD (else from the one on disk): one change is
    one step, however often this is run. A re-saved, re-factorised or re-scaled adapter with every ΔW the same keeps
    its version. ADAPTER is a folder, or a tree with many; default: this folder.
    """
    from adaptool.versioning.bump import Wanted, is_versioned
    from adaptool.versioning.bump import bump as plan_bump
    from adaptool.versioning.committed import Repositories
    from adaptool.versioning.semver import require_label, require_version

    if sum((auto, level is not None, to is not None)) > 1 or (to is not None and pre is not None):
        raise UsageError("--auto, a level and --to exclude each other", hint="leave all out but one")
    wanted = Wanted(level, "" if pre is None else require_label(pre), None if to is None else require_version(to))
    folders, digest = folders_of(adapters), digest_of_base(base_digest)
    repositories = Repositories()
    if said["name"] is not None and len(folders) > 1:
        raise UsageError(f"--name: {len(folders)} adapters cannot have one name", hint="name one adapter")

    def plan(folder: Path) -> Planned | None:
        committed = repositories.of(folder)
        if len(folders) > 1 and not is_versioned(folder, committed):
            console.note(f"{folder}: no manifest, so no version yet: adaptool version init {folder}")
            return None
        return plan_bump(folder, wanted, said_of(folder, base_digest=digest, **said), committed)

    return carry_out(console, "version-bump", folders, plan, dry_run=dry_run, as_json=as_json)
