"""The first version of an adapter: its manifest made, or one that ``--fix`` or ``compose`` left taken up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adaptool.errors import FormatError, UsageError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json
from adaptool.versioning.naming import require_name
from adaptool.versioning.planned import Planned, planned
from adaptool.versioning.record import LARGEST, RELATIONS, SHA256, Parent, Record, Relation, read_record
from adaptool.versioning.recording import FIRST, record_of
from adaptool.versioning.semver import require_version
from adaptool.versions import MANIFEST_NAME

ORIGINS: Mapping[str, Relation] = {"fixed": "fixed_from", "composed": "composed_of"}
"""Kinds of manifests that adaptool leaves beside an adapter it makes, and what their sources are to it."""

NO_PART = {
    "schema",
    "kind",
    "adaptool",
    "files",
    "adapters",
    "parents",
    "changes",
    "recipe",
    "base",
    "checked",
    "notes",
}
"""Fields of those manifests that have another place in an adapter's, or none."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the user says of an adapter: what cannot be read from it."""

    name: str | None = None
    version: str | None = None
    base_revision: str | None = None
    base_digest: str | None = None
    parents: tuple[Parent, ...] = ()
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    description: str | None = None
    license: str | None = None
    message: str | None = None


def begin(folder: Path, said: Said, *, name: str, overwrite: bool = False) -> Planned:
    """Plan the first manifest of the adapter in ``folder``, called ``name`` unless it is said otherwise.

    Raises UsageError where it has one already, and what ``open_adapter`` raises.
    """
    left = None if overwrite else left_behind(folder)
    fresh = record_of(folder)
    fresh = replace(fresh, name=require_name(said.name or name), version=str(require_version(said.version or FIRST)))
    record = with_said(fresh if left is None else taken_up(fresh, left), said)
    notes = () if record.base.pinned else (unpinned(record),)
    return planned(
        folder, record, None, before=None, level="none", reasons=(), since="", notes=notes
    )  # fmt: skip


def left_behind(folder: Path) -> Mapping[str, Any] | None:
    """The manifest that something else than a version left in ``folder``; UsageError where it has a version."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        return None
    data = open_file(path).read_all(LARGEST)
    try:
        record = read_record(data, str(path))
    except FormatError as error:
        if error.defect != "other-kind":
            raise UsageError(f"{error.message}", hint=error.hint or "--overwrite begins anew") from error
    else:
        raise UsageError(
            f"{path}: {record.name} has a version already, {record.version}", hint=f"adaptool version bump {folder}"
        )
    manifest: Mapping[str, Any] = parse_json(data, str(path), what="manifest")
    if manifest["kind"] not in ORIGINS:
        raise UsageError(
            f"{path}: is the record of something {manifest['kind'][:40]!r}, not of an adapter",
            hint="move it away, or --overwrite",
        )
    return manifest


def taken_up(fresh: Record, left: Mapping[str, Any]) -> Record:
    """The record with what the manifest beside it tells of where the adapter comes from."""
    relation = ORIGINS[left["kind"]]
    sources = left.get("parents") or left.get("adapters") or []
    parents = [parent for source in sources if (parent := _parent(source, relation)) is not None]
    told: Any = left.get("recipe") if isinstance(left.get("recipe"), dict) else {}
    if isinstance(left.get("changes"), list):
        told = {**told, "changes": left["changes"]}
    known = Record.__dataclass_fields__.keys()
    kept = {name: value for name, value in left.items() if name not in NO_PART and name not in known}
    return replace(fresh, parents=tuple(parents), recipe=told, unknown=kept)


def _parent(source: Any, relation: Relation) -> Parent | None:
    """A parent as such a manifest names it, read with lenience: what it says badly is left out."""
    if not isinstance(source, dict) or not isinstance(source.get("name"), str):
        return None
    texts = {name: value for name in ("version", "path", "revision") if isinstance(value := source.get(name), str)}
    digest = source.get("digest")
    sound = isinstance(digest, str) and SHA256.fullmatch(digest)
    told = source.get("relation")
    return Parent(told if told in RELATIONS else relation, source["name"], digest if sound else None, **texts)


def with_said(record: Record, said: Said) -> Record:
    """The record with what the user says of the adapter."""
    base = replace(
        record.base, revision=said.base_revision or record.base.revision, digest=said.base_digest or record.base.digest
    )
    return replace(
        record, base=base, parents=with_parents(record.parents, said.parents),
        metrics={**record.metrics, **said.metrics}, description=said.description or record.description,
        license=said.license or record.license, message=said.message or record.message,
    )  # fmt: skip


def with_parents(old: Sequence[Parent], new: Sequence[Parent]) -> tuple[Parent, ...]:
    """The parents with ``new`` ones: one of the same relation and name is said anew."""
    said = {(parent.relation, parent.name) for parent in new}
    return (*(parent for parent in old if (parent.relation, parent.name) not in said), *new)


def unpinned(record: Record) -> str:
    """What to know of a base that may become another."""
    if record.base.name is None:
        return f"{record.name}: the config names no base model, so nothing says what it is for"
    loose = f" ({record.base.revision!r} is no commit)" if record.base.revision else ""
    return f"{record.name}: the base {record.base.name} is not pinned{loose}: say which with --base-revision COMMIT"
