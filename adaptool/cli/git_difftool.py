"""``adaptool git difftool``."""

from __future__ import annotations

from pathlib import Path

import click

from adaptool.cli.console import Console

PATHS = click.Path(path_type=Path)


@click.command(epilog="Example:  adaptool git difftool OLD NEW adapters/sql/adapter_model.safetensors")
@click.argument("local", type=PATHS)
@click.argument("remote", type=PATHS)
@click.argument("merged", type=PATHS)
@click.pass_obj
def difftool(console: Console, local: Path, remote: Path, merged: Path) -> int:
    """What `git difftool -t adaptool v1.0.0` runs for each file: two versions, and its path in the working tree.

    Weights are compared as adaptool diff does, under the config that lies in the working tree; git hands over one file
    at a time. Any other file is shown by git itself. To compare whole adapters: adaptool diff REVISION FOLDER
    """
    from adaptool.adapters.adapter import open_adapter
    from adaptool.cli.diff import show
    from adaptool.comparing.adapters import compare_adapters
    from adaptool.git.difftool import is_weights, put_together, shown_by_git

    if not (is_weights(local) and is_weights(remote)):
        for line in shown_by_git(local, remote):
            console.result(line)
        return 0
    with put_together(local, remote, merged) as (before, after):
        given = f"{merged} before", "after"
        show(console, compare_adapters(open_adapter(before), open_adapter(after), given), "text", 10)
    return 0
