"""From a Git revision that a user typed to a local folder: what ``locate`` asks where no path of that name exists."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from adaptool.errors import GitError, NotFoundError
from adaptool.git.layout import NEEDED, lay_out
from adaptool.git.named import (
    EXPRESSION,
    STAGE,
    Source,
    follow,
    inside,
    open_source,
    place_of,
    refuse_unknown,
    split_revision,
)
from adaptool.git.repository import Repository, find_repository

MOST_NAMED = 8


def resolve_revision(text: str) -> Path | None:
    """The local folder (or file) of what ``text`` names at a Git revision; None where it names none.

    The repository is the one the current folder lies in. Raises NotFoundError where the revision is there and the
    path, or any adapter, is not; NotFetchedError where this clone lacks what is needed.
    """
    return open_revision(text, Path())


def open_beside(revision: str, other: Path) -> Path | None:
    """The same for one side of a comparison: a bare revision means the place of ``other``, in its repository.

    ``other`` is a path of this disk, or itself a revision with a path (``HEAD:adapters/sql``).
    """
    if split_revision(revision)[1] is not None:
        return resolve_revision(revision)
    if not os.path.lexists(other):
        path = split_revision(str(other))[1]
        return resolve_revision(revision if path is None or not resolves(revision) else f"{revision}:{path}")
    found = find_repository(other)
    if found is not None and open_source(found, revision) is not None:
        place = place_of(found, other)
        return _opened(found.folder, found.bare, revision, place, revision, place)
    return resolve_revision(revision)


def resolves(revision: str) -> bool:
    """Whether the repository of the current folder has such a revision."""
    found = find_repository(Path())
    return found is not None and found.resolve(revision, "tree") is not None


def open_revision(text: str, beside: Path) -> Path | None:
    """The same, of the repository that ``beside`` lies in, and relative to that folder."""
    if "://" in text or text.startswith("-") or "\0" in text or text == "":
        return None
    revision, path = split_revision(text)
    if path is not None and revision == "" and (staged := STAGE.fullmatch(path)):
        revision, path = f":{staged[1]}" if staged[1] != "0" else "", staged[2]
    is_certain = path is not None or EXPRESSION.fullmatch(revision) is not None
    try:
        repository = find_repository(beside)
    except OSError:  # the current folder is gone
        repository = None
    except GitError:  # git does not trust this repository
        if is_certain:
            raise
        return None
    if repository is None:
        if EXPRESSION.fullmatch(revision):
            raise NotFoundError(f"{text}: no such file, and this is not in a Git repository", hint="cd into a clone")
        return None
    return _opened(repository.folder, repository.bare, revision, path, text, place_of(repository, beside))


@cache
def _opened(folder: Path, bare: bool, revision: str, path: str | None, text: str, beside: str) -> Path | None:
    """Laid out once a process, however often it is named."""
    repository = Repository(folder, bare)
    source = open_source(repository, revision)
    if source is None:
        if path is not None or EXPRESSION.fullmatch(revision) or re.fullmatch(r"[0-9a-f]{40,64}", revision):
            refuse_unknown(repository, text, revision)
        return None
    if path is None:
        place = _chosen(source, text, beside)
        return _open_place(source, place, text)
    return _open_place(source, inside(source, path, beside), text)


def _open_place(source: Source, path: str, text: str) -> Path:
    there, real = follow(source, path)
    if real in there.tree and real:
        folder, _, name = real.rpartition("/")
        return lay_out(there, [folder], folder, only=name) / name
    if not there.holds(real):
        raise NotFoundError(f"{text}: no {path or 'files'} in {_worded(source)}", hint=_adapters_told(source))
    files = there.folders.get(real, {})
    if _is_opened(files):
        return lay_out(there, [real], real)
    below = [folder for folder in there.adapters if folder.startswith(f"{real}/" if real else "")]
    if not below:
        raise NotFoundError(f"{text}: no adapter in {source.told(path)} or below", hint=_adapters_told(source))
    return lay_out(there, below, real)


def _chosen(source: Source, text: str, beside: str) -> str:
    """The folder a revision without a path means: the one its name tells, the current one, the root, the only one."""
    named = [folder for folder in source.adapters if _tells(source.revision, folder)]
    if len(named) == 1:
        return named[0]
    for folder in (beside, ""):
        files = source.folders.get(folder, {})
        if _is_opened(files):
            return folder
    if len(source.adapters) == 1:
        return source.adapters[0]
    if not source.adapters:
        raise NotFoundError(f"{text}: there is no adapter in {_worded(source)}")
    raise NotFoundError(
        f"{text}: {len(source.adapters)} adapters in {_worded(source)}: which one?",
        hint=f"name it: {text}:{source.adapters[0]}; {_adapters_told(source)}",
    )


def _is_opened(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names is an adapter or a model itself."""
    return any(NEEDED.fullmatch(name) for name in names)


def _tells(revision: str, folder: str) -> bool:
    """Whether a tag is a version of that adapter: sql-v1.2.0, sql/1.2.0, sql@1.2.0, adapters/sql/v1.2.0."""
    names = {folder, folder.rpartition("/")[2]} - {""}
    return any(re.fullmatch(rf"(?:refs/tags/|tags/)?{re.escape(name)}[-/@]v?\d.*", revision) for name in names)


def _worded(source: Source) -> str:
    return {"": "the index", ":1": "the common side", ":2": "our side", ":3": "their side"}.get(
        source.revision, source.revision
    )


def _adapters_told(source: Source) -> str | None:
    """The adapters there are."""
    if not source.adapters:
        return None
    more = f" and {len(source.adapters) - MOST_NAMED} more" if len(source.adapters) > MOST_NAMED else ""
    return f"adapters there: {', '.join(name or '(the root)' for name in source.adapters[:MOST_NAMED])}{more}"
