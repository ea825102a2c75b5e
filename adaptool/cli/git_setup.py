"""``adaptool git setup``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option

if TYPE_CHECKING:
    from adaptool.git.setup import Setup


@click.command(epilog="Example:  adaptool git setup --dry-run")
@click.option("--lfs/--no-lfs", default=None, help="Keep adapters with Git LFS; default: where it is in use here.")
@click.option("--global/--local", "everywhere", default=False, help="For all your repositories; default: this clone.")
@click.option("--undo", is_flag=True, help="Take it out again; what LFS keeps stays with LFS.")
@click.option("--dry-run", is_flag=True, help="Say what would be changed.")
@json_option
@click.pass_obj
def setup(console: Console, lfs: bool | None, everywhere: bool, undo: bool, dry_run: bool, as_json: bool) -> int:
    """Let git diff, git log -p, git show and git difftool -t adaptool tell what changed in an adapter.

    Writes .gitattributes, which you commit, and settings of this clone, which every clone makes for itself. A clone
    without them works as before. Nothing ever rewrites content: there is no filter.
    """
    from adaptool.git.setup import carry_out, overridden, plan_setup

    plan = plan_setup(Path(), scope="global" if everywhere else "local", lfs=lfs, undo=undo)
    if not dry_run:
        carry_out(plan, Path())
    elsewhere = () if dry_run or undo or everywhere else overridden(Path())
    if as_json:
        from adaptool.reports.json import to_json

        told = {name: getattr(plan, name) for name in type(plan).__dataclass_fields__}
        console.result_json(
            to_json("git-setup", {**told, "changed": plan.changed, "written": not dry_run, "overridden": elsewhere})
        )
    else:
        _say(console, plan, dry_run=dry_run)
    for note in plan.notes:
        console.note(note)
    for path in elsewhere[:5]:
        console.note(f"{path}: another .gitattributes gives it another diff; see: git check-attr --all -- {path}")
    if not dry_run and not everywhere and plan.before != plan.after:
        console.say("commit .gitattributes; in every other clone run: adaptool git setup")
    return 0


def _say(console: Console, plan: Setup, *, dry_run: bool) -> None:
    """What changes, as a diff reads."""
    if not plan.changed:
        console.result("everything is set up already" if not dry_run else "nothing to change")
        return
    if plan.before != plan.after:
        import difflib

        before, after = plan.before.splitlines(), plan.after.splitlines()
        changed = [line for line in difflib.ndiff(before, after) if line.startswith(("- ", "+ "))]
        console.result("\n".join([str(plan.attributes), *(f"  {line}" for line in changed)]))
    if plan.installs_lfs:
        console.result("git lfs install --local")
    settings = [setting for setting in plan.settings if setting.before != setting.after]
    if settings:
        console.result(f"git config --{plan.scope}")
    for setting in settings:
        if setting.before is not None:
            console.result(f"  - {setting.key} = {setting.before}")
        if setting.after is not None:
            console.result(f"  + {setting.key} = {setting.after}")
