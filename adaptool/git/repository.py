"""A Git repository through the git binary: commits, trees, blobs, tags. Nothing here writes, fetches or runs a hook.

The binary, not a library, because it alone knows every repository there is (worktrees, alternates, partial clones, new
object formats); ``docs/decisions/0009-git.md`` weighs it. What a repository's own config could make it run is off:
file-system monitors, hooks, pagers, textconv and external diff programs, and fetching of what a partial clone lacks.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from adaptool.errors import GitError, NotFetchedError, NotFoundError

SAFE = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false",
        "--no-pager", "--no-optional-locks", "--no-replace-objects", "--literal-pathspecs")  # fmt: skip

ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}

OWN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Set by git for its hooks: which repository is meant is said by a path here."""

Done = subprocess.CompletedProcess[bytes]

OID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


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
            raise GitError(f"git {arguments[0]}: {_words(done.stderr)}")
        return done.stdout

    def line(self, *arguments: str) -> str:
        """The same, of one line."""
        return self.run(*arguments).decode("utf-8", "surrogateescape").rstrip("\n")

    @cached_property
    def common(self) -> Path:
        """The repository itself (``.git``), which worktrees share: objects, references, LFS store."""
        return (self.folder / self.line("rev-parse", "--git-common-dir")).resolve()

    @cached_property
    def shallow(self) -> bool:
        """Whether the history is cut off."""
        return self.line("rev-parse", "--is-shallow-repository") == "true"

    def commit(self, revision: str) -> str | None:
        """The commit that ``revision`` names, None where it names none."""
        if not revision or revision.startswith("-") or "\0" in revision:
            return None
        found = self.run(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", okay=(0, 1, 128)
        )
        text = found.decode("ascii", "replace").strip()
        return text if OID.fullmatch(text) else None

    def tree(self, commit: str, path: str = "") -> Mapping[str, Blob]:
        """Every file of a commit below ``path`` ("" is the root), by its path from the repository's root."""
        below = ["--", path] if path else []
        listed = self.run("ls-tree", "-r", "-z", "--full-tree", commit, *below)
        blobs = (_blob(entry) for entry in listed.split(b"\0") if entry)
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
        sides = [before] if after is None else [before, after]
        raw = self.run("diff", "--raw", "-z", "--abbrev=64", "--no-renames", "--no-ext-diff", "--no-textconv",
                       "--ignore-submodules=all", *sides, "--")  # fmt: skip
        parts = raw.split(b"\0")[:-1]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return dict(_difference(head.decode("ascii"), os.fsdecode(path)) for head, path in pairs)

    def untracked(self) -> tuple[str, ...]:
        """Files of the working tree that are neither tracked nor ignored."""
        listed = self.run("ls-files", "--others", "--exclude-standard", "-z")
        return tuple(os.fsdecode(path) for path in listed.split(b"\0") if path)

    def log(self, *paths: str, revision: str = "HEAD", first_parent: bool = False) -> Iterator[Commit]:
        """The commits that touched ``paths`` (all, without), the newest first; parents are those in the history."""
        form = "%H%x00%P%x00%an%x00%ae%x00%aI%x00%s%x00"
        options = ["--first-parent"] if first_parent else []
        told = self.run("log", "-z", f"--format={form}", "--no-show-signature", "--encoding=UTF-8", *options,
                        "--end-of-options", revision, "--", *paths)  # fmt: skip
        fields = told.decode("utf-8", "replace").split("\0")
        for i in range(0, len(fields) - 6, 7):
            oid, parents, author, email, date, subject = fields[i : i + 6]
            yield Commit(oid.strip("\n"), tuple(parents.split()), author, email, date, subject)

    def tags(self) -> tuple[Tag, ...]:
        """Every tag that leads to a commit."""
        form = (
            "%(refname:strip=2)%00%(objectname)%00%(objecttype)%00%(*objectname)%00%(*objecttype)%00%(contents)%00%01"
        )
        told = self.run("for-each-ref", f"--format={form}", "refs/tags").decode("utf-8", "replace")
        rows = (row.lstrip("\n").split("\0") for row in told.split("\1")[:-1])
        return tuple(
            Tag(name, inner or oid, kind == "tag", text if kind == "tag" else "")
            for name, oid, kind, inner, inner_kind, text, *_ in rows
            if "commit" in (kind, inner_kind)
        )

    def read(self, oid: str, limit: int) -> bytes:
        """A blob, if it is no larger than ``limit`` bytes. Raises NotFetchedError where this clone lacks it."""
        size = self.sizes([oid])[oid]
        if size > limit:
            raise GitError(f"object {oid}: {size} bytes, more than the {limit} such a file may have")
        return self.run("cat-file", "blob", oid)

    def sizes(self, oids: list[str]) -> Mapping[str, int]:
        """The size of every blob, from the object database. Raises NotFetchedError where this clone lacks one."""
        done = self._git("cat-file", "--batch-check", asked="".join(f"{oid}\n" for oid in oids).encode("ascii"))
        if done.returncode:
            raise GitError(f"git cat-file: {_words(done.stderr)}")
        answers = [line.split() for line in done.stdout.decode("ascii", "replace").splitlines()]
        for answer in answers:
            if answer[1] == "missing":
                raise NotFetchedError(
                    f"object {answer[0]} is not in this clone", hint="fetch the whole history: git fetch --unshallow"
                )
        return {oid: int(answer[2]) for oid, answer in zip(oids, answers, strict=True)}

    def copy(self, oid: str, out: Path) -> None:
        """Write a blob into a file, without holding it in memory."""
        with out.open("xb") as file:
            done = self._git("cat-file", "blob", oid, into=file)
        if done.returncode:
            raise NotFetchedError(f"object {oid} cannot be read: {_words(done.stderr)}")

    def _git(self, *arguments: str, asked: bytes = b"", into: IO[bytes] | int = subprocess.PIPE) -> Done:
        try:
            return subprocess.run(
                ["git", *SAFE, *arguments], cwd=self.folder, env=environment(), input=asked,
                stdout=into, stderr=subprocess.PIPE, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise GitError("git is not installed", hint="install it: this needs the git command") from None


def find_repository(path: Path) -> Repository | None:
    """The repository that ``path`` (a file or folder, existing or not) lies in; None where there is none, or no git."""
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
            raise GitError(error.message, hint=f"git config --global --add safe.directory {folder}") from None
        return None


def repository_of(path: Path) -> Repository:
    """The same, or a worded error."""
    found = find_repository(path)
    if found is None:
        raise NotFoundError(f"{path}: not in a Git repository", hint="run it inside a clone, or: git init")
    return found


def environment() -> dict[str, str]:
    """The environment git runs in."""
    return {**{name: value for name, value in os.environ.items() if name not in OWN}, **ENVIRONMENT}


def _words(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    said = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines or ["it failed and said nothing"]
    return said[0].removeprefix("fatal: ").removeprefix("error: ")


def _blob(entry: bytes) -> Blob:
    head, _, path = entry.partition(b"\t")
    mode, _, oid = head.decode("ascii").split(" ")
    return Blob(os.fsdecode(path), oid, mode)


def _difference(head: str, path: str) -> tuple[str, tuple[Blob | None, Blob | None]]:
    old_mode, mode, old, oid, _ = head.removeprefix(":").split(" ")
    before = None if old_mode == "000000" else Blob(path, old, old_mode)
    return path, (before, None if mode == "000000" else Blob(path, oid, mode))
