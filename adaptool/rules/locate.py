"""From what the user names to adapters: a folder, a file of one, or a tree with many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.adapters.config import CONFIG_NAME
from adaptool.errors import DiskError, FormatError, NotFoundError

OWN_NAMES = (CONFIG_NAME, WEIGHTS_NAME, PICKLE_NAME)
"""The files by which a folder is an adapter's, and which stand for it on a command line."""

DEEPEST = 12
"""Folders below a folder: beyond, something else is being searched."""

SKIPPED = {".git", "node_modules", "__pycache__", ".venv", "site-packages"}


@dataclass(frozen=True, slots=True)
class Target:
    """An adapter to validate: its folder, and the weights' file where that was named and is not PEFT's own name."""

    folder: Path
    weights: Path | None = None


def find_adapters(path: Path) -> Iterator[Target]:
    """The adapter ``path`` is, or all in the tree below it, in order. Raises NotFoundError where there is none."""
    if not os.path.lexists(path):
        raise NotFoundError(f"{path}: no such file or folder")
    if not path.is_dir():
        yield _of_file(path)
        return
    if is_adapter(path):
        yield Target(path)
        return
    try:
        found = list(_below(path, 0))
    except OSError as error:
        raise DiskError(f"{error.filename or path}: cannot be read: {error.strerror}") from error
    if not found:
        looks = "this looks like a model, not an adapter" if (path / "config.json").exists() else None
        raise NotFoundError(
            f"{path}: no adapter here or below (no {CONFIG_NAME}, no {WEIGHTS_NAME})",
            hint=looks or "point at the folder that save_pretrained wrote",
        )
    yield from found


def is_adapter(folder: Path) -> bool:
    """Whether a folder claims to be an adapter: its config or its weights are there, sound or not."""
    return any(os.path.lexists(folder / name) for name in OWN_NAMES)


def _of_file(path: Path) -> Target:
    if path.name in OWN_NAMES:
        return Target(path.parent)
    if is_adapter(path.parent) and path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        return Target(path.parent, path)
    if path.suffix == ".gguf":
        raise FormatError(f"{path}: a GGUF, not a PEFT adapter", hint="see what it is with: adaptool inspect")
    raise NotFoundError(f"{path}: no adapter beside it ({CONFIG_NAME})", hint="name the adapter's folder")


def _below(folder: Path, depth: int) -> Iterator[Target]:
    """Adapters in a tree; links to folders are not followed, nor the inside of an adapter searched."""
    for child in sorted(folder.iterdir()):
        if child.is_symlink() or not child.is_dir() or child.name in SKIPPED:
            continue
        if is_adapter(child):
            yield Target(child)
        elif depth < DEEPEST:
            yield from _below(child, depth + 1)
