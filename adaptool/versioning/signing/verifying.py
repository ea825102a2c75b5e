"""Verifying a folder: by keys the user trusts, over every file in it, and against its manifest.

Nothing in the signature's file decides whom to trust or what may be left out. Where no key is given, a signature is
"not checked" and never "verified".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adaptool.errors import DiskError, FormatError, NotFetchedError, NotFoundError, UnsupportedError
from adaptool.rules.files.listing import Entry
from adaptool.tensors.locate import as_given
from adaptool.versioning.agreement import agreement_of
from adaptool.versioning.signing.bundle import SIGNATURE_NAME, Bundle, read_bundle
from adaptool.versioning.signing.covered import INERT, Folder, is_as_signed, open_folder, pointer_in
from adaptool.versioning.signing.keys import PublicKey
from adaptool.versioning.signing.statement import Resource, Statement, is_ignored, read_statement
from adaptool.versioning.signing.verification import Difference, KeyRecord, SignatureCheck, VersionVerification

NO_KEY = "there is a signature, and it was not checked: no key was given"


def verify_version(
    path: Path, keys: Sequence[PublicKey] = (), signature: Path | None = None, *, given: str = "",
    pinned_by: Path | None = None,
) -> VersionVerification:  # fmt: skip
    """Hold the folder ``path`` against its signature, by any of ``keys``, and against its manifest.

    ``signature`` is its file, by default model.sig in the folder; ``pinned_by`` the settings that name the keys.
    Raises AdaptoolError where there is no folder, nothing to verify it by, or no ``cryptography``.
    """
    if not path.is_dir():
        raise NotFoundError(f"{path}: no such folder", hint="give the folder the adapter lies in")
    place = path / SIGNATURE_NAME if signature is None else signature
    if signature is not None and not signature.is_file():
        raise NotFoundError(f"{signature}: no such file", hint="--signature names a signature's file")
    folder = open_folder(path, place)
    folder.check()
    found = agreement_of(folder)
    check, differences = _signature(folder, place, keys, found.hashed or {})
    if check.key is not None and pinned_by is not None:
        check = replace(check, key=replace(check.key, pinned_by=str(pinned_by)))
    if check.status == "none" and found.check.status == "none":
        raise NotFoundError(f"{path}: neither a signature nor a manifest to verify it by",
                            hint=f"adaptool version init {path}")  # fmt: skip
    check = replace(check, file=check.file and as_given(check.file), because=as_given(check.because))
    manifest = replace(found.check, because=as_given(found.check.because))
    return VersionVerification(
        given or str(path), check, manifest, (*differences, *found.differences), _not_fetched(folder), found.notes
    )


def _signature(
    folder: Folder, place: Path, keys: Sequence[PublicKey], hashed: Mapping[str, str]
) -> tuple[SignatureCheck, tuple[Difference, ...]]:
    if not os.path.lexists(place):
        if keys:
            return SignatureCheck("missing", None, f"a key is given, and there is no {place.name}"), ()
        return SignatureCheck("none", None, "not signed: only the manifest says what should be here"), ()
    if not keys:
        return SignatureCheck("unchecked", str(place), NO_KEY), ()
    try:
        bundle = read_bundle(place)
        key = next((key for key in keys if key.accepts(bundle.envelope.signature, bundle.envelope.signed)), None)
        if key is None:
            return SignatureCheck("invalid", str(place), _no_key_fits(bundle, keys)), ()
        statement = read_statement(bundle.envelope.payload, str(place))
    except (FormatError, DiskError) as error:
        return SignatureCheck("invalid", str(place), error.message), ()
    except (UnsupportedError, NotFetchedError) as error:
        hint = f" ({error.hint})" if error.hint else ""
        return SignatureCheck("unchecked", str(place), error.message + hint), ()
    return _held_against(folder, place, key, statement, hashed)


def _held_against(
    folder: Folder, place: Path, key: PublicKey, statement: Statement, hashed: Mapping[str, str]
) -> tuple[SignatureCheck, tuple[Difference, ...]]:
    """The folder, against what the key has signed."""
    try:
        differences = tuple(_differences(folder, statement, hashed))
    except NotFetchedError as error:
        return SignatureCheck("unchecked", str(place), error.message, _record(key)), ()
    because = (
        f"the signature is good, and the folder is not what was signed: {_counted(differences)}"
        if differences
        else f"{len(statement.files)} files are as they were signed, and no other is there"
    )
    return SignatureCheck(
        "mismatch" if differences else "verified", str(place), because, _record(key), statement.name,
        statement.digest, tuple(statement.files), statement.ignored,
    ), differences  # fmt: skip


def _no_key_fits(bundle: Bundle, keys: Sequence[PublicKey]) -> str:
    made_by = f"it names the key {bundle.hint[:12]}…" if bundle.hint else "it does not say by which key it was made"
    if any(key.fingerprint == bundle.hint for key in keys):
        return "the signature names your key, and is not that key's over what it states: one of the two was changed"
    mine = ", ".join(f"{key.fingerprint[:12]}…" for key in keys[:3])
    return f"not made by the key given: {made_by}, and yours is {mine}"


def _record(key: PublicKey) -> KeyRecord:
    return KeyRecord(key.where, key.kind, key.fingerprint)


def _differences(folder: Folder, statement: Statement, hashed: Mapping[str, str]) -> Iterator[Difference]:
    signed, there = statement.files, folder.listing.by_name
    for name, said in signed.items():
        entry = there.get(name)
        if entry is None:
            yield Difference(name, "missing", "signature")
        elif (detail := _differs(entry, said, statement, hashed)) is not None:
            yield Difference(name, "changed", "signature", detail)
    for entry in folder.entries:
        if entry.name in signed:
            continue
        if not is_ignored(entry.name, statement.ignored):
            yield Difference(entry.name, "unsigned", "signature", "" if entry.is_file else f"a {entry.kind}")
        elif not INERT.fullmatch(entry.name):
            yield Difference(entry.name, "left out", "signature", "the signer left it out, and a loader could read it")


def _differs(entry: Entry, said: tuple[Resource, ...], statement: Statement, hashed: Mapping[str, str]) -> str | None:
    """How a file differs from what was signed; None where it does not."""
    if not entry.is_file:
        return "a link that leaves the folder" if entry.kind == "link" else f"a {entry.kind}"
    pointer = pointer_in(entry)
    if pointer is None:
        return None if is_as_signed(entry, said, statement, hashed) else ""
    comparable = statement.method == "files" and statement.hash_type == "sha256"
    if pointer.kind != "lfs" or pointer.extended or not comparable:
        raise NotFetchedError(f"{entry.shown} was not fetched, and its pointer cannot be compared with the signature")
    return None if pointer.oid == said[0].digest else f"its LFS pointer is to other content ({pointer.oid[:12]}…)"


def _counted(differences: Iterable[Difference]) -> str:
    counts: dict[str, int] = {}
    for difference in differences:
        counts[difference.what] = counts.get(difference.what, 0) + 1
    return ", ".join(f"{number} {what}" for what, number in counts.items())


def _not_fetched(folder: Folder) -> tuple[str, ...]:
    return tuple(entry.name for entry in folder.entries if pointer_in(entry) is not None)
