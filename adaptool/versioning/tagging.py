"""A tag for the version of an adapter: made only where HEAD holds exactly what the tag will say, and never moved."""

from __future__ import annotations

import re
from dataclasses import dataclass

from adaptool.errors import GitError, NotFoundError, UsageError
from adaptool.git.repository import Repository
from adaptool.versioning.agreement import agreement_of
from adaptool.versioning.kept.sides import Side, commit_side
from adaptool.versioning.lineage import stated_records
from adaptool.versioning.places import PlacedAdapter
from adaptool.versioning.record import Record, record_beside
from adaptool.versioning.shown import own_files, uncommitted
from adaptool.versioning.signing.covered import open_folder
from adaptool.versioning.tags import tag_message, tag_name, tags_of


@dataclass(frozen=True, slots=True)
class NewTag:
    """A tag that can be made."""

    tag: str
    path: str
    """The adapter's, from the root of the repository; "" is the root."""
    name: str
    version: str
    digest: str
    commit: str
    message: str
    signed: bool
    push: str
    """The command that publishes it."""


def plan_tag(place: PlacedAdapter, message: str = "", *, sign: bool = False) -> NewTag:
    """Check that the version of an adapter can be tagged at HEAD; nothing is made.

    Raises UsageError where the adapter is not as committed, the manifest is of another content, or the tag is there.
    """
    repository = place.repository
    if repository is None:
        raise NotFoundError(f"{place.given}: not in a Git repository", hint="run it inside a clone")
    if place.revision is not None or repository.bare:
        raise UsageError(f"{place.given}: a tag is made of what is checked out", hint="check that revision out first")
    head = repository.commit("HEAD")
    if head is None:
        raise UsageError(f"{place.given}: nothing is committed yet", hint="git add and git commit it first")
    record = record_beside(place.folder)
    if record is None:
        raise NotFoundError(f"{place.given}: no manifest", hint=f"adaptool version init {place.folder}")
    if record.semver is None:
        raise UsageError(f"{place.given}: {record.version[:60]!r} is not a semantic version", hint="see: bump --to")
    _check(place, record, repository)
    side = commit_side(repository, head, "HEAD")
    names = _names(side) | {place.path: record.name}
    _check_free(place, record, repository, names)
    tag = tag_name(place.path, record.version, names)
    if not repository.run("check-ref-format", "--normalize", f"refs/tags/{tag}", okay=(0, 1)):
        raise UsageError(f"{tag!r} cannot name a tag", hint="give the adapter another name: version bump --name NAME")
    text = tag_message(record.name, record.version, record.content.digest, message or record.message or "")
    return NewTag(tag, place.path, record.name, record.version, record.content.digest, head, text, sign,
                  f"git push {_remote(repository)} {tag}")  # fmt: skip


def make_tag(repository: Repository, tag: NewTag) -> None:
    """Make it. Raises GitError where Git refuses, such as without a name and address for the tagger."""
    how = "--sign" if tag.signed else "--no-sign"
    try:
        repository.run("tag", "--annotate", how, "--cleanup=verbatim", f"--message={tag.message}",
                       "--end-of-options", tag.tag, tag.commit)  # fmt: skip
    except GitError as error:
        if re.search(r"who you are|ident|(?:name|email) was given", error.message):
            raise GitError(error.message, hint="git config user.name NAME; git config user.email ADDRESS") from None
        raise


def _check(place: PlacedAdapter, record: Record, repository: Repository) -> None:
    if apart := uncommitted(repository, place.path, own_files(place, record)):
        raise UsageError(
            f"{place.given}: not as committed: {', '.join(apart[:4])}", hint="commit them first: a tag is of a commit"
        )
    check = agreement_of(open_folder(place.folder)).check
    if check.status != "agrees":
        raise UsageError(
            f"{place.given}: {check.because}", hint=f"adaptool version bump {place.folder}, then commit it"
        )


def _check_free(place: PlacedAdapter, record: Record, repository: Repository, names: dict[str, str]) -> None:
    for version, tag in tags_of(repository, names).get(place.path, ()):
        if str(version) == record.version:
            raise UsageError(
                f"the tag {tag.name} is there already, on {tag.commit[:12]}: tags do not move",
                hint=f"a new content takes a new version: adaptool version bump {place.folder}",
            )


def _names(side: Side) -> dict[str, str]:
    """The name of every adapter by its path: its manifest's, else its folder's."""
    known = stated_records(side)
    return {path: known[path].name if path in known else path.rpartition("/")[2] for path in side.adapters}


def _remote(repository: Repository) -> str:
    remotes = repository.line("remote").splitlines()
    return "origin" if "origin" in remotes or not remotes else remotes[0]
