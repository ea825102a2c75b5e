"""The gate: whether every adapter of a repository is what its version says, at a commit or as it lies there.

With a revision to compare with, the change is judged and nothing else: an adapter that nobody touched is not opened.
Without one, every adapter is read, and its version held against its own history.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from adaptool.errors import NotFetchedError
from adaptool.git.repository import Repository
from adaptool.jobs import default_workers, run
from adaptool.rules.finding import Severity
from adaptool.versioning.gate.check_result import Check, Failed
from adaptool.versioning.gate.findings import Selection
from adaptool.versioning.gate.judging import Court, Evidence, gather, judge, merge_of
from adaptool.versioning.gate.tagged import tags_for
from adaptool.versioning.kept.blobs import Blobs
from adaptool.versioning.kept.history import Archive
from adaptool.versioning.kept.pairing import Pair, pairs
from adaptool.versioning.kept.sides import Kept, Side, commit_side, working_side
from adaptool.versioning.lineage import Family
from adaptool.versions import MANIFEST_NAME

FULL = re.compile(r"\b[0-9a-f]{40,64}\b")
"""A whole hash in what the user gave, which messages shorten."""

REMOTE_BRANCH = re.compile(r"(?:refs/remotes/)?([\w.-]+)/([\w./-]+)")


@dataclass(frozen=True)
class Options:
    """What to check."""

    against: str | None = None
    """A revision: the change since its merge base with what is checked is judged."""
    at: str | None = None
    """A revision; None is the working tree, of a bare repository HEAD."""
    paths: tuple[str, ...] = ()
    """Folders from the root of the repository: only adapters in or below them."""
    remote: str | None = None
    """A remote whose tags must be those here: it is asked over the network."""
    selection: Selection = field(default_factory=Selection)
    fail_on: Severity = "error"
    workers: int = field(default_factory=default_workers)


@dataclass(frozen=True, slots=True)
class _Ends:
    """Between what the check is made."""

    after: Side
    head: str | None
    """The commit whose history counts."""
    before: Side | None
    there: Side | None
    merge_base: str | None
    notes: tuple[str, ...]
    blobs: Blobs


def check(repository: Repository, options: Options | None = None) -> Check:
    """Check the versions of a repository's adapters; nothing is written, executed or, without ``remote``, fetched.

    Raises NotFetchedError where ``against`` is not in this clone, GitError where git refuses.
    """
    how = options or Options()
    ends = _ends(repository, how)
    both = pairs(ends.before, ends.after)
    chosen = [pair for pair in both if _below(pair, how.paths)]
    court = _court(repository, how, ends, chosen, Archive(repository, ends.head, ends.blobs))
    results = tuple(judge(court, one) for one in _gathered(court, chosen, how.workers))
    missed = [Failed(path or ".", f"{path or '.'}: no adapter there, neither before nor now")
              for path in how.paths if not any(_below(pair, (path,)) for pair in both)]  # fmt: skip
    if not both and not how.paths:  # a gate before an empty checkout has not checked anything
        missed = [Failed(".", "no adapter in this repository", "is the checkout sparse, or the wrong one?")]
    notes = (*ends.notes, *_cut_off(repository, how), *(() if both or how.paths else _nothing(repository)))
    return Check(ends.after.label, how.against, ends.merge_base, results, tuple(missed), notes, how.fail_on)


def _ends(repository: Repository, how: Options) -> _Ends:
    blobs = Blobs(repository)
    at = how.at or ("HEAD" if repository.bare else None)
    head = repository.commit(at or "HEAD")
    if at is not None and head is None:
        raise NotFetchedError(f"{at!r} names no commit of this repository", hint=_fetching(at))
    after = working_side(repository, blobs) if at is None or head is None else commit_side(repository, head, at, blobs)
    if how.against is None:
        before = commit_side(repository, head, "HEAD", blobs) if at is None and head is not None else None
        return _Ends(after, head, before, None, None, (), blobs)
    tip = repository.commit(how.against)
    if tip is None:
        raise NotFetchedError(f"{how.against!r} names no commit of this repository", hint=_fetching(how.against))
    base = repository.merge_base(tip, head) if head is not None else None
    notes = () if base is not None else (
        f"where this parted from {how.against} is not in this clone's history: compared with {how.against} as it is",
    )  # fmt: skip
    given = FULL.sub(lambda found: found[0][:10], how.against)
    label = given if base in (None, tip) else f"{(base or tip)[:10]}, where this parted from {given}"
    before = commit_side(repository, base or tip, label, blobs)
    there = None if base in (None, tip) else commit_side(repository, tip, given, blobs)
    return _Ends(after, head, before, there, base, notes, blobs)


def _fetching(revision: str) -> str:
    """How to get a revision that a shallow clone lacks."""
    if found := REMOTE_BRANCH.fullmatch(revision):
        remote, branch = found.groups()
        return f"git fetch {remote} {branch} --depth=1, or actions/checkout with fetch-depth: 0"
    return "git fetch --deepen=1 (actions/checkout: fetch-depth: 2), or git fetch --unshallow, or --tags"


def _court(
    repository: Repository, how: Options, ends: _Ends, chosen: Sequence[Pair], archive: Archive
) -> Court:  # fmt: skip
    parents, parted = _merged(repository, ends)
    names = {pair.after.folder: _name(pair.after) for pair in chosen if pair.after is not None}
    everyone = {**{folder: folder.rpartition("/")[2] for folder in ends.after.adapters}, **names}
    start = ends.merge_base or (ends.before.commit if ends.before is not None and how.against else None)
    tags = tags_for(repository, archive, everyone, at=ends.head, since=start, remote=how.remote)
    kept = chain(ends.after.adapters.values(), ends.before.adapters.values() if ends.before is not None else ())
    if how.against is None:
        archive.recall([pair.after.folder for pair in chosen if pair.after is not None])
    return Court(
        repository=repository, after=ends.after, before=ends.before, there=ends.there, parents=parents, parted=parted,
        archive=archive, tags=tags, family=Family(ends.after),
        versioned=any(MANIFEST_NAME in one.entries for one in kept), unchanged_too=how.against is None,
        selection=how.selection, fail_on=how.fail_on,
    )  # fmt: skip


def _merged(repository: Repository, ends: _Ends) -> tuple[tuple[Side, ...], Side | None]:
    """The sides of the merge that is checked, and where they parted; none where it is no merge."""
    if ends.head is None:
        return (), None
    parents = repository.line("rev-list", "--parents", "--max-count=1", ends.head).split(" ")[1:]
    merging = repository.commit("MERGE_HEAD") if ends.after.commit is None and not repository.bare else None
    if merging is not None:
        parents = [ends.head, merging]
    return merge_of(repository, parents, ends.blobs)


def _gathered(court: Court, chosen: Sequence[Pair], workers: int) -> Iterator[Evidence]:
    """What is read of each adapter, on a few threads; in their order."""
    slow = [pair for pair in chosen if pair.after is not None and (court.unchanged_too or not pair.unchanged)]

    def work(numbered: tuple[int, Pair]) -> tuple[int, Evidence]:
        return numbered[0], gather(court, numbered[1])

    done = {id(slow[number]): evidence for number, evidence in run(work, enumerate(slow), workers)}
    for pair in chosen:
        yield done.get(id(pair)) or gather(court, pair)


def _below(pair: Pair, paths: Sequence[str]) -> bool:
    folders = [kept.folder for kept in (pair.before, pair.after) if kept is not None]
    return not paths or any(
        path == "" or folder == path or folder.startswith(f"{path}/") for path in paths for folder in folders
    )


def _name(kept: Kept) -> str:
    return kept.readable.name if kept.readable is not None else kept.folder.rpartition("/")[2]


def _nothing(repository: Repository) -> Iterator[str]:
    """That a gate with no adapter behind it kept nothing out."""
    yield "no adapter is there: nothing was checked"
    if (repository.folder / ".gitmodules").is_file():
        yield "submodules are repositories of their own: check them from inside, each with its own versions"


def _cut_off(repository: Repository, how: Options) -> Iterator[str]:
    if repository.shallow and how.against is None:
        yield "the history is cut off (a shallow clone): versions before that were not looked at"
