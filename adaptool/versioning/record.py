"""The record of an adapter: the manifest beside it (``adaptool.json``, kind "adapter") as a value.

Read strictly, because a clone, a pull request or a bad merge may have put anything there; fields of a later version
survive a round trip. What is in it can be told from the adapter and its history alone: no time, author or machine.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from adaptool import __version__
from adaptool.comparing.base_names import COMMIT
from adaptool.errors import AdaptoolError, FormatError, NotFetchedError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json
from adaptool.versioning.fields import Fields
from adaptool.versioning.semver import Version, parse_version
from adaptool.versions import MANIFEST_NAME, MANIFEST_SCHEMA, FileRecord, joint_digest, manifest_text

LARGEST = 64 << 20
"""Bytes of a manifest: a hundred thousand tensors take 15 MB."""

KIND = "adapter"

Relation = Literal["trained_from", "composed_of", "merged_into", "fixed_from"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

SHA256 = re.compile(r"[0-9a-f]{64}")

NOT_JSON = re.compile(r"\b(?:Infinity|NaN)\b")
"""1e999 is JSON and infinite, which is not."""

_TENSOR = re.compile(r"([A-Z][A-Z0-9_]*) \[([0-9, ]*)\] ([0-9a-f]{64})")
_SHAPE = re.compile(r"(?:(?:0|[1-9][0-9]{0,18})(?:, (?:0|[1-9][0-9]{0,18}))*)?")


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One saved tensor: its line is enough to tell what became of it, without the weights."""

    dtype: str
    shape: tuple[int, ...]
    digest: str
    """``versions.tensor_digest``."""

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)} {self.digest}"


@dataclass(frozen=True, slots=True)
class Base:
    """The model the adapter is for."""

    name: str | None
    """As the config says it: a hub id, or a path."""
    revision: str | None = None
    digest: str | None = None
    """Over its tensors, where they were hashed."""

    @property
    def pinned(self) -> bool:
        """Whether it is one model for ever: a commit, or a digest."""
        return self.digest is not None or (self.revision is not None and COMMIT.fullmatch(self.revision) is not None)


@dataclass(frozen=True, slots=True)
class Content:
    """What the adapter computes with, as digests: no file name, key order or default written out is in them."""

    config: str
    weights: str

    @property
    def digest(self) -> str:
        """The adapter's own: over config and weights."""
        return joint_digest(self.config, self.weights)


@dataclass(frozen=True, slots=True)
class Parent:
    """An adapter this one came from (``merged_into`` says that it went into this one)."""

    relation: Relation
    name: str
    digest: str | None = None
    version: str | None = None
    path: str | None = None
    """From the root of the repository; "" is the root."""
    revision: str | None = None
    """A commit or tag of the repository."""


@dataclass(frozen=True)
class Record:
    """An adapter's manifest."""

    name: str
    version: str
    """As written: ``semver`` is None where it is no semantic version."""
    peft_type: str
    base: Base
    content: Content
    tensors: Mapping[str, TensorRecord]
    files: tuple[FileRecord, ...]
    vocabulary: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    description: str | None = None
    license: str | None = None
    message: str | None = None
    """What this version brings, in the user's words; the next version has its own."""
    stated: str | None = None
    """The content digest as the file states it, where that does not follow from its parts."""
    adaptool: str = __version__
    """The version that wrote it."""
    unknown: Mapping[str, Any] = field(default_factory=dict)
    """Fields this version does not know, kept."""

    @property
    def semver(self) -> Version | None:
        """The version, where it is one."""
        return parse_version(self.version)

    @property
    def contradictions(self) -> tuple[str, ...]:
        """Where the record disagrees with itself, as one does that was edited by hand or merged line by line."""
        said = []
        if weights_digest({name: tensor.digest for name, tensor in self.tensors.items()}) != self.content.weights:
            said.append("the digest of the weights is not that of the tensors listed")
        if self.stated is not None:
            said.append("the content digest is not that of its config and weights")
        return tuple(said)

    def same_as(self, other: Record) -> bool:
        """Whether they say the same, whichever version of adaptool wrote them."""
        return replace(self, adaptool="") == replace(other, adaptool="")

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it; what is not known is left out."""
        content = {"config": self.content.config, "weights": self.content.weights, "digest": self.content.digest}
        optional = {
            "vocabulary": dict(self.vocabulary), "parents": [_plain(parent) for parent in self.parents],
            "recipe": dict(self.recipe), "metrics": dict(self.metrics), "description": self.description,
            "license": self.license, "message": self.message,
        }  # fmt: skip
        base = {"name": self.base.name, "revision": self.base.revision}
        return {
            **self.unknown,
            "schema": MANIFEST_SCHEMA, "kind": KIND, "adaptool": self.adaptool, "name": self.name,
            "version": self.version, "peft_type": self.peft_type,
            "base": base if self.base.digest is None else {**base, "digest": self.base.digest},
            "content": content,
            "tensors": {name: str(tensor) for name, tensor in self.tensors.items()},
            "files": [file.to_dict() for file in self.files],
            **{name: value for name, value in optional.items() if value not in (None, {}, [])},
        }  # fmt: skip


def weights_digest(tensors: Mapping[str, str]) -> str:
    """SHA-256 over the tensors' digests in the order of their names: ``versions.content_digest`` of the store."""
    return hashlib.sha256(b"".join(bytes.fromhex(tensors[name]) for name in sorted(tensors))).hexdigest()


def record_text(record: Record) -> str:
    """The manifest's file. Raises FormatError where an unknown field holds what JSON has no word for."""
    text = manifest_text(record.to_dict())
    if NOT_JSON.search(text):
        read_record(text.encode("utf-8", "surrogateescape"), MANIFEST_NAME)
    return text


def read_record(data: bytes, where: str) -> Record:
    """The record a manifest holds. Raises FormatError saying what is wrong with it, and where.

    Its ``defect`` is "other-kind" where it is a sound manifest of something else than a versioned adapter.
    """
    if data.startswith(b"version https://git-lfs"):
        raise NotFetchedError(f"{where}: a Git LFS pointer, not the manifest", hint="fetch it with: git lfs pull")
    refuse_marks(data, where)
    if len(data) > LARGEST:
        raise FormatError(f"{where}: {len(data)} bytes, more than the {LARGEST} a manifest may have")
    fields = Fields(parse_json(data, where, what="manifest"), where)
    if (schema := fields.text("schema")) != MANIFEST_SCHEMA:
        newer = re.fullmatch(r"adaptool/manifest/[0-9]{1,9}", schema)
        hint = "it was written by a newer adaptool: install that" if newer else None
        raise FormatError(f"{where}: not the schema {MANIFEST_SCHEMA} but {schema[:60]!r}", hint=hint, defect="schema")
    if (kind := fields.text("kind")) != KIND:
        raise FormatError(
            f"{where}: the record of something {kind[:60]!r}, not of an adapter with a version",
            hint="begin with: adaptool version init", defect="other-kind",
        )  # fmt: skip
    return _record(fields)


def refuse_marks(data: bytes, where: str) -> None:
    """Raise FormatError, of the defect "conflict", where a merge left its marks in a manifest."""
    if b"\n<<<<<<< " in data or b"\n>>>>>>> " in data:
        here = "" if ":" in where else f" {shlex.quote(where.rpartition('/')[0] or '.')}"
        raise FormatError(
            f"{where}: holds the conflict markers of a merge", defect="conflict",
            hint=f"resolve the weights, then: adaptool version bump{here}",
        )  # fmt: skip


def _record(fields: Fields) -> Record:
    content, base = fields.inner("content"), fields.inner("base")
    parts = Content(content.text("config", SHA256), content.text("weights", SHA256))
    stated = content.text("digest", SHA256)
    read = Record(
        name=fields.text("name"), version=fields.text("version"), peft_type=fields.text("peft_type"),
        base=Base(base.maybe("name"), base.maybe("revision"), base.maybe("digest", SHA256)),
        content=parts, stated=None if stated == parts.digest else stated,
        tensors={name: _tensor(text, f"{fields.where}: tensors: {name[:80]!r}")
                 for name, text in fields.inner("tensors").values.items()},
        files=tuple(_file(item) for item in fields.items("files")),
        vocabulary=fields.inner("vocabulary", optional=True).values,
        parents=tuple(_parent(item) for item in fields.items("parents", optional=True)),
        recipe=fields.inner("recipe", optional=True).values, metrics=fields.numbers_or_texts("metrics"),
        description=fields.maybe("description"), license=fields.maybe("license"), message=fields.maybe("message"),
        adaptool=fields.text("adaptool"),
    )  # fmt: skip
    return replace(read, unknown={name: value for name, value in fields.values.items() if name not in KNOWN})


KNOWN = frozenset((*(name for name in Record.__dataclass_fields__ if name not in ("stated", "unknown")),
                   "schema", "kind"))  # fmt: skip


def _tensor(text: object, where: str) -> TensorRecord:
    found = _TENSOR.fullmatch(text) if isinstance(text, str) and len(text) < 2000 else None
    if found is None or not _SHAPE.fullmatch(found[2]):
        raise FormatError(f"{where}: is not of the form 'F32 [16, 64] <sha256>'")
    return TensorRecord(found[1], tuple(int(axis) for axis in found[2].split(", ") if axis), found[3])


def _file(item: Fields) -> FileRecord:
    name = item.text("name")
    if name.startswith("/") or "\0" in name or "\\" in name or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise FormatError(f"{item.where}: {name[:80]!r} is no file beside it")
    return FileRecord(name, item.size("size"), item.text("sha256", SHA256))


def _parent(item: Fields) -> Parent:
    relation = item.text("relation")
    if relation not in RELATIONS:
        raise FormatError(f"{item.where}: relation must be one of {', '.join(RELATIONS)}, not {relation[:40]!r}")
    return Parent(
        relation, item.text("name"), item.maybe("digest", SHA256), item.maybe("version"), item.maybe("path"),
        item.maybe("revision"),
    )  # fmt: skip


def _plain(parent: Parent) -> dict[str, str]:
    named = ((name, getattr(parent, name)) for name in Parent.__dataclass_fields__)
    return {name: value for name, value in named if value is not None}


def record_beside(folder: Path) -> Record | None:
    """The record in a folder, None where no manifest lies there. Raises FormatError as ``read_record`` does."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    return read_record(open_file(path).read_all(LARGEST), str(path))


def version_beside(folder: Path) -> str | None:
    """The version of the adapter in a folder, None where it has none that can be read."""
    try:
        record = record_beside(folder)
    except AdaptoolError:
        return None
    return None if record is None else record.version
