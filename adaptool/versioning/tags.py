"""Which tags are versions of which adapter, in every form that people tag by, and what a new one is called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from adaptool.errors import UsageError
from adaptool.git.repository import Repository, Tag
from adaptool.git.trees import adapters_in_tree
from adaptool.versioning.semver import Version, parse_version

BEGINNINGS = re.compile(r"(?:^|[-/@])v?(?=[0-9])")
"""Where in a tag a version may begin: v1.2.0, 1.2.0, sql-v1.2.0, sql/1.2.0, sql@1.2.0, path/to/sql/v1.2.0."""

DIGEST = re.compile(r"^adaptool-digest: ([0-9a-f]{64})$", re.MULTILINE)

MOST_TREES = 500
"""Commits of plain tags that are looked into: a repository with more has its adapters tagged by name."""


def readings(tag: str) -> Iterator[tuple[str, Version]]:
    """How a tag can be read: whose (a name or a path, "" where it does not say) and which version.

    Names and pre-releases both have hyphens, so sql-1.2.0-1 is sql's 1.2.0-1 until another name is known.
    """
    for found in BEGINNINGS.finditer(tag):
        version = parse_version(tag[found.end() :])
        if version is not None:
            yield tag[: found.start()], version


def tags_of(
    repository: Repository, adapters: Mapping[str, str], tags: Sequence[Tag] | None = None
) -> Mapping[str, tuple[tuple[Version, Tag], ...]]:
    """The tags of each adapter, the lowest version first; ``adapters`` gives each one's name by its path.

    A tag that names no adapter belongs to the one in the root, or to the only one that there was at its commit.
    """
    owners: dict[str, list[str]] = {}
    for path, name in adapters.items():
        for known in {name, path, path.rpartition("/")[2]} - {""}:
            owners.setdefault(known, []).append(path)
    found: dict[str, list[tuple[Version, Tag]]] = {path: [] for path in adapters}
    plain: list[tuple[Version, Tag]] = []
    for tag in repository.tags() if tags is None else tags:
        read = sorted(readings(tag.name), key=lambda one: len(one[0]), reverse=True)
        whose = next(((owners[who], version) for who, version in read if who in owners), None)
        if whose is not None:
            for path in whose[0]:
                found[path].append((whose[1], tag))
        elif read and read[-1][0] == "":
            plain.append((read[-1][1], tag))
    for version, tag in plain:
        owner = _owner(repository, adapters, owners, tag, len(plain))
        if owner in found:
            found[owner].append((version, tag))
    return {path: tuple(sorted(own, key=lambda one: (one[0].rank, one[1].name))) for path, own in found.items()}


def _owner(
    repository: Repository, adapters: Mapping[str, str], owners: Mapping[str, list[str]], tag: Tag, plain: int
) -> str | None:
    """Whose a tag is that is nothing but a version."""
    if "" in adapters:
        return ""
    if len(adapters) == 1:
        return next(iter(adapters))
    named = owners.get(tag.message.partition(" ")[0], ()) if digest_in(tag) else ()
    if len(named) == 1:
        return named[0]
    if plain > MOST_TREES:
        return None
    there = adapters_in_tree(repository.tree(tag.commit))
    return next(iter(there)) if len(there) == 1 else None


def digest_in(tag: Tag) -> str | None:
    """The content digest an annotated tag was made for; None where it tells none."""
    found = DIGEST.findall(tag.message)
    return found[-1] if found else None


def tag_name(path: str, version: str, adapters: Mapping[str, str]) -> str:
    """What the tag of a version of the adapter at ``path`` is called; ``adapters``: name by path of all there are."""
    name = adapters[path]
    if path == "" or len(adapters) == 1:
        return f"v{version}"
    if sum(other == name for other in adapters.values()) == 1:
        return f"{name}-v{version}"
    return f"{path}/v{version}"


def tag_message(name: str, version: str, digest: str, message: str = "") -> str:
    """What an annotated tag says: whose version it is, what the user says of it, and what it was made for."""
    if DIGEST.search(message):
        raise UsageError("the message holds a line that begins with adaptool-digest:", hint="leave it out")
    parts = (f"{name} {version}", message.strip(), f"adaptool-digest: {digest}")
    return "\n\n".join(part for part in parts if part) + "\n"
