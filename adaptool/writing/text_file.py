"""A text written whole or not at all: pages, manifests, signatures."""

from __future__ import annotations

import os
import re
from pathlib import Path

from adaptool.errors import DiskError, UsageError

ADAPTERS_OWN = re.compile(
    r"adaptool\.json|(?:adapter_)?config\.json|tokenizer(?:_config)?\.json|.*\.(?:safetensors|gguf|bin|pth?|sig)"
)
"""Files that nobody means to replace by a report, --overwrite or not."""

SCRATCH = re.compile(r"\..+\.[0-9]+\.partial", re.DOTALL)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """UsageError where writing ``path`` would replace a file nobody asked to be replaced, or something else."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file", hint="what is printed goes to stdout without it")
    if ADAPTERS_OWN.fullmatch(path.name):
        raise UsageError(f"{path}: an adapter's own file has that name", hint="name another")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path} exists", hint="--overwrite replaces it")


def is_scratch(name: str) -> bool:
    """Whether a file of that name is one that ``write_text`` is writing, or was when it was killed."""
    return SCRATCH.fullmatch(name) is not None


def write_text(path: Path, text: str) -> None:
    """Write ``text`` beside ``path``, then put it there: a reader sees the old file or the new one, never half."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")  # see ``is_scratch``
    try:
        with scratch.open("x", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        scratch.unlink(missing_ok=True)
