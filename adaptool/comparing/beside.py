"""What lies beside the weights of two adapters, or of two models: files that differ, and what a manifest says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptool.comparing.file_bytes import same_bytes
from adaptool.errors import AdaptoolError
from adaptool.versions import read_manifest

APART = "is not the same beside the two"


def notes_on(
    names: Iterable[str], before: Path, after: Path, told: Callable[[str, Path, Path], str] = lambda *_: APART
) -> Iterator[str]:
    """Of the files of these names in two folders what differs, in words; ``told`` may know of one that it does not."""
    for name in names:
        old, new = before / name, after / name
        if old.is_file() != new.is_file():
            yield f"{name} is beside the {'first' if old.is_file() else 'second'} only"
        elif old.is_file() and not same_bytes(old, new) and (said := told(name, old, new)):
            yield f"{name} {said}"


def manifest_of(folder: Path) -> Mapping[str, Any]:
    """The manifest in a folder; empty where there is none that can be read."""
    try:
        return read_manifest(folder) or {}
    except AdaptoolError:
        return {}


def version_in(manifest: Mapping[str, Any]) -> str | None:
    """What a manifest calls this state, where it says so in a text."""
    version = manifest.get("version")
    return version if isinstance(version, str) else None
