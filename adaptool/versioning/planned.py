"""What is to be done to one adapter's manifest: told before it is written, and written in one step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adaptool.comparing.result import Level
from adaptool.errors import AdaptoolError
from adaptool.tensors.files import open_file
from adaptool.versioning.record import LARGEST, Record, record_text
from adaptool.versioning.recording import write_record
from adaptool.versions import MANIFEST_NAME


@dataclass(frozen=True, slots=True)
class Change:
    """One adapter's step from a version to the next, or to its first."""

    path: Path
    """The adapter's folder, as the user named or found it."""
    manifest: Path
    name: str
    peft_type: str
    before: str | None
    """The version it is counted from; None where there was none."""
    after: str
    level: Level
    """What the change of the content asks for."""
    reasons: tuple[str, ...]
    since: str
    """What the content was compared with: "HEAD", "the manifest"; "" where there was nothing."""
    written: bool
    """Whether the manifest is (or with --dry-run would be) written: it is not where it would stay as it is."""
    digest: str
    base: str | None
    base_pinned: bool
    tensors: int
    files: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A change and the manifest that makes it."""

    change: Change
    text: str

    def write(self) -> None:
        """Put the manifest beside the adapter, where it is not there already."""
        if self.change.written:
            write_record(self.change.path, self.text)


@dataclass(frozen=True, slots=True)
class Failure:
    """An adapter that could not be dealt with."""

    path: str
    message: str
    hint: str | None
    exit_code: int


@dataclass(frozen=True, slots=True)
class Changes:
    """All adapters of one command."""

    dry_run: bool
    adapters: tuple[Change, ...]
    failures: tuple[Failure, ...]

    @property
    def exit_code(self) -> int:
        """That of the gravest failure."""
        return max((failure.exit_code for failure in self.failures), default=0)


def planned(
    folder: Path, record: Record, old: Record | None, *, before: str | None, level: Level, reasons: tuple[str, ...],
    since: str, notes: tuple[str, ...],
) -> Planned:  # fmt: skip
    """The step to ``record``; ``old`` is what the manifest holds now. Who wrote it is no reason to write it anew."""
    if old is not None and record.same_as(old):
        record = old
    manifest = folder / MANIFEST_NAME
    text = record_text(record)
    change = Change(
        path=folder, manifest=manifest, name=record.name, peft_type=record.peft_type, before=before,
        after=record.version, level=level, reasons=reasons, since=since, written=_stored(manifest) != text,
        digest=record.content.digest, base=record.base.name, base_pinned=record.base.pinned,
        tensors=len(record.tensors), files=len(record.files), notes=notes,
    )  # fmt: skip
    return Planned(change, text)


def _stored(manifest: Path) -> str | None:
    try:
        return open_file(manifest).read_all(LARGEST).decode("utf-8", "surrogateescape")
    except AdaptoolError:
        return None
