"""``adaptool version sign``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option
from adaptool.errors import UsageError

PATHS = click.Path(path_type=Path)


@click.command(epilog="Example:  adaptool version sign ./adapter --key private.pem")
@click.argument("adapter", metavar="ADAPTER", type=PATHS)
@click.option("--key", metavar="PRIVATE.pem", type=PATHS, required=True, help="The private key; a pipe will do.")
@click.option("--passphrase-env", metavar="VAR", help="The environment variable its passphrase is in.")
@click.option("--out", metavar="FILE", type=PATHS, help="The signature; default: ADAPTER/model.sig.")
@click.option("--dry-run", is_flag=True, help="Say what would be signed.")
@json_option
@click.pass_obj
def sign(console: Console, /, adapter: Path, key: Path, passphrase_env: str | None, out: Path | None, dry_run: bool,
         as_json: bool) -> int:  # fmt: skip
    """Sign config, weights, tokenizer and manifest: every file of the folder but README.md and Git's own.

    The signature is an in-toto statement in a Sigstore bundle, which OpenSSF's model_signing verifies as well. An
    older signature is replaced.
    """
    from adaptool.reports.sign_text import signing_report
    from adaptool.versioning.signing.keys import read_private_key, readable_by_others
    from adaptool.versioning.signing.signing import sign as sign_folder

    passphrase = None if passphrase_env is None else os.environ.get(passphrase_env)
    if passphrase_env is not None and passphrase is None:
        raise UsageError(f"--passphrase-env: no variable {passphrase_env} in the environment")
    signing = sign_folder(adapter, read_private_key(key, passphrase), out)
    if readable_by_others(key):
        console.note(f"{key} can be read by others on this machine: chmod 600 {key}")
    for note in signing.notes:
        console.note(note)
    if not dry_run:
        signing.write()
    if as_json:
        from adaptool.reports.json import to_json

        told = {name: getattr(signing, name) for name in type(signing).__dataclass_fields__ if name != "text"}
        console.result_json(to_json("version-sign", {**told, "dry_run": dry_run}))
        return 0
    for line in signing_report(signing, console.width, dry_run=dry_run, verbose=console.verbose):
        console.say(line)
    if not dry_run:
        console.result(str(signing.out))
    return 0
