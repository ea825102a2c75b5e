"""``adaptool version verify``."""

from __future__ import annotations

from pathlib import Path

import click

from adaptool.cli.console import Console
from adaptool.cli.options import json_option

PATHS = click.Path(path_type=Path)


@click.command(epilog="Example:  adaptool version verify ./adapter --key public.pem")
@click.argument("adapter", metavar="ADAPTER")
@click.option("--key", "keys", metavar="PUBLIC.pem", type=PATHS, multiple=True,
              help="A public key you trust; repeatable. Default: those pinned in the settings.")  # fmt: skip
@click.option("--signature", metavar="FILE", type=PATHS, help="Default: ADAPTER/model.sig.")
@json_option
@click.pass_obj
def verify(console: Console, /, adapter: str, keys: tuple[Path, ...], signature: Path | None, as_json: bool) -> int:
    """Check that an adapter is what was signed, and what its manifest says: every file, and every tensor.

    Keys are yours: --key, or keys = ["release.pem"] under [version] of adaptool.toml; never one out of the signature.
    A file that was not fetched is checked by its Git LFS pointer.

    Exit code 0: verified, or (no key given) not signed and as the manifest says. 1: it is not. 3: not checked.
    """
    from adaptool.reports.json import to_json
    from adaptool.reports.sign_text import verification_report
    from adaptool.versioning.signing.pinned import keys_for
    from adaptool.versioning.signing.verifying import verify_version
    from adaptool.versioning.signing.whole import whole_folder

    with whole_folder(adapter) as folder:
        trusted = keys_for(folder, keys, Path.cwd())
        found = verify_version(folder, trusted.keys, signature, given=adapter, pinned_by=trusted.pinned_by)
    if as_json:
        told = {name: getattr(found, name) for name in type(found).__dataclass_fields__}
        console.result_json(to_json("version-verify", {**told, "verdict": found.verdict}))
    else:
        from adaptool.reports.layout import coloured, plain

        lines = verification_report(found, console.width, verbose=console.verbose)
        click.echo(coloured(lines) if console.paints else plain(lines))
    return found.exit_code
