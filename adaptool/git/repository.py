"""A Git repository through the git binary: commits, trees, blobs, tags. Nothing here writes, fetches or runs a hook.

The binary, not a library, because it alone knows every repository there is (worktrees, alternates, partial clones, new
object formats); ``docs/decisions/0009-git.md`` weighs it. ``process.py`` says what of a repository's own is off.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import IO, Literal

from adaptool.errors import GitError, NotFoundError
from adaptool.git.process import STATE, Done, failure, objects_alone, run_git, state_of
from adaptool.git.reader import OID, Reader, not_here

Kind = Literal["commit", "tree", "blob"]

IN_NONE = re.compile(r"not a git repository|git is not installed|git cannot be started")


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of a tree: its object and mode (100644, 100755; 120000 a link, 160000 a submodule's commit)."""

    path: str
    oid: str
    mode: str = "100644"


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit."""

    oid: str
    parents: tuple[str, ...]
    author: str
    email: str
    date: str
    """The author's, ISO 8601 with its zone."""
    subject: str


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag and the commit it leads to; ``message`` is empty for a lightweight one."""

    name: str
    commit: str
    annotated: bool
    message: str


@dataclass(frozen=True)
class Repository:
    """A repository: paths given to its methods, and those they give, are from its root."""

    folder: Path
    """The root of the working tree, or the bare repository."""
    bare: bool = False

    def run(self, *arguments: str, okay: tuple[int, ...] = (0,)) -> bytes:
        """What git prints; GitError with its own words where it exits with another code."""
        done = self._git(*arguments)
        if done.returncode not in okay:
            raise failure(arguments[0], done.stderr)
        return done.stdout

    def line(self, *arguments: str, okay: tuple[int, ...] = (0,)) -> str:
        """The same, of one line."""
        return os.fsdecode(self.run(*arguments, okay=okay)).removesuffix("\n")

    @cached_property
    def common(self) -> Path:
        """The repository itself (``.git``), which worktrees share: objects, references, LFS store."""
        return (self.folder / self.line("rev-parse", "--git-common-dir")).resolve()

    @cached_property
    def shallow(self) -> bool:
        """Whether the history is cut off."""
        return self.line("rev-parse", "--is-shallow-repository") == "true"

    @cached_property
    def partial(self) -> bool:
        """Whether objects may be missing that a remote has promised."""
        keys = r"^(extensions\.partialclone|remote\..*\.(promisor|partialclonefilter))$"
        return bool(self.run("config", "--get-regexp", keys, okay=(0, 1)))

    def commit(self, revision: str) -> str | None:
        """The commit that ``revision`` names, None where it names none."""
        return self.resolve(revision, "commit")

    def resolve(self, revision: str, kind: Kind) -> str | None:
        """The object of that kind that ``revision`` names or leads to, None where it names none."""
        if not revision or revision.startswith("-") or "\0" in revision:
            return None
        if revision.startswith(":/"):  # a commit by its message, to the end of the text
            revision = self.line("rev-parse", "--verify", "--quiet", "--end-of-options", revision, okay=(0, 1, 128))
        found = self.run(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{{kind}}}", okay=(0, 1, 128)
        )
        text = found.decode("ascii", "replace").strip()
        return text if OID.fullmatch(text) else None

    def tree(self, commit: str, path: str = "") -> Mapping[str, Blob]:
        """Every file of a commit below ``path`` ("" is the root), by its path from the repository's root."""
        below = ["--", path] if path else []
        listed = self.run("ls-tree", "-r", "-z", "--full-tree", commit, *below)
        blobs = (_blob(entry) for entry in listed.split(b"\0") if entry)
        return {blob.path: blob for blob in blobs}

    def index(self, path: str = "", stage: int = 0) -> Mapping[str, Blob]:
        """The same of what is staged; stages 1 to 3 are the common, our and their version of a conflict."""
        below = ["--", path] if path else []
        listed = (entry for entry in self.run("ls-files", "--stage", "-z", *below).split(b"\0") if entry)
        blobs = (_blob(entry) for entry in listed if entry.partition(b"\t")[0].endswith(b" %d" % stage))
        return {blob.path: blob for blob in blobs}

    def merge_base(self, one: str, other: str) -> str | None:
        """The best common ancestor; None where there is none, or a shallow history does not reach it."""
        found = self.run("merge-base", one, other, okay=(0, 1, 128)).decode("ascii", "replace").strip()
        return found if OID.fullmatch(found) else None

    def changed(self, before: str, after: str | None = None) -> Mapping[str, tuple[Blob | None, Blob | None]]:
        """The files that differ between two commits, or between a commit and the working tree (``after`` None).

        path → (before, after). A side in the working tree that is not in the index yet has an ``oid`` of zeros.
        Files that Git does not track are not among them.
        """
        if after is None:
            from adaptool.git.working import changed_here

            return changed_here(self, before)
        return differences(self.run(*DIFF, before, after, "--"))

    def untracked(self) -> tuple[str, ...]:
        """Files of the working tree that are neither tracked nor ignored."""
        listed = self.run("ls-files", "--others", "--exclude-standard", "-z")
        return tuple(os.fsdecode(path) for path in listed.split(b"\0") if path)

    def log(self, *paths: str, revision: str = "HEAD", first_parent: bool = False) -> Iterator[Commit]:
        """The commits that touched ``paths`` (all, without), the newest first; parents are those in the history.

        Of a HEAD that has no commit yet there are none.
        """
        form = "%H%x00%P%x00%an%x00%ae%x00%aI%x00%s%x00"
        options = ["--first-parent"] if first_parent else []
        done = self._git("log", "-z", f"--format={form}", "--no-show-signature", "--no-follow", "--encoding=UTF-8",
                         *options, "--end-of-options", revision, "--", *paths)  # fmt: skip
        if done.returncode:
            if revision == "HEAD" and self.commit("HEAD") is None:
                return
            raise failure("log", done.stderr)
        fields = done.stdout.decode("utf-8", "replace").split("\0")
        for i in range(0, len(fields) - 6, 7):
            oid, parents, author, email, date, subject = fields[i : i + 6]
            yield Commit(oid.strip("\n"), tuple(parents.split()), author, email, date, subject)

    def tags(self) -> tuple[Tag, ...]:
        """Every tag that leads to a commit."""
        form = (
            "%(refname:strip=2)%00%(objectname)%00%(objecttype)%00%(*objectname)%00%(*objecttype)%00%(contents)%00%01"
        )
        told = self.run("for-each-ref", f"--format={form}", "refs/tags").decode("utf-8", "replace")
        rows = (row.lstrip("\n").split("\0") for row in told.split("\0\1\n"))
        return tuple(
            Tag(name, commit, kind == "tag", text if kind == "tag" else "")
            for name, oid, kind, inner, inner_kind, text, *_ in (row for row in rows if len(row) > 5)
            if (commit := self._tagged(inner or oid, inner_kind or kind)) is not None
        )

    def _tagged(self, oid: str, kind: str) -> str | None:
        """The commit that a tag's object is or, through tags of tags, leads to."""
        return oid if kind == "commit" else self.commit(oid) if kind == "tag" else None

    def read(self, oid: str, limit: int) -> bytes:
        """A blob, if it is no larger than ``limit`` bytes. Raises NotFetchedError where this clone lacks it."""
        with self.reader() as reader:
            return reader.read(oid, limit)

    def reader(self) -> Reader:
        """For many of them: ``with repository.reader() as reader``."""
        return Reader(self.folder, self._objects)

    def sizes(self, oids: list[str]) -> Mapping[str, int]:
        """The size of every blob, from the object database. Raises NotFetchedError where this clone lacks one."""
        with self.reader() as reader:
            sizes = {oid: reader.size(oid) for oid in oids}
        known = {oid: size for oid, size in sizes.items() if size is not None}
        for oid in sizes.keys() - known.keys():
            raise not_here(oid)
        return known

    def copy(self, oid: str, out: Path) -> None:
        """Write a blob into a new file, without holding it in memory."""
        with out.open("xb") as file:
            done = self._git("cat-file", "blob", oid, into=file, alone=True)
        if done.returncode:
            raise not_here(oid) if self.partial or self.shallow else failure("cat-file", done.stderr)

    @cached_property
    def state(self) -> Mapping[str, str]:
        """What the hook we run in, if we do, was told of this repository."""
        if not any(name in os.environ for name in STATE):
            return {}
        directory = os.fsdecode(run_git(self.folder, "rev-parse", "--absolute-git-dir").stdout).removesuffix("\n")
        return state_of(Path(directory).resolve())

    @cached_property
    def _objects(self) -> Mapping[str, str]:
        """Where objects are read: in a partial clone without its settings, so that nothing missing is fetched."""
        if not self.partial:
            return self.state
        form = self.line("rev-parse", "--show-object-format")
        return {**objects_alone(self.common / "objects", form), **self.state}

    def _git(self, *arguments: str, into: IO[bytes] | int = -1, alone: bool = False) -> Done:
        return run_git(self.folder, *arguments, into=into, variables=self._objects if alone else self.state)


DIFF = ("diff", "--raw", "-z", "--abbrev=64", "--no-renames", "--no-ext-diff", "--no-textconv", "-O/dev/null",
        "--ignore-submodules=all", "--end-of-options")  # fmt: skip


def differences(raw: bytes) -> Mapping[str, tuple[Blob | None, Blob | None]]:
    """What ``git diff --raw -z`` lists: path → (before, after)."""
    parts = raw.split(b"\0")[:-1]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {os.fsdecode(path): difference(head.decode("ascii"), os.fsdecode(path)) for head, path in pairs}


def find_repository(path: Path) -> Repository | None:
    """The repository that ``path`` (a file or folder, existing or not) lies in; None where there is none, or no git.

    Raises GitError where git refuses the one there is: a broken config, a format it does not know, another's.
    """
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    inside = Repository(folder)
    try:
        if inside.line("rev-parse", "--is-inside-work-tree") == "true":
            return Repository(Path(inside.line("rev-parse", "--show-toplevel")))
        return Repository(Path(inside.line("rev-parse", "--absolute-git-dir")), bare=True)
    except GitError as error:
        if "dubious ownership" in error.message:  # git trusts only repositories of the user's own
            owned = re.search(r"repository at '(.+)'", error.message)
            place = quote(owned[1] if owned else str(folder))
            raise GitError(error.message, hint=f"git config --global --add safe.directory {place}") from None
        if IN_NONE.search(error.message):
            return None
        raise  # a repository that git cannot read is not none


def repository_of(path: Path) -> Repository:
    """The same, or a worded error."""
    found = find_repository(path)
    if found is None and shutil.which("git") is None:
        raise GitError("git is not installed", hint="install it: this needs the git command")
    if found is None:
        raise NotFoundError(f"{path}: not in a Git repository", hint="run it inside a clone, or: git init")
    return found


def _blob(entry: bytes) -> Blob:
    """One row of ls-tree (mode, kind, object) or ls-files (mode, object, stage)."""
    head, _, path = entry.partition(b"\t")
    mode, *words = head.decode("ascii").split()
    return Blob(os.fsdecode(path), max(words, key=len), mode)


def difference(head: str, path: str) -> tuple[Blob | None, Blob | None]:
    """One file of a raw diff before and after: ``:100644 100644 OLD NEW M``."""
    old_mode, mode, old, oid, _ = head.removeprefix(":").split(" ")
    before = None if old_mode == "000000" else Blob(path, old, old_mode)
    return before, (None if mode == "000000" else Blob(path, oid, mode))
