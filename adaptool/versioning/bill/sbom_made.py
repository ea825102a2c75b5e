"""The bill of a model that adaptool made: what was merged or converted into it, and its files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptool.errors import AdaptoolError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json
from adaptool.versioning.bill.card import Card, card_of
from adaptool.versioning.bill.sbom_parts import (
    Bill,
    Part,
    base_model,
    dataset,
    files,
    is_bill,
    licences,
    model,
    model_card,
    prop,
    text_of,
    without_ref,
)
from adaptool.versioning.record import LARGEST
from adaptool.versioning.signing.covered import Folder, pointer_in
from adaptool.versions import MANIFEST_NAME, FileRecord, canonical_json, sha256_of


def made(bill: Bill, folder: Folder, kind: str | None) -> Part:
    """A merged or converted model: its files are hashed here, as its manifest has their sizes alone."""
    manifest = manifest_of(folder.path)
    records = sorted(_hashed(folder), key=lambda record: record.name)
    whole = hashlib.sha256(canonical_json([[one.name, one.size, one.sha256] for one in records])).hexdigest()
    name = folder.path.resolve().name
    ref = f"model:{name}#{whole[:16]}"
    card = card_of(folder.path)
    source = _object(manifest.get("base"))
    above = []
    for adapter in inputs_of(manifest):
        above.append(input_of(adapter, "merged_into"))
        bill.add(above[-1]["bom-ref"], base_model(text_of(adapter, "base_model"), None))
    base = base_model(text_of(source, "name"), text_of(source, "revision"), text_of(source, "digest"))
    above += [] if base is None else [base]
    for part in (*above, *map(dataset, card.datasets)):
        bill.add(ref, part)
    recipe = [prop(f"recipe:{key}", value) for key, value in sorted(_object(manifest.get("recipe")).items())]
    return model(
        ref, name, digest=whole, licenses=licences(card.license, card.license_link),
        pedigree={"ancestors": list(map(without_ref, above))} if above else None, modelCard=_card(folder.path, card),
        components=files(ref, records), properties=[prop("kind", kind or "model"), *recipe],
    )  # fmt: skip


def inputs_of(manifest: Mapping[str, Any], name: str = "adapters") -> list[Mapping[str, Any]]:
    """The adapters (or ``parents``) that a manifest says something was made of."""
    listed = manifest.get(name)
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def input_of(source: Mapping[str, Any], relation: str) -> Part:
    """One of them."""
    name, digest = text_of(source, "name") or "adapter", text_of(source, "digest")
    properties = [prop("relation", text_of(source, "relation") or relation)]
    properties += [prop(key.replace("_", "-"), source[key]) for key in ("weight", "peft_type") if key in source]
    version = text_of(source, "version")
    ref = f"adapter:{name}@{version or ''}#{(digest or '')[:16]}"
    return model(ref, name, version, digest=digest, properties=properties)


def manifest_of(path: Path) -> Mapping[str, Any]:
    """The manifest in a folder; an empty one where there is none that can be read."""
    return _read(path / MANIFEST_NAME)


def _card(path: Path, card: Card) -> Part:
    config = _read(path / "config.json")
    classes = config.get("architectures")
    architecture = str(classes[0]) if isinstance(classes, list) and classes else None
    family = text_of(config, "model_type")
    return model_card(task=card.task, family=family, architecture=architecture, datasets=card.datasets)


def _hashed(folder: Folder) -> Iterator[FileRecord]:
    """Every file but the manifest, hidden ones, and bills of materials: none can hold its own digest."""
    for entry in folder.entries:
        if not entry.is_file or entry.base.startswith(".") or entry.name == MANIFEST_NAME or is_bill(entry.name):
            continue
        pointer = pointer_in(entry)
        if pointer is None:
            yield FileRecord(entry.name, entry.size, sha256_of(open_file(entry.path)))
        else:
            yield FileRecord(entry.name, pointer.size, pointer.oid if pointer.kind == "lfs" else None)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return _object(parse_json(open_file(path).read_all(LARGEST), str(path)))
    except AdaptoolError:
        return {}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
