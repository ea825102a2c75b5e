"""What is signed: an in-toto statement that names every file of a folder with its digest.

The predicate is that of OpenSSF model-signing 1.0, so each tool verifies what the other signed. Its subject is one
digest: SHA-256 over the digests of all the files, in the order in which they are listed.
Source: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, and the ``Payload`` of model-signing.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, cast

from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.jsons import parse_json
from adaptool.versions import canonical_json

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
OLD_PREDICATES = ("https://model_signing/Digests/v0.1",)

Method = Literal["files", "shards"]
HASHES: Mapping[str, int] = {"sha256": 32, "blake2b": 64}
"""Hash functions of the standard library that model-signing offers, and their digests' bytes."""

LONGEST_NAME = 4096
MOST_IGNORED = 1000


@dataclass(frozen=True, slots=True)
class Resource:
    """A file, or a shard of one, and its digest."""

    name: str
    """The file's path from the folder, with slashes."""
    digest: str
    start: int = 0
    stop: int | None = None
    """Of a shard: the bytes ``start`` to ``stop``; None is the whole file."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signature says of a folder."""

    name: str
    """What the signer calls it; of no consequence."""
    resources: tuple[Resource, ...]
    ignored: tuple[str, ...] = ()
    """Paths, and all below them, that the signature leaves out."""
    method: Method = "files"
    hash_type: str = "sha256"
    shard_size: int | None = None
    allow_symlinks: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of all resources."""
        return hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in self.resources)).hexdigest()

    @property
    def files(self) -> Mapping[str, tuple[Resource, ...]]:
        """What is said of each file, its shards in order."""
        grouped: dict[str, list[Resource]] = {}
        for resource in self.resources:
            grouped.setdefault(resource.name, []).append(resource)
        return {name: tuple(sorted(group, key=lambda one: one.start)) for name, group in grouped.items()}


def statement_of(name: str, digests: Mapping[str, str], ignored: Iterable[str], *, symlinks: bool = False) -> Statement:
    """The statement over files, by their names, with these SHA-256 digests: in model-signing's order."""
    names = sorted(digests, key=PurePosixPath)  # by components: a/b before a.txt
    resources = tuple(Resource(checked_name(name, "the folder"), digests[name]) for name in names)
    _refuse_twins(names, "the folder")
    return Statement(name, resources, tuple(sorted(ignored)), allow_symlinks=symlinks)


def statement_payload(statement: Statement) -> bytes:
    """The bytes that are signed, of a statement over whole files; equal statements have equal bytes."""
    resources = [
        {"name": one.name, "algorithm": statement.hash_type, "digest": one.digest} for one in statement.resources
    ]
    return canonical_json({
        "_type": STATEMENT_TYPE,
        "subject": [{"name": statement.name, "digest": {"sha256": statement.digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": statement.method, "hash_type": statement.hash_type,
                              "allow_symlinks": statement.allow_symlinks, "ignore_paths": list(statement.ignored)},
            "resources": resources,
        },
    })  # fmt: skip


def read_statement(payload: bytes, where: str) -> Statement:
    """The statement in a payload, held to its form: nothing in it may be read in two ways. Raises FormatError.

    UnsupportedError where it is well-formed and of a kind that is not checked here.
    """
    value = _object(parse_json(payload, where, what="signed statement"), where)
    if value.get("_type") != STATEMENT_TYPE:
        raise UnsupportedError(f"{where}: the statement is of the type {str(value.get('_type'))[:80]!r}")
    kind = value.get("predicateType")
    if kind in OLD_PREDICATES:
        raise UnsupportedError(f"{where}: signed with model-signing before 1.0", hint="sign it again")
    if kind != PREDICATE_TYPE:
        raise UnsupportedError(f"{where}: the statement is about something else: {str(kind)[:80]!r}")
    subjects = value.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise FormatError(f"{where}: the statement has not one subject")
    subject, predicate = _object(subjects[0], where), _object(value.get("predicate"), where)
    statement = _statement(str(subject.get("name", "")), predicate, where)
    if _object(subject.get("digest"), where).get("sha256") != statement.digest:
        raise FormatError(f"{where}: the statement contradicts itself: its digest is not that of the files it lists")
    return statement


def checked_name(name: Any, where: str) -> str:
    """A path within a folder as every system reads it; FormatError where it could lead elsewhere."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise FormatError(f"{where}: a file without a name")
    parts = name.split("/")
    if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts) or re.match("[A-Za-z]:", name):
        raise FormatError(f"{where}: {name[:80]!r} is not a path within the folder", defect="path-escapes")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{where}: {name[:80]!r} is not UTF-8") from None
    return name


def _statement(name: str, predicate: Mapping[str, Any], where: str) -> Statement:
    how = _object(predicate.get("serialization"), where)
    method, hash_type = how.get("method"), how.get("hash_type")
    if method not in ("files", "shards"):
        raise UnsupportedError(f"{where}: files were listed by an unknown method, {str(method)[:40]!r}")
    if not isinstance(hash_type, str) or hash_type not in HASHES:
        raise UnsupportedError(f"{where}: files were hashed with {str(hash_type)[:40]!r}, not {' or '.join(HASHES)}",
                               hint="sign it again with SHA-256, model-signing's default")  # fmt: skip
    shard = _shard_size(how.get("shard_size"), where) if method == "shards" else None
    items, ignored = predicate.get("resources"), how.get("ignore_paths", [])
    if not isinstance(items, list) or not items:
        raise FormatError(f"{where}: the statement lists no files")
    if not isinstance(ignored, list) or len(ignored) > MOST_IGNORED or not all(isinstance(p, str) for p in ignored):
        raise FormatError(f"{where}: ignore_paths is not a list of paths")
    resources = tuple(_resource(item, hash_type, shard, where) for item in items)
    symlinks = how.get("allow_symlinks") is True
    statement = Statement(name, resources, tuple(ignored), cast("Method", method), hash_type, shard, symlinks)
    if shard is None and len(statement.files) != len(resources):
        raise FormatError(f"{where}: the statement lists a file twice")
    _refuse_twins(statement.files, where)
    for group in statement.files.values():
        ends = [0, *(one.stop for one in group)]
        if shard is not None and [one.start for one in group] != ends[:-1]:
            raise FormatError(f"{where}: the shards of {group[0].name[:80]!r} overlap, or leave bytes out")
    return statement


def _shard_size(value: Any, where: str) -> int:
    """Bytes; protobuf's JSON writes whole numbers as 1000000000.0 too."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 2**63 or value % 1:
        raise FormatError(f"{where}: shards of no size")
    return int(value)


def _resource(item: Any, hash_type: str, shard: int | None, where: str) -> Resource:
    value = _object(item, where)
    digest, algorithm = value.get("digest"), value.get("algorithm")
    if algorithm not in (hash_type, f"{hash_type}-sharded-{shard}"):
        raise FormatError(f"{where}: a digest by {str(algorithm)[:40]!r} among those by {hash_type}")
    if not isinstance(digest, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * HASHES[hash_type]}}}", digest):
        raise FormatError(f"{where}: a digest that is none: {str(digest)[:80]!r}")
    name = value.get("name")
    if shard is None:
        return Resource(checked_name(name, where), digest)
    found = re.fullmatch(r"(.+):(0|[1-9]\d{0,18}):([1-9]\d{0,18})", name, re.DOTALL) if isinstance(name, str) else None
    if found is None or not 0 < int(found[3]) - int(found[2]) <= shard:
        raise FormatError(f"{where}: {str(name)[:80]!r} is not a shard of a file")
    return Resource(checked_name(found[1], where), digest, int(found[2]), int(found[3]))


def _refuse_twins(names: Iterable[str], where: str) -> None:
    """Refuse names that some file systems take for one, by case or by Unicode form: only one of them could be there."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if folded in seen:
            raise FormatError(f"{where}: {seen[folded]!r} and {name!r} are one file to some systems", defect="twins")
        seen[folded] = name


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: the signed statement is not of the form it should be")
    return value


def is_ignored(name: str, ignored: Iterable[str]) -> bool:
    """Whether a file is one of those paths, or lies below one."""
    return any(PurePosixPath(name).is_relative_to(PurePosixPath(path)) for path in ignored)
