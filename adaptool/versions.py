"""Digests and the manifest: what an artifact is, whatever its files are called and however they were saved.

A digest is over tensors (name, type, shape, bytes) and a canonical config, so a re-save with its keys in
another order is the same adapter. The manifest also keeps each file's SHA-256 and size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.canonical import canonical_fields
from adaptool.adapters.config import AdapterConfig
from adaptool.tensors.dtypes import bytes_of
from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.jsons import parse_json
from adaptool.tensors.store import Store

MANIFEST_NAME = "adaptool.json"
MANIFEST_SCHEMA = "adaptool/manifest/1"
CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file beside a manifest; ``sha256`` is None where hashing it would cost more than making it."""

    name: str
    size: int
    sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the manifest holds it."""
        record: dict[str, Any] = {"name": self.name, "size": self.size}
        return record if self.sha256 is None else {**record, "sha256": self.sha256}


def canonical_json(value: Any) -> bytes:
    """One text for one value: sorted keys, no spaces, UTF-8."""
    return _canonical(value).encode("utf-8", "surrogateescape")


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def canonical_config(config: AdapterConfig) -> bytes:
    """What a config makes of an adapter, in one form whoever wrote it: not its base, nor what only training knew."""
    return canonical_json(dict(canonical_fields(config)))


def header_digest(store: Store, config: bytes = b"") -> str:
    """SHA-256 over every tensor's name, type and shape, and the config: no tensor is read."""
    table = sorted([info.name, info.dtype.name, list(info.shape)] for info in store.infos.values())
    return hashlib.sha256(canonical_json(table) + config).hexdigest()


def content_digest(store: Store, config: bytes = b"") -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, and the config; about 1 GB/s."""
    whole = hashlib.sha256(config)
    for name in sorted(store):
        whole.update(bytes.fromhex(tensor_digest(store, name)))
    return whole.hexdigest()


def tensor_digest(store: Store, name: str) -> str:
    """SHA-256 of one tensor."""
    info = store[name]
    digest = hashlib.sha256(canonical_json([info.name, info.dtype.name, list(info.shape)]))
    for start, stop in store.spans(name, CHUNK_BYTES):
        digest.update(bytes_of(np.ascontiguousarray(store.read(name, start, stop))))
    return digest.hexdigest()


def adapter_digest(adapter: Adapter) -> str:
    """The content digest of an adapter: weights and config."""
    return joint_digest(config_digest(adapter.config), content_digest(adapter.store))


def config_digest(config: AdapterConfig) -> str:
    """SHA-256 of the canonical config."""
    return hashlib.sha256(canonical_config(config)).hexdigest()


def joint_digest(config: str, weights: str) -> str:
    """An adapter's digest from those of its config and weights, so that it can be told without the adapter."""
    return hashlib.sha256(bytes.fromhex(config) + bytes.fromhex(weights)).hexdigest()


def file_record(path: Path, *, hashed: bool) -> FileRecord:
    """A file's size, and its SHA-256 where asked."""
    handle = open_file(path)
    return FileRecord(path.name, handle.size, sha256_of(handle) if hashed else None)


def sha256_of(handle: FileHandle) -> str:
    """SHA-256 of a whole file."""
    digest = hashlib.sha256()
    for offset in range(0, handle.size, CHUNK_BYTES):
        digest.update(handle.read(offset, min(CHUNK_BYTES, handle.size - offset)))
    return digest.hexdigest()


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """The manifest of a folder, None where there is none."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        return None
    manifest = parse_json(open_file(path).read_all(64 << 20), str(path), what="manifest")
    return manifest if isinstance(manifest, dict) else None


def listed_only(folder: Path) -> bool:
    """Whether ``folder`` holds only files its own manifest lists: what makes it safe to replace.

    An adapter with a version never is: its manifest lists what somebody else wrote, and keeps.
    """
    manifest = read_manifest(folder)
    if manifest is None or not str(manifest.get("schema", "")).startswith("adaptool/manifest/"):
        return False
    if manifest.get("kind") == "adapter":
        return False
    records = manifest.get("files")
    if not isinstance(records, list):
        return False
    listed = {str(record.get("name")) for record in records if isinstance(record, dict)}
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return present <= listed | {MANIFEST_NAME}


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest's file: sorted keys and one item a line, so that Git merges it well."""
    return json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
