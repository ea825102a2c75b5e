"""Tags that moved: that lead to another version, to other content than they were made for, or elsewhere on a remote."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from adaptool.comparing.result import Level
from adaptool.errors import UsageError
from adaptool.git.process import failure
from adaptool.git.remotes import ask_remote
from adaptool.git.repository import Repository, Tag
from adaptool.rules.finding import Severity, Unchecked
from adaptool.versioning.gate.findings import Finding, finding
from adaptool.versioning.gate.reading import Reading
from adaptool.versioning.gate.steps import Compared, Elsewhere, lacking
from adaptool.versioning.kept.history import Archive
from adaptool.versioning.record import Record
from adaptool.versioning.semver import Version
from adaptool.versioning.tags import digest_in, tags_of
from adaptool.versions import MANIFEST_NAME

LevelAt = Callable[[str, Record], Compared]
"""What lies between an adapter at a commit, which has that record there, and here."""

REMOTE_TAG = re.compile(rb"([0-9a-f]{40,64})\trefs/tags/(.+?)(\^\{\})?")


@dataclass(frozen=True)
class Tags:
    """The tags of a repository, and which of them concern a check."""

    archive: Archive
    by_adapter: Mapping[str, tuple[tuple[Version, Tag], ...]]
    places: Mapping[tuple[str, str], str]
    """(commit, adapter's folder) → its manifest's oid."""
    reached: frozenset[str] | None
    """Names of those that lead into the history of what is checked; None: all do."""
    new: frozenset[str] | None
    """Of those, the ones that lead to commits of the change itself; None without one."""
    future: frozenset[str] = frozenset()
    """Names of those that lead to commits made on top of what is checked: nobody could know them then."""
    remote: Mapping[str, str] = field(default_factory=dict)
    """Commits that the tags of a remote lead to, by name."""
    remote_name: str = ""

    def findings(
        self, folder: str, path: str, here: Reading, compared: Sequence[Version], level: LevelAt
    ) -> Iterator[Finding | Unchecked]:
        """What is wrong with an adapter's tags; ``compared``: the versions the change is between."""
        now = here.version
        ranks = {version.rank for version in (*compared, *([now] if now else []))}
        for version, tag in self.by_adapter.get(folder, ()):
            own = version.rank in ranks
            if tag.name in self.future:
                continue
            if not own and self.reached is not None and tag.name not in self.reached:
                continue
            concerned = own or self.new is None or tag.name in self.new
            severity: Severity = "error" if concerned else "warning"
            said, fix = self._wrong(folder, version, tag, here, now, level)
            if said is None:
                yield lacking("VER201", version, f"the tag {tag.name}")
            elif said:
                yield finding("VER201", path, said, severity=severity, fix=fix)
            elsewhere = self.remote.get(tag.name)
            if elsewhere is not None and elsewhere != tag.commit:
                yield finding(
                    "VER201", path, f"the tag {tag.name} is {tag.commit[:10]} here and {elsewhere[:10]} on "
                    f"{self.remote_name}", fix=f"git fetch {self.remote_name} --tags --force",
                )  # fmt: skip

    def _wrong(
        self, folder: str, version: Version, tag: Tag, here: Reading, now: Version | None, level: LevelAt
    ) -> tuple[str | None, str]:
        """What is wrong with a tag, and what to do where it is not the usual; "" is nothing, None: not fetched."""
        oid = self.places.get((tag.commit, folder))
        record = self.archive.record(oid) if oid is not None else None
        promised = digest_in(tag)
        if not _is(record, version, tag) and self._is_anothers(folder, version, tag):
            return "", ""
        if record is None:
            lost = oid is None and (promised is not None or (now is not None and now.rank == version.rank))
            said = f"the tag {tag.name} leads to {tag.commit[:10]}, where this adapter has no manifest"
            return (said if lost else ""), ""
        there = record.semver
        if there is None or there.rank != version.rank:
            return f"the tag {tag.name} leads to {tag.commit[:10]}, which has the version {record.version[:40]}", ""
        if promised is not None and promised != record.content.digest:
            return f"the tag {tag.name} was made for other content than {tag.commit[:10]} has", ""
        between = _between(tag, record, here, level) if now is not None and now.rank == version.rank else "none"
        if between is None:
            return None, ""
        if between != "none":
            said = f"the tag {tag.name} leads to a {version} with other content than this one"
            return said, "adaptool version bump {path}, or put the tag back where it was"
        return "", ""

    def _is_anothers(self, folder: str, version: Version, tag: Tag) -> bool:
        """Whether the tag is of another adapter of the same name: that one has the version where the tag leads."""
        others = (other for other, own in self.by_adapter.items() if other != folder and (version, tag) in own)
        places = (self.places.get((tag.commit, other)) for other in others)
        return any(oid is not None and _is(self.archive.record(oid), version, tag) for oid in places)


def _between(tag: Tag, record: Record, here: Reading, level: LevelAt) -> Level | None:
    """What lies between the content of a tag and this; None where only weights that are not fetched could tell."""
    content = here.content or here.stated
    there = Elsewhere(tag.name, record, lambda: level(tag.commit, record))
    return "none" if content is None else there.between(content)


def tags_for(
    repository: Repository, archive: Archive, names: Mapping[str, str], *, at: str | None, since: str | None,
    remote: str | None,
) -> Tags:  # fmt: skip
    """The tags of these adapters (name by folder), for a check of ``at`` since ``since``."""
    everything = repository.tags()
    reached = None if at is None else _leading(repository, "--merged", at)
    before = frozenset() if since is None else _leading(repository, "--merged", since)
    new = None if since is None or reached is None else reached - before
    there = {} if remote is None else remote_tags(repository, remote)
    future = frozenset() if at is None or reached is None else _leading(repository, "--contains", at) - reached
    owned = tags_of(repository, names, everything)
    return Tags(archive, owned, places_of(archive, owned), reached, new, future, there, remote or "")


def places_of(
    archive: Archive, owned: Mapping[str, tuple[tuple[Version, Tag], ...]]
) -> Mapping[tuple[str, str], str]:  # fmt: skip
    """Where the tags of adapters find their manifests: of one that was moved since, in the folder it was in then."""
    found = dict(archive.at([(tag.commit, path) for path, own in owned.items() for _, tag in own]))
    lost = [(path, *tagged) for path, own in owned.items() for tagged in own if (tagged[1].commit, path) not in found]
    trees: dict[str, Mapping[str, str]] = {}
    for path, version, tag in lost:
        if tag.commit not in trees:
            trees[tag.commit] = _manifests(archive.repository, tag.commit)
        elsewhere = [oid for folder, oid in trees[tag.commit].items() if folder not in owned]
        same = [oid for oid in elsewhere if _is(archive.record(oid), version, tag)]
        if len(set(same)) == 1:
            found[tag.commit, path] = same[0]
    return found


def _manifests(repository: Repository, commit: str) -> Mapping[str, str]:
    """Every manifest of a commit: its oid by its folder."""
    paths = ((path.rpartition("/"), blob) for path, blob in repository.tree(commit).items())
    return {folder: blob.oid for (folder, _, name), blob in paths if name == MANIFEST_NAME}


def _is(record: Record | None, version: Version, tag: Tag) -> bool:
    """Whether a manifest in another folder is the one that a tag was made for."""
    if record is None or record.semver is None or record.semver.rank != version.rank:
        return False
    promised = digest_in(tag)
    return promised == record.content.digest if promised is not None else record.name in tag.name


def _leading(repository: Repository, how: str, commit: str) -> frozenset[str]:
    told = repository.run("for-each-ref", "--format=%(refname:strip=2)", f"{how}={commit}", "refs/tags")
    return frozenset(told.decode("utf-8", "replace").split("\n"))


def remote_tags(repository: Repository, name: str) -> Mapping[str, str]:
    """The tags of a remote and the commits they lead to: the one question here that goes over the network.

    Raises UsageError where no remote is called so, GitError where it does not answer.
    """
    known = [name for name in os.fsdecode(repository.run("remote")).split("\n") if name]
    if name not in known:
        raise UsageError(f"no remote is called {name[:60]!r}", hint=f"one of: {', '.join(known)}" if known else None)
    done = ask_remote(repository.folder, "--tags", "--", name)
    if done.returncode:
        raise failure("ls-remote", done.stderr)
    found: dict[str, str] = {}
    for line in done.stdout.split(b"\n"):
        if told := REMOTE_TAG.fullmatch(line):
            found[told[2].decode("utf-8", "replace")] = told[1].decode(
                "ascii"
            )  # a peeled tag, ^{}, comes behind its own object
    return found
