"""Which keys are trusted: those of the command line, else those a project pins in its settings.

[version]
keys = ["keys/release.pem"]        # from the settings' own folder
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptool.errors import UsageError
from adaptool.rules.settings import find_table
from adaptool.versioning.signing.keys import PublicKey, read_public_key

MOST = 100


@dataclass(frozen=True, eq=False)
class Trusted:
    """Keys, and the settings file they are named by; None where the command line names them."""

    keys: tuple[PublicKey, ...]
    pinned_by: Path | None = None


def keys_for(folder: Path, given: Sequence[Path], project: Path) -> Trusted:
    """The keys to verify ``folder`` by: ``given`` ones, else those pinned for the project ``project`` lies in.

    Settings or keys in the very folder that is verified do not count: whoever made it would vouch for themselves.
    """
    if given:
        return Trusted(tuple(map(read_public_key, given)))
    found = find_table(project, "version")
    if found is None or "keys" not in found[1]:
        return Trusted(())
    path, table = found
    names = table["keys"]
    if not isinstance(names, list) or len(names) > MOST or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{path}: version: keys must be a list of paths")
    places = [path.parent / name for name in names]
    root = folder.resolve()
    for place in (path, *places):
        if place.resolve().is_relative_to(root):
            raise UsageError(
                f"{place}: lies in the folder that is verified, so it cannot say whom to trust",
                hint="give a key that you have from its owner: --key PUBLIC.pem",
            )
    return Trusted(tuple(map(read_public_key, places)), path)
