"""Where things come from: what an adapter was trained on against what it is merged onto, and the record of a merge."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptool import __version__
from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import BaseModel
from adaptool.adapters.config import CONFIG_NAME
from adaptool.merging.merged import Merged
from adaptool.tensors.bnb import Bnb4bit
from adaptool.tensors.dtypes import DType
from adaptool.tensors.store import Store
from adaptool.versions import (
    MANIFEST_SCHEMA,
    canonical_config,
    canonical_json,
    content_digest,
    file_record,
    header_digest,
)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
QUANTISED_NAME = re.compile(r"(?i)[-_.](?:unsloth-)?(bnb-4bit|4bit|nf4|int4|8bit|int8|awq|gptq|fp8|gguf)(?=$|[-_.])")


def hub_id(name: str | None) -> str | None:
    """``name`` if it reads as a hub id (org/name) and not as a path of somebody's machine."""
    return name if name is not None and HUB_ID.fullmatch(name) else None


def base_name(base: BaseModel) -> str:
    """What a base is called: the hub id its HF-cache folder carries, else its folder's name."""
    repository = base.path.parent.parent.name if base.path.parent.name == "snapshots" else ""
    if repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return base.path.resolve().name


def origin_note(adapter: Adapter, base: BaseModel, *, onto_nf4: bool = False) -> str | None:
    """What the user should know where the named base and the given one are not plainly the same."""
    trained_on = adapter.config.base_model
    given = base_name(base)
    if trained_on is None:
        return f"{adapter.name} does not name the base it was trained on; merging onto {given}"
    # a path of the training machine says nothing here but for its last part
    named = hub_id(trained_on) or re.split(r"[/\\]", trained_on.rstrip("/\\"))[-1]
    if QUANTISED_NAME.search(named) and not onto_nf4 and not isinstance(base.store, Bnb4bit):
        return (
            f"{adapter.name} was trained on {named}, a quantised model; merging onto {given} in 16 bits. Training saw "
            f"the rounded weights, so outputs differ a little; --onto-nf4 merges onto what an NF4 training saw"
        )
    if _plain(named) == _plain(given):
        return None
    return f"{adapter.name} was trained on {named}; merging onto the model in {given}, taken to be that one"


def _plain(name: str) -> str:
    """A model's bare name: no organisation, no path, no case."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()


def merge_identity(merged: Merged, adapters: Sequence[tuple[Adapter, float]], headers: Iterable[bytes]) -> str:
    """A digest of everything that decides a merge's bytes: inputs by path, size and time, recipe, output headers."""
    base = merged.plan.base
    facts = [
        __version__,
        _stamps(base.store),
        header_digest(base.store),
        type(base.store).__name__,
        [
            [canonical_config(adapter.config).decode(), header_digest(adapter.store), weight, _stamps(adapter.store)]
            for adapter, weight in adapters
        ],
        "safe" if merged.safe else "once",
        [hashlib.sha256(header).hexdigest() for header in headers],
    ]
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def conversion_identity(sources: Iterable[Store], headers: Iterable[bytes]) -> str:
    """The same for a conversion: the inputs by path, size and time, and the output headers."""
    inputs = [[_stamps(store), header_digest(store)] for store in sources]
    facts = [__version__, inputs, [hashlib.sha256(header).hexdigest() for header in headers]]
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def _weight_files(store: Store) -> list[Path]:
    return sorted(store.files)


def _stamps(store: Store) -> list[list[Any]]:
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in _weight_files(store)]


def merge_manifest(
    merged: Merged,
    adapters: Sequence[tuple[Adapter, float]],
    files: Iterable[tuple[str, int]],
    *,
    dtype: DType,
    sampled: int,
    digest_base: bool,
    digests: Sequence[str],
    notes: Sequence[str],
    gguf: Sequence[Mapping[str, Any]] = (),
) -> Mapping[str, Any]:
    """What was made of what: canonical, without paths or times, so that equal merges have equal manifests.

    ``digests`` are the adapters' content digests.
    """
    base = merged.plan.base
    described = source_record(base_name(base), base.store)
    revision = next((a.config.revision for a, _ in adapters if a.config.revision), None) or snapshot_commit(base.path)
    if revision:
        described["revision"] = revision
    if digest_base:
        described["digest"] = content_digest(base.store)
    return {
        "schema": MANIFEST_SCHEMA,
        "kind": "merged",
        "adaptool": __version__,
        "base": described,
        "adapters": [_adapter_record(*one, digest) for one, digest in zip(adapters, digests, strict=True)],
        "recipe": {
            "rounding": "safe" if merged.safe else "once",
            "dtype": dtype.torch_name,
            "base_read_as": type(base.store).__name__ if base.store.transforms else "stored",
            "unties_head": merged.plan.unties,
            "resizes_vocabulary": _resized(merged),
        },
        "checked": {"sampled_rows": sampled},
        "files": [{"name": name, "size": size} for name, size in files],
        **({"gguf": list(gguf)} if gguf else {}),
        "notes": list(notes),
    }


def source_record(name: str, store: Store) -> dict[str, Any]:
    """What a manifest says of a model that was read."""
    files = [file_record(path, hashed=False).to_dict() for path in _weight_files(store)]
    return {"name": name, "header_digest": header_digest(store), "files": files}


def _resized(merged: Merged) -> int | None:
    name = merged.plan.base.embedding
    if name is None or merged[name].shape == merged.plan.base.store[name].shape:
        return None
    return merged[name].shape[0]


def _adapter_record(adapter: Adapter, weight: float, digest: str) -> dict[str, Any]:
    paths = [*_weight_files(adapter.store), adapter.folder / CONFIG_NAME]
    return {
        "name": adapter.name,
        "weight": weight,
        "peft_type": adapter.config.peft_type,
        "base_model": hub_id(adapter.config.base_model),
        "digest": digest,
        "files": [file_record(path, hashed=True).to_dict() for path in sorted(paths)],
    }


def snapshot_commit(path: Path) -> str | None:
    """The commit of an HF-cache snapshot: the folder's own name."""
    return path.name if path.parent.name == "snapshots" and len(path.name) == 40 else None
