"""Signing a folder: every file in it, by one key, into one file beside them.

Who verifies gets config, weights, tokenizer and manifest from the signer or not at all; the card may change.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptool.errors import AdaptoolError, FormatError, NotFetchedError, NotFoundError, UsageError
from adaptool.tensors.files import open_file
from adaptool.versioning.agreement import Agreement, agreement_of, refuse_disagreement
from adaptool.versioning.signing.bundle import SIGNATURE_NAME, Bundle, bundle_text, read_bundle
from adaptool.versioning.signing.covered import Folder, left_out, open_folder, pointer_in, to_sign
from adaptool.versioning.signing.dsse import PAYLOAD_TYPE, Envelope, encoded
from adaptool.versioning.signing.keys import PrivateKey
from adaptool.versioning.signing.statement import Statement, statement_of, statement_payload
from adaptool.versions import sha256_of
from adaptool.writing.text_file import write_text


@dataclass(frozen=True, slots=True)
class SignedFile:
    """One file a signature is over."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Signing:
    """A signature about to be written, or written."""

    out: Path
    name: str
    """What the signature calls the folder."""
    digest: str
    """Over all the files."""
    key_kind: str
    key_fingerprint: str
    files: tuple[SignedFile, ...]
    ignored: tuple[str, ...]
    """What the signature leaves out, where it is there."""
    notes: tuple[str, ...]
    text: str
    """The file."""

    def write(self) -> None:
        """Put it there, whole or not at all."""
        write_text(self.out, self.text)


def sign(path: Path, key: PrivateKey, out: Path | None = None) -> Signing:
    """Sign every file of the adapter (or model) folder ``path``; nothing is written until ``write()``.

    Refused are a folder whose manifest is not true of it, one of which something was not fetched or cannot be covered,
    and one with a private key in it. Raises AdaptoolError.
    """
    if not path.is_dir():
        raise NotFoundError(f"{path}: no such folder", hint="give the folder the adapter lies in")
    target = path / SIGNATURE_NAME if out is None else out
    _check_target(target)
    folder = open_folder(path, target)
    _refuse_private_keys(folder, key)
    entries = list(to_sign(folder))
    if not entries:
        raise NotFoundError(f"{path}: no files to sign")
    for entry in entries:
        if pointer_in(entry) is not None:
            raise NotFetchedError(
                f"{path}: {entry.shown} is a pointer, not the file", hint="fetch it with: git lfs pull"
            )
    found = agreement_of(folder)
    refuse_disagreement(path, found)
    known: Mapping[str, str] = found.hashed or {}
    digests = {entry.name: known.get(entry.name) or sha256_of(open_file(entry.path)) for entry in entries}
    name = found.record.name if found.record is not None else path.resolve().name
    symlinks = any(entry.kind == "link" for entry in entries)
    statement = statement_of(name, digests, left_out(folder), symlinks=symlinks)
    return _signed(statement, key, target, _notes(found, key, symlinks))


def _signed(statement: Statement, key: PrivateKey, target: Path, notes: tuple[str, ...]) -> Signing:
    payload = statement_payload(statement)
    signature = key.sign(encoded(PAYLOAD_TYPE, payload))
    text = bundle_text(Bundle(Envelope(payload, signature), key.public.fingerprint))
    files = tuple(SignedFile(one.name, one.digest) for one in statement.resources)
    return Signing(
        target, statement.name, statement.digest, key.public.kind, key.public.fingerprint, files, statement.ignored,
        notes, text,
    )  # fmt: skip


def _check_target(target: Path) -> None:
    """Refuse to write over what is no signature; an older one is replaced, as every new version is signed anew."""
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder")
    if not os.path.lexists(target):
        return
    try:
        read_bundle(target)
    except AdaptoolError as error:
        raise UsageError(
            f"{target}: is there and is no signature ({error.message.removeprefix(f'{target}: ')})",
            hint="choose another --out, or move it away",
        ) from None


def _refuse_private_keys(folder: Folder, key: PrivateKey) -> None:
    """A key left in the folder would be published with it; rule FIL302 finds one under any name."""
    from adaptool.rules.engine import Options, validate_subject
    from adaptool.rules.selection import Selection
    from adaptool.rules.subject import Subject

    place, root = Path(key.where).resolve(), folder.path.resolve()
    if place.is_relative_to(root):
        raise UsageError(f"{key.where}: the private key lies in the folder that is signed", hint="keep it elsewhere")
    report = validate_subject(Subject(folder.path), Options(Selection(select=("FIL302",))))
    for finding in report.findings:
        if finding.severity == "error":
            raise FormatError(f"{folder.path}: {finding.message}", hint="it would be published: move it away")


def _notes(found: Agreement, key: PrivateKey, symlinks: bool) -> tuple[str, ...]:
    notes = list(found.notes)
    if found.check.status == "none":
        notes.append("there is no manifest: the signature says who, not which version (adaptool version init)")
    if key.public.kind == "Ed25519":
        notes.append("signed with Ed25519, which adaptool verifies and model-signing does not")
    if symlinks:
        notes.append("some files are links: model_signing verify wants --allow_symlinks")
    return tuple(notes)
