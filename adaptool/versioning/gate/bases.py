"""Whether an adapter says for good which base model it is for, and says the same in both its files."""

from __future__ import annotations

from collections.abc import Iterator

from adaptool.adapters.config import CONFIG_LIMIT, CONFIG_NAME, AdapterConfig
from adaptool.comparing.base_names import bases_changed
from adaptool.errors import AdaptoolError
from adaptool.tensors.jsons import parse_json
from adaptool.versioning.gate.findings import Finding, finding
from adaptool.versioning.kept.sides import Kept
from adaptool.versioning.record import Base, Record


def base_findings(kept: Kept, stated: Record) -> Iterator[Finding]:
    """The base in the manifest: pinned by a commit or a digest, and the one the config names."""
    base = stated.base
    if not base.pinned:
        yield finding("VER301", kept.path, _unpinned(base))
    config = _config(kept)
    if config is None:
        return
    try:
        named = config.base_model, config.revision
    except AdaptoolError:
        return
    change, _ = bases_changed((base.name, base.revision), named)
    if change == "other" or (change == "revision" and base.pinned):
        told = f"{_spelt(base.name, base.revision)} in the manifest, {_spelt(*named)} in the config"
        yield finding("VER302", kept.path, told, file=CONFIG_NAME)
    elif base.name is None and named[0] is not None:
        yield finding("VER302", kept.path, f"the manifest names no base, the config {named[0]}", file=CONFIG_NAME)


def _unpinned(base: Base) -> str:
    if base.name is None:
        return "no base model is named, and no digest of its weights recorded"
    if base.revision is None:
        return f"{base.name} without a revision: whatever its main branch holds that day"
    return f"{base.name} at {base.revision!r}, which is a branch or tag and can move"


def _spelt(name: str | None, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else str(name)


def _config(kept: Kept) -> AdapterConfig | None:
    """The config, None where it is not here or no config: that is found elsewhere."""
    blob = kept.entries.get(CONFIG_NAME)
    if blob is None:
        return None
    try:
        fields = parse_json(kept.side.read(blob, CONFIG_LIMIT), CONFIG_NAME, what="config")
    except AdaptoolError:
        return None
    return AdapterConfig(fields) if isinstance(fields, dict) else None
