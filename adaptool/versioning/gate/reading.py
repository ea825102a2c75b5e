"""One adapter against its own manifest: whether what it says is what lies there, byte for byte and in substance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.adapters.config import CONFIG_NAME
from adaptool.errors import AdaptoolError, GitError, NotFetchedError
from adaptool.rules.finding import Unchecked
from adaptool.summary.beside import kind_of
from adaptool.versioning.gate.findings import Finding, finding
from adaptool.versioning.kept.sides import Kept
from adaptool.versioning.record import Record
from adaptool.versioning.recording import has_own_content
from adaptool.versioning.semver import Version, parse_version
from adaptool.versions import FileRecord

FEW = 3
"""Names told before the rest is counted."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an adapter's manifest says, what lies there, and where the two part."""

    stated: Record | None
    """The manifest; None where there is none or it cannot be read."""
    actual: Record | None
    """What lies there; None where this clone has not its content, or it cannot be read."""
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...]

    @property
    def version(self) -> Version | None:
        """The manifest's version, where it is one."""
        return self.stated.semver if self.stated is not None else None

    @property
    def content(self) -> Record | None:
        """The best that is known of the content: what lies there, else a manifest that nothing contradicts."""
        codes = {found.code for found in self.findings} | {item.code for item in self.unchecked}
        return self.actual or (None if "VER003" in codes else self.stated)


def read(kept: Kept, *, versioned: bool) -> Reading:
    """Hold an adapter against its manifest; ``versioned``: this repository has, or had, manifests for adapters."""
    try:
        stated = kept.stated
    except NotFetchedError as error:
        return Reading(None, None, (), (Unchecked("VER002", f"not fetched: {error.message}"),))
    except AdaptoolError as error:
        if error.defect != "other-kind":
            found = finding("VER002", kept.path, error.message, fix=error.hint or "")
            return Reading(None, _actual(kept), (found,), ())
        told = "its manifest tells how it was made, and no version yet"
        return Reading(None, _actual(kept), (_unversioned(kept, versioned, told),), ())
    if stated is None:
        return Reading(None, _actual(kept), (_unversioned(kept, versioned),), ())
    try:
        actual = kept.actual
    except NotFetchedError as error:
        return _unfetched(kept, stated, error)
    except AdaptoolError as error:
        return _unreadable(kept, stated, error)
    findings = (*_of_the_record(kept, stated), *_of_the_files(kept, stated, {f.name: f for f in actual.files}, actual))
    return Reading(stated, actual, findings, ())


def _actual(kept: Kept) -> Record | None:
    try:
        return kept.actual
    except AdaptoolError:
        return None


def _unversioned(kept: Kept, versioned: bool, told: str = "no manifest: this adapter has no version") -> Finding:
    """An error in a repository that keeps versions; a config alone (a test's, a template) is only pointed at."""
    weights = not {WEIGHTS_NAME, PICKLE_NAME}.isdisjoint(kept.entries)
    return finding("VER001", kept.path, told, severity="error" if versioned and weights else "warning")


def _unfetched(kept: Kept, stated: Record, error: NotFetchedError) -> Reading:
    """By pointers: their oid is the SHA-256 that the manifest has of the file."""
    try:
        files = kept.files
    except GitError as lacking:
        return Reading(stated, None, tuple(_of_the_record(kept, stated)),
                       (Unchecked("VER003", f"not fetched: {lacking.message}"),))  # fmt: skip
    findings = (*_of_the_record(kept, stated), *_of_the_files(kept, stated, files, None))
    unknown = sorted(name for name, file in files.items() if file.sha256 is None)
    unchecked = (Unchecked("VER003", f"not fetched: {_named(unknown)}: {error.message}"),) if unknown else ()
    return Reading(stated, None, findings, unchecked)


def _unreadable(kept: Kept, stated: Record, error: AdaptoolError) -> Reading:
    """A file that cannot be read is not what the manifest was written for, unless it was broken then, too."""
    try:
        files = kept.files
        differing = _differing(stated, files)
    except AdaptoolError:
        files, differing = {}, ["?"]
    told = (*_of_the_record(kept, stated), *_missing_and_extra(kept, stated, files or _by_name(stated)))
    if differing or told:
        broken = finding("VER003", kept.path, f"the adapter cannot be read: {error.message}", file=CONFIG_NAME,
                         fix=error.hint or "restore it from Git, or train and save it again")  # fmt: skip
        return Reading(stated, None, (*told, broken), ())
    return Reading(stated, None, told, (Unchecked("VER003", error.message),))


def _of_the_record(kept: Kept, stated: Record) -> Iterator[Finding]:
    """What the manifest says that cannot be, whatever lies beside it."""
    if parse_version(stated.version) is None:
        yield finding("VER105", kept.path, f"the version is {stated.version[:60]!r}")
    for said in stated.contradictions:
        yield finding("VER003", kept.path, f"the manifest contradicts itself: {said}")


def _of_the_files(
    kept: Kept, stated: Record, files: Mapping[str, FileRecord], actual: Record | None
) -> Iterator[Finding]:
    yield from _missing_and_extra(kept, stated, files)
    differing = _differing(stated, files)
    if actual is not None:
        said = _disagreements(stated, actual)
        if said:
            place = CONFIG_NAME if said == ["the config"] else _weights(kept, actual)
            told = f"{' and '.join(said)} {'is' if said == ['the config'] else 'are'} not the manifest's"
            yield finding("VER003", kept.path, f"{told}{_tensors(stated, actual)}", file=place)
        own = [name for name in differing if has_own_content(name, files)]
        resaved = [name for name in differing if name not in own]
        if own:
            yield finding("VER003", kept.path, f"{_named(own)}: not what the manifest lists", file=own[0])
        if resaved and not said:
            yield finding("VER004", kept.path, f"{_named(resaved)}: other bytes than the manifest's, same config and"
                          " weights", file=resaved[0])  # fmt: skip
    elif differing:
        yield finding(
            "VER003", kept.path, f"{_named(differing)}: not the file that the manifest lists (by its size or SHA-256; "
            "the content is not fetched)", file=differing[0],
        )  # fmt: skip


def _disagreements(stated: Record, actual: Record) -> list[str]:
    said = []
    if stated.content.weights != actual.content.weights:
        said.append("the weights")
    if stated.content.config != actual.content.config:
        said.append("the config")
    if stated.peft_type != actual.peft_type and not said:
        said.append("its type, and so the weights")
    if stated.vocabulary != actual.vocabulary:
        said.append("the tokens it is for")
    return said


def _tensors(stated: Record, actual: Record) -> str:
    """Which tensors, where the manifest's list tells."""
    both = stated.tensors.keys() & actual.tensors.keys()
    changed = [name for name in actual.tensors if name in both and actual.tensors[name] != stated.tensors[name]]
    words = [
        f"{len(names)} {word}"
        for names, word in ((changed, "changed"), (actual.tensors.keys() - both, "added"),
                            (stated.tensors.keys() - both, "removed"))
        if names
    ]  # fmt: skip
    return f" ({', '.join(words)} of {len(stated.tensors.keys() | actual.tensors.keys())} tensors)" if words else ""


def _weights(kept: Kept, actual: Record) -> str:
    names = [file.name for file in actual.files if kind_of(file.name) == "weights"]
    return next((name for name in names if name in kept.entries), CONFIG_NAME)


def _missing_and_extra(kept: Kept, stated: Record, files: Mapping[str, FileRecord]) -> Iterator[Finding]:
    listed = {file.name for file in stated.files}
    if missing := sorted(listed - files.keys()):
        yield finding("VER005", kept.path, f"{_named(missing)}: listed in the manifest, and not here")
    if extra := sorted(files.keys() - listed):
        yield finding("VER005", kept.path, f"{_named(extra)}: here, and not listed in the manifest", file=extra[0])


def _differing(stated: Record, files: Mapping[str, FileRecord]) -> list[str]:
    """The files in both that differ, as far as is known."""
    listed = _by_name(stated)
    both = (name for name in sorted(listed.keys() & files.keys()) if files[name].sha256 is not None)
    return [name for name in both if files[name] != listed[name]]


def _by_name(record: Record) -> dict[str, FileRecord]:
    return {file.name: file for file in record.files}


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:FEW])
    return f"{shown} and {len(names) - FEW} more" if len(names) > FEW else shown
