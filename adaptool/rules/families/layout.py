"""FIL110–FIL199: whether the weights' file is what the safetensors format says, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from adaptool.adapters.adapter import WEIGHTS_NAME
from adaptool.rules.draft import Draft, file, framed, numbers
from adaptool.rules.files.damage import damage, damaged
from adaptool.rules.files.listing import printable
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.safetensors import SafetensorsFile

CLIENT_LIMIT = 25_000_000
"""Bytes of header: what huggingface_hub's parse_safetensors_file_metadata accepts."""

NAME_LIMIT = 1024
"""Characters: the longest names of real modules have 150."""


def header(fields: object, data: bytes = bytes(16)) -> Callable[[Draft], object]:
    """The mutation that replaces the weights by a file of this header, as JSON or as raw bytes."""
    raw = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return file(WEIGHTS_NAME, framed(raw, data))


def entry(dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, Any]:
    """A tensor's entry in a header, right or wrong; by default 16 bytes."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def appended(data: bytes) -> Callable[[Draft], object]:
    """The mutation that puts bytes behind the last tensor."""
    return lambda draft: draft.files.update({WEIGHTS_NAME: draft.weights() + data})


def cut(share: float) -> Callable[[Draft], object]:
    """The mutation that keeps the first part of the weights' file."""
    return lambda draft: draft.files.update({WEIGHTS_NAME: draft.weights()[: int(len(draft.weights()) * share)]})


A, B = entry(), entry(offsets=(16, 32))


@rule("FIL110", "error", "a header longer than the file",
      breaks=lambda draft: draft.files.update({WEIGHTS_NAME: b"\xff" * 8 + draft.weights()[8:]}))  # fmt: skip
def header_length(subject: Subject) -> Iterator[Problem]:
    """The first eight bytes give the header's length; beyond the file it is a truncated download or an attack.

    Fix: fetch the file again and compare its size and sha256 with the source.
    """
    yield from damaged(subject, "header-length")


@rule("FIL111", "error", "a header beyond the format's 100 MB",
      breaks=lambda draft: header(b"{}" + b" " * 100_000_000)(draft))  # fmt: skip
def header_limit(subject: Subject) -> Iterator[Problem]:
    """The reference implementation refuses headers of more than 100 000 000 bytes; parsing one takes gigabytes.

    Fix: save the adapter again; no adapter needs such a header.
    """
    yield from damaged(subject, "header-limit")


@rule("FIL112", "warning", "a header the hub's client refuses", needs=("tensors",),
      breaks=lambda draft: draft.metadata.update(padding="x" * CLIENT_LIMIT))  # fmt: skip
def header_of_25_megabytes(subject: Subject) -> Iterator[Problem]:
    """huggingface_hub reads headers up to 25 MB; a larger one loads locally and cannot be shown or checked there.

    Fix: take what is not a tensor out of __metadata__.
    """
    store = subject.store
    length = min(store.offsets.values(), default=0) - 8 if isinstance(store, SafetensorsFile) else 0
    if length > CLIENT_LIMIT:
        yield Problem(f"the header has {length} bytes, more than {CLIENT_LIMIT}", subject.weights_name)


@rule("FIL113", "error", "a header that is not a JSON object", breaks=header(b"{'a': 1}"))
def header_not_json(subject: Subject) -> Iterator[Problem]:
    """The header must be strict JSON in UTF-8 that begins with {: anything looser is read differently by each parser.

    Fix: fetch the file again, or save it with the safetensors library.
    """
    yield from damaged(subject, "not-json", "not-an-object")


@rule("FIL114", "error", "a key twice in the header",
      breaks=header(b'{"a":%b,"a":%b}' % ((json.dumps(A).encode(),) * 2)))  # fmt: skip
def duplicate_key(subject: Subject) -> Iterator[Problem]:
    """Of two equal keys one parser takes the first and another the last: what is checked is not what is loaded.

    Fix: do not use the file; save the adapter again with the safetensors library.
    """
    yield from damaged(subject, "duplicate-key")


@rule(
    "FIL115", "error", "a header nested absurdly deep", breaks=header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
)
def deep_header(subject: Subject) -> Iterator[Problem]:
    """A header is three levels deep; a hundred thousand crash the parsers that recurse.

    Fix: do not use the file; it was made to crash a loader.
    """
    yield from damaged(subject, "too-deep")


@rule("FIL116", "error", "__metadata__ that is not text to text", breaks=header({"__metadata__": {"step": 3}, "a": A}))
def odd_metadata(subject: Subject) -> Iterator[Problem]:
    """The format allows strings only, and the reference implementation refuses the whole file over a number.

    Fix: write the metadata as strings ("3", not 3) and save again.
    """
    yield from damaged(subject, "metadata")


@rule("FIL117", "error", "an entry without its three fields", breaks=header({"a": A | {"scale": 2}}))
def odd_entry(subject: Subject) -> Iterator[Problem]:
    """Each tensor has dtype, shape and data_offsets, no more and no fewer.

    Fix: save the adapter again with the safetensors library.
    """
    yield from damaged(subject, "entry")


def _crowded(draft: Draft) -> None:
    entries = (b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number for number in range(100_001))
    draft.files[WEIGHTS_NAME] = framed(b"{%s}" % b",".join(entries))


@rule("FIL118", "error", "more tensors than any adapter has", breaks=_crowded)
def flood(subject: Subject) -> Iterator[Problem]:
    """A header of a hundred thousand entries and more costs every program that reads it minutes and gigabytes; the
    tensors are not looked at.

    Fix: do not use the file; save the adapter again.
    """
    yield from damaged(subject, "too-many-tensors")


@rule("FIL120", "error", "a data type that does not exist", breaks=header({"a": entry("F33")}))
def unknown_type(subject: Subject) -> Iterator[Problem]:
    """The format names its types (F32, BF16, F8_E4M3, …); of an unknown one the size of an element is unknown.

    Fix: save the adapter again in a type of the format.
    """
    yield from damaged(subject, "unknown-type")


@rule("FIL121", "error", "a shape or offsets that cannot be", breaks=header({"a": entry(shape=[-2, -2])}))
def impossible_numbers(subject: Subject) -> Iterator[Problem]:
    """Dimensions and offsets are whole numbers from zero up; negative, fractional or boolean ones confuse readers.

    Fix: do not use the file; save the adapter again with the safetensors library.
    """
    yield from damaged(subject, "impossible-numbers")


@rule("FIL122", "error", "numbers that overflow 64 bits", breaks=header({"a": entry(shape=[2**62, 8], offsets=(0, 0))}))
def overflow(subject: Subject) -> Iterator[Problem]:
    """Sizes beyond 64 bits wrap around in compiled readers, to a small buffer and a large copy.

    Fix: do not use the file; it was made to attack a loader.
    """
    yield from damaged(subject, "overflow")


@rule("FIL123", "error", "a byte range that is not the tensor's size", breaks=header({"a": entry(shape=[5])}))
def wrong_range(subject: Subject) -> Iterator[Problem]:
    """Shape times type must be the bytes of the range, else a reader reads past it or leaves some out.

    Fix: fetch the file again, or save it with the safetensors library.
    """
    yield from damaged(subject, "range")


@rule("FIL130", "error", "tensors that overlap", breaks=header({"a": A, "b": entry(offsets=(8, 24))}, bytes(24)))
def overlap(subject: Subject) -> Iterator[Problem]:
    """Two tensors in the same bytes: the format forbids it, and a change to one changes the other.

    Fix: fetch the file again, or save it with the safetensors library.
    """
    yield from damaged(subject, "overlap")


@rule("FIL131", "error", "bytes between tensors that belong to none",
      breaks=header({"a": A, "b": entry(offsets=(24, 40))}, bytes(40)))  # fmt: skip
def hole(subject: Subject) -> Iterator[Problem]:
    """The format allows no holes: what lies in one is loaded by nobody and can hide anything.

    Fix: save the adapter again with the safetensors library, which leaves the hidden bytes out.
    """
    yield from damaged(subject, "hole")


@rule("FIL132", "error", "bytes behind the last tensor", breaks=appended(b"something else"))
def trailing(subject: Subject) -> Iterator[Problem]:
    """The tensors must end where the file does: bytes behind them are an appended payload or a damaged file.

    Fix: save the adapter again with the safetensors library, which leaves the hidden bytes out.
    """
    yield from damaged(subject, "trailing")


@rule("FIL133", "error", "two file formats in one", breaks=appended(b"PK\5\6" + bytes(18)))
def polyglot(subject: Subject) -> Iterator[Problem]:
    """A file that is safetensors to one program and an archive, a pickle or an executable to another is an attack.

    Fix: do not use the file, nor its source; save your own adapter again with the safetensors library.
    """
    yield from damaged(subject, "polyglot")


@rule("FIL134", "error", "a truncated file", breaks=cut(0.7))
def truncated(subject: Subject) -> Iterator[Problem]:
    """The header lists tensors beyond the end of the file: the download or the copy was cut off.

    Fix: fetch the file again and compare its size and sha256 with the source.
    """
    yield from damaged(subject, "truncated")


@rule("FIL140", "error", "a tensor's name that no module has", needs=("tensors",),
      breaks=lambda draft: draft.tensors.update({"../../evil\x1b[2J": numbers((4,), 0)}))  # fmt: skip
def odd_names(subject: Subject) -> Iterator[Problem]:
    """Control characters rewrite terminals, invisible ones hide differences, and ".." or "/" leave a folder wherever
    names become files. Names of PyTorch modules have none of them.

    Fix: do not trust the file; rename the tensors if you made it.
    """
    odd = {key: why for key in subject.store if (why := _oddity(key))}
    if odd:
        first, why = next(iter(odd.items()))
        more = f", and {len(odd) - 1} more names like it" if len(odd) > 1 else ""
        yield Problem(f'the name "{printable(first)}" {why}{more}', subject.weights_name, tensors=tuple(odd))


def _oddity(name: str) -> str:
    if not name.isprintable():
        return "has control or invisible characters"
    if len(name) > NAME_LIMIT:
        return f"has {len(name)} characters"
    if not name or ".." in name or "/" in name or "\\" in name or name != name.strip():
        return "is empty, or has '..', a slash or space at an end"
    return "" if name.isascii() else "has letters beyond ASCII, which can pass for others"


SAID = frozenset(
    {"lfs-pointer", "page", "other-format", "too-short", "zeros", "no-tensors", "header-length", "header-limit",
     "not-json", "not-an-object", "duplicate-key", "too-deep", "metadata", "entry", "unknown-type",
     "impossible-numbers", "overflow", "range", "overlap", "hole", "too-many-tensors", "trailing", "polyglot",
     "truncated"}
)  # fmt: skip
"""The words that have a rule."""


@rule("FIL199", "error", "the weights' file cannot be read", breaks=file(WEIGHTS_NAME, b"neither \x8b\xad\xf0\x0d" * 9))
def not_weights(subject: Subject) -> Iterator[Problem]:
    """The weights are there and cannot be read, for a reason that has no rule of its own.

    Fix: fetch or save the weights again.
    """
    found = damage(subject)
    if found is not None and found.word not in SAID:
        yield from damaged(subject, found.word)
