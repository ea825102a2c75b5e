"""A parent as the user names it, looked up once: its name, version and digest, and where in the repository it is."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from adaptool.errors import AdaptoolError, UsageError
from adaptool.git.repository import Repository, find_repository
from adaptool.versioning.places import PlacedAdapter, placed_adapters
from adaptool.versioning.record import RELATIONS, Parent, Record, Relation, record_beside
from adaptool.versioning.recording import record_of

HUB = "hub:"
"""Before the id of an adapter that lies on the hub: it is noted, and not looked up."""


def parent_from(text: str, child: Path) -> Parent:
    """The parent that ``[RELATION=]PATH``, ``REV:PATH`` or ``hub:ORG/NAME[@REV]`` names, of the adapter in ``child``.

    Raises UsageError where it is no adapter, or the child itself.
    """
    relation, named = _relation(text)
    if named.startswith(HUB):
        name, _, revision = named.removeprefix(HUB).partition("@")
        return Parent(relation, name, revision=None, version=revision or None)
    found = list(placed_adapters(named))
    if len(found) != 1:
        raise UsageError(f"--parent {named}: {len(found)} adapters below it", hint="name one of them")
    place = found[0]
    if place.revision is None and place.folder.resolve() == child.resolve():
        raise UsageError(
            f"--parent {named}: is the adapter itself", hint="name an earlier version of it: --parent v1.0.0:PATH"
        )
    record, version = _described(place.folder)
    own = find_repository(child)
    if own is None or place.repository is None or own.common != place.repository.common:
        return Parent(relation, record.name, record.content.digest, version)
    name = record.name if version is not None or not place.path else Path(place.path).name
    return Parent(relation, name, record.content.digest, version, place.path, _fixed(place, own))


def _relation(text: str) -> tuple[Relation, str]:
    head, equals, rest = text.partition("=")
    for relation in RELATIONS:
        if equals and head == relation:
            return relation, rest
    if equals and head.replace("_", "").isalpha() and not Path(text).exists():
        raise UsageError(f"--parent {text}: no relation {head!r}", hint=f"one of: {', '.join(get_args(Relation))}")
    return "trained_from", text


def _described(folder: Path) -> tuple[Record, str | None]:
    """The adapter as it lies there, and its version where its manifest is of this content."""
    try:
        stated = record_beside(folder)
    except AdaptoolError:
        stated = None
    actual = record_of(folder, stated)
    agrees = stated is not None and stated.content == actual.content
    return actual, actual.version if agrees else None


def _fixed(place: PlacedAdapter, repository: Repository) -> str | None:
    """The revision as it stays: a tag by its name, anything else by its commit."""
    if place.revision is None or place.commit is None:
        return None
    tags = {tag.name: tag.commit for tag in repository.tags()}
    return place.revision if tags.get(place.revision) == place.commit else place.commit
