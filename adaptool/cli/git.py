"""``adaptool git``: a group, one module a command."""

from __future__ import annotations

import click

from adaptool.cli.lazy import LazyGroup

COMMANDS = {
    "setup": "Let git diff, git log -p and git difftool tell what changed in an adapter.",
    "textconv": "Print an adapter's weights as text, a line a module: what git diff compares.",
    "difftool": "Compare two versions of a file for git difftool.",
}
"""Name → one line."""


@click.group(
    cls=LazyGroup, table=COMMANDS, module="adaptool.cli.git_",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example:  adaptool git setup",
)  # fmt: skip
def git() -> None:
    """Adapters in Git's own commands: a diff driver and a difftool, both read-only.

    Every command takes Git revisions as inputs without any of this: adaptool diff v1.0.0 HEAD:adapters/sql
    """
