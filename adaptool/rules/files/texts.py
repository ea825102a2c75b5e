"""The texts beside an adapter's weights: what people leave in a folder, and what is published with it."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from adaptool.errors import AdaptoolError
from adaptool.rules.locate import SKIPPED
from adaptool.rules.subject import Subject
from adaptool.summary.beside import MOST_FILES
from adaptool.tensors.files import open_file

FILE_LIMIT, TOTAL_LIMIT = 2 << 20, 8 << 20
"""Bytes read of one file and of all: a card and a log have kilobytes, a vocabulary has megabytes."""

MOST_ENTRIES = 500
"""Of the weights' metadata that are texts of their own."""

DEEPEST = 4
"""Folders below the adapter's: runs/, checkpoint-500/, additional_chat_templates/."""

BINARY_LIMIT = 256 << 10
"""Bytes of a file that is no text: training_args.bin has its token in clear, a picture or an archive has none."""

WEIGHTS = (".safetensors", ".gguf", ".onnx", ".h5", ".npz", ".npy", ".parquet", ".arrow")
BINARY = (".bin", ".pt", ".pth", ".pkl", ".model", ".msgpack")

VOCABULARIES = {"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"}
"""Hundreds of thousands of pieces of words: some look like anything."""

VOCABULARY_LIMIT = 128 << 10
"""Bytes: its head, where a tokenizer.json has its settings."""

MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Text:
    """One text: a file's, by its path from the adapter's folder, or an entry of the weights' ``__metadata__``."""

    file: str
    field: str
    """``__metadata__.key``; "" where it is a file's."""
    content: str
    binary: bool = False
    """Whether it is no text: its characters are its bytes."""

    @property
    def name(self) -> str:
        """The file's own name, in small letters."""
        return self.file.rpartition("/")[2].lower()

    def line(self, at: int) -> int:
        """The line of a character, from 1."""
        return self.content.count("\n", 0, at) + 1

    def place(self, at: int) -> str:
        """Where a character stands, in words."""
        if self.field:
            return f"{self.field} of {self.file}"
        return f"{self.file}, byte {at}" if self.binary else f"{self.file}, line {self.line(at)}"


def texts(subject: Subject) -> tuple[Text, ...]:
    """Every text that would be published with the adapter, read once."""
    return subject.once("texts", lambda: (*_metadata(subject), *_files(subject.folder)))


def _metadata(subject: Subject) -> Iterator[Text]:
    store = subject.store_opened.value
    if store is None:
        return
    name, entries = subject.weights_name, store.metadata.items()
    if len(entries) > MOST_ENTRIES or sum(len(value) for _, value in entries) > TOTAL_LIMIT:
        whole = "\n".join(f"{key}: {value[:FILE_LIMIT]}" for key, value in islice(entries, TOTAL_LIMIT // 8))
        yield Text(name, "__metadata__", whole[:TOTAL_LIMIT])
    else:
        yield from (Text(name, f"__metadata__.{key}", f"{key}: {value}") for key, value in entries)


def _files(folder: Path) -> Iterator[Text]:
    left = TOTAL_LIMIT
    for number, name in enumerate(walk(folder)):
        if number == MOST_FILES or left <= 0:
            return
        if name.lower().endswith(WEIGHTS):
            continue
        own = name.rpartition("/")[2].lower()
        data = _head(folder / name, min(VOCABULARY_LIMIT if own in VOCABULARIES else FILE_LIMIT, left))
        binary = name.lower().endswith(BINARY) or _is_binary(data)
        if data and (not binary or len(data) <= BINARY_LIMIT):
            left -= len(data)
            yield Text(name, "", data.decode("latin-1") if binary else _decoded(data), binary)


def walk(folder: Path, below: str = "", depth: int = 0) -> Iterator[str]:
    """The regular files of a folder and its folders, by their paths from it; links to folders are not followed."""
    try:
        entries = sorted(os.scandir(folder / below), key=lambda entry: (entry.is_dir(), entry.name))
    except OSError:
        return
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                if depth < DEEPEST and entry.name not in SKIPPED:
                    yield from walk(folder, path, depth + 1)
            elif stat.S_ISREG(entry.stat().st_mode):
                yield path
        except OSError:
            continue


def _head(path: Path, limit: int) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        handle = open_file(path)
        return handle.read(0, min(handle.size, limit))
    except (AdaptoolError, OSError):
        return b""


def _is_binary(data: bytes) -> bool:
    return not data.startswith(tuple(mark for mark, _ in MARKS)) and b"\0" in data[:8192]


def _decoded(data: bytes) -> str:
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    return data.decode(encoding, "replace")
