"""``adaptool version``: a group, one module a command."""

from __future__ import annotations

import click

from adaptool.cli.lazy import LazyGroup

COMMANDS = {
    "init": "Put adapters under version: write the manifest beside each.",
    "show": "Show an adapter's version: content, base, lineage, and who and when from Git.",
    "bump": "Read an adapter again and move its version as far as the change asks.",
    "tag": "Tag the commit that holds an adapter's version.",
    "log": "Draw an adapter's history: version, date, author, kind of change, drift.",
    "check": "Check all versions of a repository, or of a pull request: the gate in CI.",
    "sign": "Sign config, weights, tokenizer and manifest with your key.",
    "verify": "Verify an adapter against its manifest, and its signature by your keys.",
    "sbom": "Write the lineage as a CycloneDX ML-BOM.",
}
"""Name → one line."""


@click.group(
    cls=LazyGroup, table=COMMANDS, module="adaptool.cli.version_",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example:  adaptool version check --against origin/main",
)  # fmt: skip
def version() -> None:
    """Adapters with versions that mean something: the record beside them, its history, a gate in CI.

    The manifest is adaptool.json in the adapter's folder. Who and when are Git's to tell.
    """
