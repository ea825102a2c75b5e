"""SHA-256 of an adapter's weights, of the file and of every tensor, from one reading of it.

A check of a repository hashes every adapter in it, so what counts is the cost of a small tensor and of a large file:
the file is read in pieces into one buffer, and each piece goes to the file's digest and to those of its tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.safetensors import SafetensorsFile
from adaptool.tensors.store import Store
from adaptool.versions import canonical_json, sha256_of, tensor_digest

PIECE = 1 << 20
"""Bytes: small enough to be in the processor's cache when the second digest reads them."""

TWO_THREADS = 16 << 20
"""Bytes of a file from which on a second thread, which costs a tenth of a millisecond a piece, pays."""


def hash_weights(store: Store, path: Path) -> tuple[str, Mapping[str, str]]:
    """The SHA-256 of the weights' file, and ``versions.tensor_digest`` of every tensor of ``store``."""
    if isinstance(store, SafetensorsFile) and store.path == path:
        return _in_one_pass(store)
    return sha256_of(open_file(path)), {name: tensor_digest(store, name) for name in store}


def _in_one_pass(store: SafetensorsFile) -> tuple[str, Mapping[str, str]]:
    """A safetensors file is its header and then its tensors, one behind the other."""
    handle = open_file(store.path)
    try:
        whole = hashlib.sha256()
        digests = {name: hashlib.sha256(canonical_json([name, info.dtype.name, list(info.shape)]))
                   for name, info in store.infos.items()}  # fmt: skip
        parts = [(store.offsets[name], store.offsets[name] + store[name].nbytes, digests[name]) for name in store]
        if handle.size >= TWO_THREADS:
            with ThreadPoolExecutor(1, thread_name_prefix="adaptool") as other:
                for start, piece in _pieces(handle):
                    waiting = other.submit(whole.update, piece)
                    _share(piece, start, parts)
                    waiting.result()
        else:
            for start, piece in _pieces(handle):
                whole.update(piece)
                _share(piece, start, parts)
        return whole.hexdigest(), {name: digest.hexdigest() for name, digest in digests.items()}
    finally:
        handle.close()


def _pieces(handle: FileHandle) -> Iterator[tuple[int, memoryview]]:
    """The file's bytes with where they begin, in a buffer that is used again."""
    buffer = memoryview(bytearray(min(PIECE, handle.size)))
    for start in range(0, handle.size, PIECE):
        piece = buffer[: min(PIECE, handle.size - start)]
        handle.read_into(piece, start)
        yield start, piece


def _share(piece: memoryview, start: int, parts: list[tuple[int, int, Any]]) -> None:
    """Give each tensor its part of a piece; those that are complete leave ``parts``, which is in the file's order."""
    stop = start + len(piece)
    done = 0
    for begin, end, digest in parts:
        if begin >= stop:
            break
        digest.update(piece[max(begin - start, 0) : end - start])
        if end > stop:
            break
        done += 1
    del parts[:done]
