"""What a user names an adapter by, taken apart: the folder it lies in, and where in which repository that is from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptool.errors import NotFoundError
from adaptool.git.named import place_of, split_revision
from adaptool.git.repository import Repository, find_repository
from adaptool.rules.locate import find_adapters
from adaptool.tensors.locate import LAID_OUT, locate


@dataclass(frozen=True, slots=True)
class PlacedAdapter:
    """One adapter that was named, or that lies below what was named."""

    folder: Path
    """Its files; of a revision, a copy that is laid out for as long as this process runs."""
    given: str
    """As the user would name it."""
    repository: Repository | None = None
    path: str = ""
    """From the root of the repository; "" is the root."""
    revision: str | None = None
    """As given; None of the working tree."""
    commit: str | None = None
    """The commit it names."""


def placed_adapters(text: str) -> Iterator[PlacedAdapter]:
    """Every adapter that ``text`` names: a folder, a file of one, a tree with many, or a Git revision of any of those.

    Raises NotFoundError where there is none.
    """
    place = locate(text)
    laid = next((top for top in (place, *place.parents) if str(top) in LAID_OUT), None)
    for target in find_adapters(place):
        if laid is None:
            yield in_working_tree(target.folder)
            continue
        revision, root = split_revision(LAID_OUT[str(laid)])
        inner = target.folder.relative_to(laid).as_posix()
        path = "/".join(part for part in (root or "", inner) if part not in ("", "."))
        repository = find_repository(Path())
        commit = None if repository is None else repository.commit(revision)
        yield PlacedAdapter(target.folder, f"{revision}:{path}", repository, path, revision, commit)


def in_working_tree(folder: Path) -> PlacedAdapter:
    """An adapter as it lies there now."""
    repository = find_repository(folder)
    if repository is None or repository.bare:
        return PlacedAdapter(folder, str(folder))
    return PlacedAdapter(folder, str(folder), repository, place_of(repository, folder))


def adapters_at_head(repository: Repository) -> Iterator[PlacedAdapter]:
    """Every adapter of a bare repository's HEAD, which has no files of its own."""
    from adaptool.git.named import open_source

    source = open_source(repository, "HEAD")
    if source is None or not source.adapters:
        raise NotFoundError(f"{repository.folder}: no adapter at HEAD", hint="name a revision: BRANCH:PATH")
    for path in source.adapters:
        yield from placed_adapters(f"HEAD:{path}")
