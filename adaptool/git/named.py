"""What a Git revision on the command line means: ``v1.2.0``, ``HEAD~3:adapters/sql``, ``:sql``, ``HEAD:./sql``.

Source: gitrevisions(7). Links are followed inside the tree of that revision only, never on this disk; a submodule is
followed into its own repository, at the commit the revision records.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adaptool.errors import GitError, NotFetchedError, NotFoundError
from adaptool.git.repository import Blob, Repository, find_repository
from adaptool.git.trees import LINK, SUBMODULE, adapters_in_tree, folders_in_tree

MOST_LINKS = 40
LONGEST_LINK = 4096

EXPRESSION = re.compile(r".*(?:[~^]\d*|[~^@]\{.*\}.*)|(?:HEAD|@|FETCH_HEAD|ORIG_HEAD)", re.DOTALL)
"""What can only be meant as a revision."""

STAGE = re.compile(r"([0-3]):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """The tree of one revision; ``revision`` is "" for the index, ":2" for our side of a conflict."""

    repository: Repository
    revision: str
    tree: Mapping[str, Blob]

    @cached_property
    def folders(self) -> Mapping[str, Mapping[str, Blob]]:
        """Every folder with files directly in it, by its path."""
        return folders_in_tree(self.tree)

    @cached_property
    def adapters(self) -> tuple[str, ...]:
        """The folders that are adapters."""
        return tuple(adapters_in_tree(self.tree))

    def holds(self, folder: str) -> bool:
        """Whether there is such a folder."""
        return folder in self.folders or any(not folder or path.startswith(f"{folder}/") for path in self.tree)

    def told(self, path: str) -> str:
        """A path of this revision, as one would type it."""
        return f"{self.revision}:{path}"


def split_revision(text: str) -> tuple[str, str | None]:
    """(revision, path): what stands before and after the first colon outside of braces; no colon, no path."""
    if text.startswith(":/"):  # the youngest commit whose message matches
        return text, None
    depth = 0
    for i, letter in enumerate(text):
        if letter == "{" and text[i - 1 : i] in ("@", "^") and i:
            depth += 1
        elif letter == "}" and depth:
            depth -= 1
        elif letter == ":" and not depth:
            return text[:i], text[i + 1 :]
    return text, None


def open_source(repository: Repository, revision: str) -> Source | None:
    """The tree of a revision, or the index ("", ":1" to ":3"); None where the repository has no such revision."""
    if revision in ("", ":1", ":2", ":3"):
        return Source(repository, revision, repository.index(stage=int(revision[1:] or "0")))
    tree = repository.resolve(revision, "tree")
    if tree is None and repository.partial and repository.commit(revision) is not None:
        raise NotFetchedError(f"{revision}: its tree is not in this clone", hint="check that revision out first")
    return None if tree is None else Source(repository, revision, repository.tree(tree))


def refuse_unknown(repository: Repository, text: str, revision: str) -> None:
    """Raise the error for a revision that is not there."""
    if revision == "HEAD" and not repository.commit("HEAD"):
        raise NotFoundError(f"{text}: {repository.folder} has no commit yet", hint="commit, or name a folder")
    if repository.shallow:
        raise NotFetchedError(
            f"{text}: no revision {revision!r} in this clone, whose history is cut off",
            hint="fetch it all with: git fetch --unshallow --tags",
        )
    from difflib import get_close_matches

    names = repository.line("for-each-ref", "--format=%(refname:short)", "refs/tags", "refs/heads", "refs/remotes")
    near = get_close_matches(revision, names.splitlines(), n=3)
    hint = f"did you mean: {', '.join(near)}" if near else "see: git tag, git branch; is it fetched? git fetch --tags"
    raise NotFoundError(f"{text}: no revision {revision!r} in {repository.folder}", hint=hint)


def place_of(repository: Repository, path: Path) -> str:
    """Where a path of this disk lies in its repository ("" is the root), its last link not followed."""
    plain = Path(os.path.abspath(path))  # noqa: PTH100 (a last link is kept as it is)
    root = repository.folder.resolve()
    for real in (plain.parent.resolve() / plain.name, plain.resolve()):
        if real.is_relative_to(root) and not repository.bare:
            return "/".join(real.relative_to(root).parts)
    return ""


def inside(source: Source, path: str, beside: str) -> str:
    """A path as typed after the colon, from the root: one that begins with ./ or ../ is relative to ``beside``."""
    if re.match(r"\.{1,2}(?:/|$)", path):
        return os.path.normpath(f"/{beside}/{path}").lstrip("/")
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def follow(source: Source, path: str) -> tuple[Source, str]:
    """Where ``path`` leads inside the tree: links resolved, submodules entered. Raises where that leads outside."""
    waiting, done, links = path.split("/")[::-1], list[str](), 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            if not done:
                raise NotFoundError(f"{source.told(path)}: a link in it leads out of the repository")
            done.pop()
        elif part not in ("", "."):
            done.append(part)
        blob = source.tree.get("/".join(done))
        if blob is None or not done:
            continue
        if blob.mode == SUBMODULE:
            source, done = _submodule(source, blob), []
        elif blob.mode == LINK:
            links += 1
            target = os.fsdecode(source.repository.read(blob.oid, LONGEST_LINK))
            if links > MOST_LINKS or target.startswith("/"):
                why = "leads in a circle" if links > MOST_LINKS else "leads out of the repository"
                raise NotFoundError(f"{source.told(path)}: the link {blob.path} {why}")
            done.pop()
            waiting += target.split("/")[::-1]
    return source, "/".join(done)


def _submodule(source: Source, blob: Blob) -> Source:
    """The commit of a submodule that a revision records, in the submodule's own repository."""
    here = source.repository.folder.resolve() / blob.path
    kept = source.repository.common / "modules" / blob.path
    inner = find_repository(here) if here.is_dir() and not source.repository.bare else None
    if inner is None or inner.folder.resolve() != here:  # a link of the working tree is not followed
        inner = Repository(kept, bare=True) if (kept / "HEAD").is_file() else None
    if inner is None:
        raise NotFetchedError(
            f"{source.told(blob.path)}: the submodule is not checked out",
            hint=f"git submodule update --init -- {blob.path}",
        )
    try:
        found = open_source(inner, blob.oid)
    except GitError:
        found = None
    if found is None:
        raise NotFetchedError(
            f"{source.told(blob.path)}: the submodule here lacks the commit {blob.oid[:12]}",
            hint=f"git submodule update --init -- {blob.path}, or: git -C {blob.path} fetch",
        )
    return found
