"""The bill of materials: an adapter or a made model and all it came from, as CycloneDX 1.6 (an ML-BOM).

The same content gives the same bytes: no time is in it unless one is given, and its serial number is a UUIDv5 of all
else. So it can be committed beside the adapter, and a diff of it means something.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptool import __version__
from adaptool.adapters.config import CONFIG_NAME, AdapterConfig, read_config
from adaptool.errors import AdaptoolError, NotFoundError
from adaptool.git.named import split_revision
from adaptool.git.repository import find_repository
from adaptool.merging.provenance import hub_id
from adaptool.tensors.locate import LAID_OUT
from adaptool.versioning.agreement import agreement_of, refuse_disagreement
from adaptool.versioning.bill.card import Card, card_of
from adaptool.versioning.bill.sbom_made import input_of, inputs_of, made, manifest_of
from adaptool.versioning.bill.sbom_parts import (
    TASKS,
    Bill,
    Part,
    base_model,
    dataset,
    files,
    licences,
    model,
    model_card,
    prop,
    purl,
    sha256,
    text_of,
    without_ref,
)
from adaptool.versioning.kept.sides import Side, commit_side, working_side
from adaptool.versioning.lineage import Ancestor, Family, Found
from adaptool.versioning.record import Parent, Record
from adaptool.versioning.recording import record_of
from adaptool.versioning.signing.covered import open_folder
from adaptool.versions import canonical_json

NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""RFC 4122's, of addresses."""

TOLD = ("r", "lora_alpha", "target_modules", "modules_to_save", "use_dora", "use_rslora")
"""Fields of the config that say what an adapter changes."""


def bill_of_materials(path: Path, *, timestamp: str | None = None) -> Mapping[str, Any]:
    """The CycloneDX document of the adapter, or of the merged or converted model, in ``path``.

    ``timestamp`` is RFC 3339. Raises MismatchError where the manifest is not true of the content, as the bill would be
    of something else.
    """
    if not path.is_dir():
        raise NotFoundError(f"{path}: no such folder", hint="give the folder the adapter lies in")
    folder = open_folder(path)
    found = agreement_of(folder)
    refuse_disagreement(path, found)
    bill = Bill()
    kind = found.check.kind
    if found.record is not None:
        main = _adapter(bill, path, found.actual or found.record, _lineage(path, found.record))
    elif (path / CONFIG_NAME).is_file():
        main = _adapter(bill, path, record_of(path), (), _fixed_from(path) if kind == "fixed" else ())
    else:
        main = made(bill, folder, kind)
    return _document(bill, main, timestamp)


def _document(bill: Bill, main: Part, timestamp: str | None) -> Mapping[str, Any]:
    tool = {"type": "application", "name": "adaptool", "version": __version__}
    metadata = {**({"timestamp": timestamp} if timestamp else {}), "tools": {"components": [tool]}, "component": main}
    bill.edges.setdefault(main["bom-ref"], set())
    body = {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": metadata,
        "components": [bill.components[ref] for ref in sorted(bill.components)], "dependencies": bill.depends(),
    }  # fmt: skip
    serial = uuid.uuid5(NAMESPACE, hashlib.sha256(canonical_json(body)).hexdigest())
    return {"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "serialNumber": f"urn:uuid:{serial}", **body}


def _adapter(
    bill: Bill, path: Path, record: Record, ancestors: Iterable[Ancestor], parents: Iterable[Part] = ()
) -> Part:
    """The adapter itself; its base, parents and data sets go into the bill."""
    card, config = card_of(path), _config(path)
    ref = _ref(record)
    base = base_model(record.base.name, record.base.revision, record.base.digest)
    bill.add(ref, base)
    above = [*parents, *(_ancestor(bill, ref, ancestor) for ancestor in ancestors)]
    for part in above:
        bill.add(ref, part)
    for name in card.datasets:
        bill.add(ref, dataset(name))
    pedigree = [without_ref(part) for part in [*above, *([base] if base else [])]]
    properties = [prop("kind", "adapter"), prop("peft-type", record.peft_type)]
    properties += [prop(f"config:{name}", config.fields[name]) for name in TOLD if config and config.fields.get(name)]
    return model(
        ref, record.name, record.version, digest=record.content.digest, description=record.description,
        hashes=_weights_hash(record), licenses=licences(record.license or card.license, card.license_link),
        pedigree={"ancestors": pedigree} if pedigree else None,
        modelCard=_model_card(card, config, record), components=files(ref, record.files), properties=properties,
    )  # fmt: skip


def _ancestor(bill: Bill, child: str, ancestor: Ancestor) -> Part:
    """A parent, with its own base and parents in the bill."""
    part = _parent(ancestor.parent, ancestor.found)
    record = ancestor.found.record
    if record is not None:
        bill.add(part["bom-ref"], base_model(record.base.name, record.base.revision, record.base.digest))
    for further in ancestor.ancestors:
        bill.add(part["bom-ref"], _ancestor(bill, part["bom-ref"], further))
    return part


def _parent(parent: Parent, found: Found) -> Part:
    """A parent as the manifest names it, and what is known of it from where it was found."""
    record = found.record if found.state == "found" else None
    version = parent.version or (record.version if record is not None else None)
    digest = parent.digest or (record.content.digest if record is not None else None)
    hub = hub_id(parent.name)
    properties = [prop("relation", parent.relation), prop("state", found.state)]
    properties += [prop(name, value) for name, value in (("path", parent.path), ("revision", parent.revision)) if value]
    return model(
        f"adapter:{parent.name}@{version or ''}#{(digest or '')[:16]}", parent.name, version, digest=digest,
        purl=purl(hub, version) if hub else None, hashes=_weights_hash(record) if record else None,
        description=record.description if record else None, licenses=licences(record.license) if record else None,
        properties=properties,
    )  # fmt: skip


def _lineage(path: Path, record: Record) -> tuple[Ancestor, ...]:
    """The parents as far as they can be followed in the repository; outside of one, as they are named."""
    if not record.parents:
        return ()
    side = _side(path)
    if side is None:
        return tuple(Ancestor(parent, Found("outside", parent.path), ()) for parent in record.parents)
    return Family(side).ancestors(record)


def _side(path: Path) -> Side | None:
    """The tree that the adapter is of: a revision's, where it was laid out from one, or the working tree."""
    if str(path) not in LAID_OUT:
        repository = find_repository(path)
        return None if repository is None or repository.bare else working_side(repository)
    revision, _ = split_revision(LAID_OUT[str(path)])
    repository = find_repository(Path())
    commit = None if repository is None else repository.commit(revision)
    return None if repository is None or commit is None else commit_side(repository, commit, revision)


def _fixed_from(path: Path) -> Iterator[Part]:
    """What a corrected adapter was before; an earlier adaptool called its parents adapters."""
    manifest = manifest_of(path)
    for source in inputs_of(manifest, "parents") or inputs_of(manifest):
        yield input_of(source, "fixed_from")


def _model_card(card: Card, config: AdapterConfig | None, record: Record) -> Part:
    fields = config.fields if config is not None else {}
    mapping = fields.get("auto_mapping")
    architecture = text_of(mapping, "base_model_class") if isinstance(mapping, dict) else None
    task = card.task or TASKS.get(str(fields.get("task_type")))
    return model_card(task=task, architecture=architecture, datasets=card.datasets, metrics=record.metrics)


def _ref(record: Record) -> str:
    return f"adapter:{record.name}@{record.version}#{record.content.digest[:16]}"


def _weights_hash(record: Record) -> list[Part]:
    """The weights' file: what the Hub and Git LFS know the adapter by."""
    from adaptool.summary.beside import kind_of

    digests = [file.sha256 for file in record.files if file.sha256 is not None and kind_of(file.name) == "weights"]
    return [sha256(digests[0])] if len(digests) == 1 else []


def _config(path: Path) -> AdapterConfig | None:
    try:
        return read_config(path / CONFIG_NAME)
    except AdaptoolError:
        return None
