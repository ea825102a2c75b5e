"""What became of files in a history: the commits that changed them, with the blobs before and after, at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from adaptool.errors import AdaptoolError
from adaptool.git.process import failure, run_git
from adaptool.git.repository import Blob, Commit, Repository, difference
from adaptool.versioning.kept.blobs import Blobs
from adaptool.versioning.record import LARGEST, Record, read_record
from adaptool.versions import MANIFEST_NAME

FORM = "%x01%H%x00%P%x00%an%x00%ae%x00%aI%x00%s%x00"
"""Then come the changes, a line feed before the first; no field can hold a NUL."""

MOST_PATHS = 500
"""Named to git at once: it compares each path of each commit with all of them."""

Change = tuple[Blob | None, Blob | None]


@dataclass(frozen=True, slots=True)
class Step:
    """A commit, and what it did to the files asked for: against its first parent, or in a merge against that alone."""

    commit: Commit
    changes: Mapping[str, Change]
    """path → (before, after)"""


def walk(
    repository: Repository, revision: str, paths: Sequence[str] = (), *, first_parent: bool = True,
    limit: int | None = None,
) -> Iterator[Step]:  # fmt: skip
    """The commits that changed ``paths`` (files or folders; all where there are none), the newest first.

    ``revision`` is a commit or a range, A..B. ``first_parent``: a branch's history; what it merged is in the merge.
    """
    named = paths if len(paths) <= MOST_PATHS else ()
    options = ["--first-parent"] if first_parent else ["--full-history", "--simplify-merges", "--topo-order"]
    most = [] if limit is None else [f"--max-count={limit}"]
    told = repository.run(
        "log", "-z", f"--format={FORM}", "--no-show-signature", "--no-follow", "--encoding=UTF-8", "--root", "--raw",
        "--no-renames", "--abbrev=64", "-O/dev/null", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all",
        "--diff-merges=first-parent",
        *options, *most, "--end-of-options", revision, "--", *named,
    )  # fmt: skip
    yield from _steps(iter(told.split(b"\0")), frozenset(paths) if not named else None)


def _steps(parts: Iterator[bytes], wanted: frozenset[str] | None) -> Iterator[Step]:
    commit: Commit | None = None
    changes: dict[str, Change] = {}
    for part in parts:
        head = part.lstrip(b"\n")
        if head.startswith(b"\x01"):
            if commit is not None and (changes or wanted is None):
                yield Step(commit, changes)
            parents, author, email, date, subject = (next(parts).decode("utf-8", "replace") for _ in range(5))
            commit = Commit(head[1:].decode("ascii"), tuple(parents.split()), author, email, date, subject)
            changes = {}
        elif head.startswith(b":"):
            path = os.fsdecode(next(parts))
            if wanted is None or path in wanted:
                changes[path] = difference(head.decode("ascii"), path)
    if commit is not None and (changes or wanted is None):
        yield Step(commit, changes)


@dataclass(frozen=True, slots=True)
class Past:
    """A manifest as a commit left it."""

    commit: str
    folder: str
    oid: str
    """Of the manifest's blob."""


@dataclass
class Archive:
    """The manifests of a history, read by their oids and kept."""

    repository: Repository
    revision: str | None
    """Whose first-parent history it is; None before the first commit."""
    blobs: Blobs
    _records: dict[str, Record | None] = field(default_factory=dict)
    _pasts: dict[str, tuple[Past, ...]] = field(default_factory=dict)

    def record(self, oid: str) -> Record | None:
        """The record in a blob; None where it cannot be read, or this clone lacks it."""
        if oid not in self._records:
            try:
                self._records[oid] = read_record(self.blobs.read(oid, LARGEST), oid)
            except AdaptoolError:
                self._records[oid] = None
        return self._records[oid]

    def recall(self, folders: Sequence[str]) -> None:
        """Ask for the history of these adapters' manifests at once, and of no other."""
        paths = [manifest_path(folder) for folder in folders]
        self._pasts = self._walked(paths) if paths else {}

    def of_revision(self, revision: str) -> Archive:
        """The same manifests, with the history of another revision."""
        return Archive(self.repository, revision, self.blobs, self._records)

    def of(self, folder: str) -> tuple[Past, ...]:
        """The manifests an adapter had, the newest first, that of ``revision`` included."""
        if folder not in self._pasts:
            self._pasts |= self._walked([manifest_path(folder)])
        return self._pasts[folder]

    def _walked(self, paths: Sequence[str]) -> dict[str, tuple[Past, ...]]:
        found: dict[str, list[Past]] = {path.rpartition("/")[0]: [] for path in paths}
        if self.revision is None:
            return dict.fromkeys(found, ())
        for step in walk(self.repository, self.revision, paths):
            for path, (_, after) in step.changes.items():
                if after is not None:
                    found[path.rpartition("/")[0]].append(Past(step.commit.oid, path.rpartition("/")[0], after.oid))
        return {folder: tuple(pasts) for folder, pasts in found.items()}

    def at(self, places: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        """Of each (commit, adapter's folder) the oid of its manifest there, through one process, where it is one."""
        plain = [place for place in places if "\n" not in place[1]]
        asked = "".join(f"{commit}:{manifest_path(folder)}\n" for commit, folder in plain)
        done = run_git(
            self.repository.folder, "cat-file", "--batch-check", asked=os.fsencode(asked),
            variables=self.repository.state,
        )  # fmt: skip
        if done.returncode:
            raise failure("cat-file", done.stderr)
        answers = (line.split(b" ") for line in done.stdout.split(b"\n"))
        return {
            place: answer[0].decode("ascii")
            for place, answer in zip(plain, answers, strict=False)
            if len(answer) == 3 and answer[1] == b"blob"
        }


def manifest_path(folder: str) -> str:
    """Where an adapter's manifest lies."""
    return f"{folder}/{MANIFEST_NAME}" if folder else MANIFEST_NAME
