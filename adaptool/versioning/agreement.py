"""Whether a manifest tells the truth of the folder it lies in, file by file and tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptool.adapters.config import CONFIG_NAME, read_config
from adaptool.errors import AdaptoolError, FormatError, MismatchError
from adaptool.rules.files.listing import Entry
from adaptool.summary.beside import kind_of
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json
from adaptool.versioning.fields import Fields
from adaptool.versioning.record import KIND, LARGEST, Record, read_record, refuse_marks
from adaptool.versioning.recording import has_own_content, record_of, shipped
from adaptool.versioning.signing.covered import Folder, pointer_in
from adaptool.versioning.signing.verification import Difference, ManifestCheck, What
from adaptool.versions import MANIFEST_NAME, MANIFEST_SCHEMA, FileRecord, config_digest, sha256_of

MOST_NAMED = 3
"""Tensors named in a sentence."""

RESAVED = "saved again with the same content"
OTHER_CONFIG = "the manifest has another config's digest"


@dataclass(frozen=True)
class Agreement:
    """What was found, and what was learnt on the way."""

    check: ManifestCheck
    differences: tuple[Difference, ...] = ()
    hashed: Mapping[str, str] | None = None
    """Files by name → SHA-256 of their content: they need not be read again."""
    notes: tuple[str, ...] = ()
    record: Record | None = None
    """The manifest of an adapter with a version."""
    actual: Record | None = None
    """The same with the files as they lie here, where they were read."""


def agreement_of(folder: Folder) -> Agreement:
    """Hold the manifest of ``folder`` against what lies there."""
    entry = folder.listing.by_name.get(MANIFEST_NAME)
    if entry is None:
        return Agreement(ManifestCheck("none", "there is no manifest"))
    try:
        if not entry.is_file:
            raise FormatError(f"{entry.path}: is a {entry.kind} that is not followed")
        data = open_file(entry.path).read_all(LARGEST)
        kind = _kind(data, str(entry.path))
        if kind != KIND:
            return _of_files(folder, kind, data, str(entry.path))
        record = read_record(data, str(entry.path))
    except AdaptoolError as error:
        return Agreement(ManifestCheck("unchecked", error.message))
    return _of_adapter(folder, record)


def refuse_disagreement(path: Path, found: Agreement) -> None:
    """Raise MismatchError where the manifest is not true of the content: what rests on it would not be either."""
    if found.check.status == "differs":
        first = found.differences[0]
        detail = f": {first.detail}" if first.detail else ""
        raise MismatchError(
            f"{path}: manifest and content disagree: {first.file} ({first.what}){detail}",
            hint=f"adaptool version bump --auto {path}",
        )
    if found.check.status == "unchecked" and found.check.kind in (None, "adapter"):
        raise MismatchError(f"the manifest could not be held against the content: {found.check.because}")


def _kind(data: bytes, where: str) -> str:
    """What the manifest is of, as far as it can be told; whatever is wrong with an adapter's, ``read_record`` says."""
    if not data.startswith(b"{"):
        return KIND
    refuse_marks(data, where)
    value = parse_json(data, where, what="manifest")
    kind = value.get("kind") if isinstance(value, dict) and value.get("schema") == MANIFEST_SCHEMA else KIND
    return kind if kind in ("merged", "converted", "fixed") else KIND


def _of_files(folder: Folder, kind: str, data: bytes, where: str) -> Agreement:
    """The manifest of something made: it lists files, and their digests where that cost nothing."""
    listed = [_listed(item) for item in Fields(parse_json(data, where), where).items("files")]
    hashed: dict[str, str] = {}
    differences = tuple(_against_files(folder, listed, hashed))
    bare = [record.name for record in listed if record.sha256 is None]
    if differences:
        check = ManifestCheck("differs", f"the manifest ({kind}) lists other files", kind)
    elif bare or not listed:
        because = f"the manifest ({kind}) has no digests of {len(bare)} files; their sizes agree"
        check = ManifestCheck("unchecked", because, kind)
    else:
        check = ManifestCheck("agrees", f"the manifest ({kind}) has the digest of every file, and they agree", kind)
    return Agreement(check, differences, hashed)


def _listed(item: Fields) -> FileRecord:
    return FileRecord(item.text("name"), item.size("size"), item.maybe("sha256"))


def _of_adapter(folder: Folder, record: Record) -> Agreement:
    contradictions = [Difference(MANIFEST_NAME, "contradiction", "manifest", said) for said in record.contradictions]
    if any(pointer_in(folder.listing.by_name[name]) for name in shipped(folder.listing.by_name)):
        return _not_fetched(folder, record, contradictions)
    try:
        found = record_of(folder.path, record)
    except AdaptoolError as error:
        wrong = (*contradictions, *_against_files(folder, record.files, {}))
        return Agreement(_said(record, "differs" if wrong else "unchecked", error.message), wrong, None, (), record)
    hashed = {file.name: file.sha256 for file in found.files if file.sha256 is not None}
    differences, notes = _against_content(record, found)
    check = _judged(record, [*contradictions, *differences], "config, tensors and files")
    return Agreement(check, (*contradictions, *differences), hashed, notes, record, found)


def _not_fetched(folder: Folder, record: Record, contradictions: list[Difference]) -> Agreement:
    """An adapter of which Git LFS has put pointers here: by the digests and sizes of its files, and by its config."""
    hashed: dict[str, str] = {}
    notes: tuple[str, ...] = ()
    differences = [*contradictions, *_against_files(folder, record.files, hashed)]
    try:
        same_config = config_digest(read_config(folder.path / CONFIG_NAME)) == record.content.config
    except AdaptoolError:  # a pointer too, or gone, which the files tell
        same_config = None
    about_config = [one for one in differences if one.file == CONFIG_NAME and one.what == "changed"]
    if same_config and about_config:
        differences = [one for one in differences if one not in about_config]
        notes = (f"{RESAVED}: {CONFIG_NAME}",)
    elif same_config is False and not about_config:
        differences.append(_changed(CONFIG_NAME, OTHER_CONFIG))
    check = _judged(record, differences, "the digests and sizes of all files")
    return Agreement(check, tuple(differences), hashed, notes, record)


def _judged(record: Record, differences: list[Difference], what: str) -> ManifestCheck:
    if differences:
        return _said(record, "differs", "the manifest was written for another content")
    return _said(record, "agrees", f"{what} are those of the manifest")


def _said(record: Record, status: Any, because: str) -> ManifestCheck:
    return ManifestCheck(status, because, KIND, record.name, record.version, record.content.digest)


def _against_content(record: Record, found: Record) -> tuple[list[Difference], tuple[str, ...]]:
    """What the adapter's content says otherwise than its record; files saved again with the same content are a note."""
    same_config = record.content.config == found.content.config and record.peft_type == found.peft_type
    tensors = _tensors(record, found)
    was, now = ({file.name: file for file in one.files} for one in (record, found))
    differences: list[Difference] = []
    resaved: list[str] = []
    for name in sorted({*was, *now}):
        if was.get(name) == now.get(name):
            continue
        kind = kind_of(name)
        if name not in now or name not in was:
            differences.append(_gone_or_new(name, there=name in now))
        elif kind == "adapter config":
            resaved += [name] if same_config else []
            differences += [] if same_config else [_changed(name, "the config makes another adapter of the weights")]
        elif kind == "weights" and not tensors and not has_own_content(name, now):
            resaved.append(name)
        else:
            differences.append(_changed(name, tensors if kind == "weights" else ""))
    told = {difference.file for difference in differences}
    if not same_config and CONFIG_NAME not in told:
        differences.append(_changed(CONFIG_NAME, OTHER_CONFIG))
    if tensors and not any(kind_of(name) == "weights" for name in told):
        differences.append(Difference(MANIFEST_NAME, "changed", "manifest", f"it has other tensors: {tensors}"))
    if record.base != found.base:
        differences.append(Difference(CONFIG_NAME, "changed", "manifest",
                           f"the base is {found.base.name!r}, and in the manifest {record.base.name!r}"))  # fmt: skip
    if record.vocabulary != found.vocabulary:
        differences.append(Difference(MANIFEST_NAME, "changed", "manifest", "it says that it is for other tokens"))
    notes = (f"{RESAVED}: {', '.join(resaved)}",) if resaved else ()
    return differences, notes


def _tensors(record: Record, found: Record) -> str:
    """The tensors that differ, in words; "" where none do."""
    was, now = record.tensors, found.tensors
    parts = (
        (sorted(name for name in was if name in now and was[name] != now[name]), f"of {len(was)} tensors differ"),
        (sorted(now.keys() - was.keys()), "were added"),
        (sorted(was.keys() - now.keys()), "are gone"),
    )
    return "; ".join(f"{len(names)} {how}: {_some(names)}" for names, how in parts if names)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _against_files(folder: Folder, listed: Iterable[FileRecord], hashed: dict[str, str]) -> Iterator[Difference]:
    """Files by size and digest alone, which an LFS pointer has too; what was hashed is put into ``hashed``."""
    there = folder.listing.by_name
    names = set()
    for record in listed:
        names.add(record.name)
        entry = there.get(record.name)
        if entry is None or not entry.is_file:
            yield _gone_or_new(record.name, there=False)
        elif detail := _file_differs(entry, record, hashed):
            yield _changed(record.name, detail)
    for name in shipped(name for name, entry in there.items() if entry.is_file):
        if name not in names:
            yield _gone_or_new(name, there=True)


def _file_differs(entry: Entry, record: FileRecord, hashed: dict[str, str]) -> str:
    pointer = pointer_in(entry)
    if pointer is not None and pointer.kind == "lfs" and not pointer.extended:
        agrees = pointer.size == record.size and record.sha256 in (None, pointer.oid)
        return "" if agrees else f"its LFS pointer is to other content ({pointer.oid[:12]}…, {pointer.size:,} bytes)"
    if entry.size != record.size:
        return f"{entry.size:,} bytes, and in the manifest {record.size:,}"
    if record.sha256 is None:
        return ""
    hashed[record.name] = sha256_of(open_file(entry.path))
    return "" if hashed[record.name] == record.sha256 else "another SHA-256"


def _changed(name: str, detail: str) -> Difference:
    return Difference(name, "changed", "manifest", detail)


def _gone_or_new(name: str, *, there: bool) -> Difference:
    what: What = "unlisted" if there else "missing"
    return Difference(name, what, "manifest", "")
