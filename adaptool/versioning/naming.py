"""The names of adapters and of their tags: made from folders, understood in every form that people tag by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from adaptool.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
"""What may name an adapter: with it a tag, a file and a package can be named too."""

LONGEST = 100

DEEPEST = 8
"""Folders above an adapter's that its name is looked for in."""


def name_of(folder: Path) -> str:
    """An adapter's name after its folder, in the root of a repository after that: clones are called anything."""
    real = folder.resolve()
    return made_name((_cloned_from(real) if (real / ".git").exists() else "") or real.name)


def _cloned_from(root: Path) -> str:
    """What the repository is called where it was cloned from; "" where nothing tells."""
    from adaptool.git.repository import Repository

    address = Repository(root).run("config", "--get", "remote.origin.url", okay=(0, 1, 128)).decode("utf-8", "replace")
    return re.split(r"[/:\\]", address.strip().rstrip("/"))[-1].removesuffix(".git")


def made_name(text: str) -> str:
    """The nearest name to ``text``, characters that a name cannot have replaced; "adapter" where none is left."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:LONGEST]
    plain = re.sub(r"\.{2,}", ".", plain).strip(".-_")
    return plain.removesuffix(".lock") or "adapter"


def is_name(text: str) -> bool:
    """Whether an adapter may be called ``text``: also as a part of a tag, in which Git forbids ".." and ".lock"."""
    plain = ".." not in text and not text.endswith(".lock")
    return plain and len(text) <= LONGEST and NAME.fullmatch(text) is not None


def require_name(text: str) -> str:
    """``text`` as an adapter's name, or a UsageError."""
    if not is_name(text):
        raise UsageError(
            f"{text[:60]!r} cannot name an adapter", hint="letters, digits, '.', '_' and '-': such as --name sql"
        )
    return text


def distinct_names(folders: Sequence[Path]) -> Mapping[Path, str]:
    """A name for each folder: after it, and where two would be called the same, after the folders above as well."""
    names = {folder: name_of(folder) for folder in folders}
    for depth in range(2, DEEPEST):
        taken = Counter(names.values())
        twice = [folder for folder in folders if taken[names[folder]] > 1]
        if not twice:
            break
        for folder in twice:
            names[folder] = made_name("-".join(folder.resolve().parts[-depth:]))
    return names
