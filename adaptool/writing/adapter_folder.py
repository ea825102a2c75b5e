"""An adapter written as ``save_pretrained`` would: config, weights, what travels with them, and a manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool import __version__
from adaptool.adapters.adapter import WEIGHTS_NAME, Adapter, open_adapter
from adaptool.adapters.config import CONFIG_NAME
from adaptool.errors import AdaptoolError
from adaptool.tensors.writer import FilePlan, plan_files
from adaptool.versions import (
    MANIFEST_NAME,
    MANIFEST_SCHEMA,
    adapter_digest,
    file_record,
    header_digest,
    manifest_text,
    read_manifest,
)
from adaptool.writing.job import SCRATCH, Output, WriteJob
from adaptool.writing.publish import publish


class AdapterJob(WriteJob):
    """Writes ``adapter``'s tensors (whatever they are views of) and config into a new folder.

    A subclass says where it comes from, and checks the folder before it is published.
    """

    kind: str
    """What the manifest calls it: an adapter without a version, until ``version init`` takes it up."""

    def __init__(
        self, adapter: Adapter, out: Path, *, sides: Sequence[Path] = (), workers: int = 1, overwrite: bool = False
    ) -> None:
        super().__init__(out, workers=workers, resume=False, overwrite=overwrite)
        self.adapter = adapter
        """What is written."""
        self.sides = tuple(sides)
        """Files copied beside it."""

    @cached_property
    def plans(self) -> tuple[FilePlan, ...]:
        """The one weights' file."""
        return tuple(plan_files(self.adapter.store, [(WEIGHTS_NAME, list(self.adapter.store))]))

    @cached_property
    def phases(self) -> Sequence[Sequence[Output]]:
        return [[Output(self.adapter.store, self.plans)]]

    @cached_property
    def identity(self) -> str:
        return header_digest(self.adapter.store, self.adapter.config.to_json().encode())

    @property
    def inputs(self) -> Iterable[Path]:
        return sorted(self.adapter.store.files)

    @property
    def side_nbytes(self) -> int:
        return sum(path.stat().st_size for path in self.sides)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of what is written, but the manifest."""
        return tuple(sorted((CONFIG_NAME, WEIGHTS_NAME, *(path.name for path in self.sides))))

    def inspected(self, folder: Path) -> None:
        """Called with the folder complete but for the manifest; what it raises keeps it from being published."""

    def origin(self) -> Mapping[str, Any]:
        """What the manifest says of where the adapter comes from."""
        return {}

    def finish(self, folder: Path, resumed: int) -> None:
        config = json.dumps(self.adapter.config.fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / CONFIG_NAME).write_text(config, encoding="utf-8")
        for path in self.sides:
            shutil.copyfile(path, folder / path.name)
        self.inspected(folder)
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "kind": self.kind,
            "adaptool": __version__,
            **self.origin(),
            "files": [file_record(folder / name, hashed=True).to_dict() for name in self.files],
        }
        (folder / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")
        publish(folder, self.out, SCRATCH)


def parent_of(adapter: Adapter, relation: str) -> dict[str, Any]:
    """An input adapter, as a manifest names it: by the digest of what is stored, which its own manifest has too."""
    with suppress(AdaptoolError):  # what only a lenient reading opens has the digest of what that reads
        adapter = open_adapter(adapter.path)
    digest, version = adapter_digest(adapter), None
    try:
        stated = read_manifest(adapter.folder) or {}
    except AdaptoolError:
        stated = {}
    content = stated.get("content")
    if stated.get("kind") == "adapter" and isinstance(content, dict) and content.get("digest") == digest:
        version = stated.get("version")
    told = {"relation": relation, "name": adapter.name, "digest": digest}
    return {**told, "version": version} if isinstance(version, str) and version else told
