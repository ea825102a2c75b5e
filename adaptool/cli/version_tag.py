"""``adaptool version tag``."""

from __future__ import annotations

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option
from adaptool.errors import UsageError


@click.command(epilog="Example:  adaptool version tag adapters/sql && git push origin sql-v1.2.0")
@click.argument("adapter", metavar="[ADAPTER]", default=".")
@click.option("--message", "-m", metavar="TEXT", default="", help="What this version brings; default: the manifest's.")
@click.option("--sign", is_flag=True, help="Sign the tag as git is set up to (git tag --sign).")
@click.option("--force", is_flag=True, help="Refused: tags do not move.")
@click.option("--dry-run", is_flag=True, help="Say what would be tagged.")
@json_option
@click.pass_obj
def tag(console: Console, /, adapter: str, message: str, sign: bool, force: bool, dry_run: bool,
        as_json: bool) -> int:  # fmt: skip
    """Make an annotated tag at HEAD for an adapter's version: v1.2.0, or where there are several sql-v1.2.0.

    Its message holds the digest of the content, by which a tag that was moved is told. Refused where HEAD does not
    hold what the manifest says.
    """
    from adaptool.versioning.places import placed_adapters
    from adaptool.versioning.tagging import make_tag, plan_tag

    if force:
        raise UsageError("--force: tags do not move", hint="whoever fetched it keeps the old one: bump, and tag that")
    places = list(placed_adapters(adapter))
    if len(places) != 1:
        raise UsageError(f"{adapter}: {len(places)} adapters below it", hint=f"name one, such as {places[0].given}")
    planned = plan_tag(places[0], message, sign=sign)
    if not dry_run:
        assert places[0].repository is not None, "a tag was planned in it"
        make_tag(places[0].repository, planned)
    if as_json:
        from adaptool.reports.json import to_json

        console.result_json(to_json("version-tag", {"dry_run": dry_run, "tag": planned}))
        return 0
    console.say(f"{'would tag' if dry_run else 'tagged'} {planned.commit[:12]} as {planned.name} {planned.version}")
    console.result(planned.tag)
    if not dry_run:
        console.say(f"publish it with: {planned.push}")
    return 0
