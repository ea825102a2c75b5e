"""FIL100–FIL109: what lies in place of the adapter's files, and saves with nothing in them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adaptool.adapters.adapter import WEIGHTS_NAME
from adaptool.rules.draft import Draft, file, framed, numbers
from adaptool.rules.files.damage import damaged
from adaptool.rules.files.listing import Entry, listing, printable
from adaptool.rules.finding import Problem
from adaptool.rules.forms import emptied
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 18915328\n"

_NEEDED = re.compile(
    r"adapter_.*|.*token.*\.(?:json|model)|(?:vocab|config|generation_config|preprocessor_config)\.json|merges\.txt|.*\.jinja"
)
"""What a loader reads; without an image or an optimizer's state the adapter still works."""

NEVER_A_PAGE = (".json", ".jsonl", ".safetensors", ".bin", ".pt", ".pth", ".model", ".gguf", ".jinja")
"""Files that hold no markup of their own, as README.md may."""


@rule("FIL101", "error", "a Git LFS pointer in place of a file", breaks=file(WEIGHTS_NAME, POINTER))
def lfs_pointer(subject: Subject) -> Iterator[Problem]:
    """A clone without Git LFS leaves three lines of text where each large file should be; nothing loads them.

    Fix: fetch the files with `git lfs install && git lfs pull`, or download the adapter again.
    """
    pointers = [entry for entry in listing(subject).files if _is(entry, "pointer")]
    if not pointers:
        yield from damaged(subject, "lfs-pointer")
        return
    needed = [entry for entry in pointers if entry.name == subject.weights_name or _NEEDED.fullmatch(entry.name)]
    first = min(needed or pointers, key=lambda entry: entry.name != subject.weights_name)
    more = f" and {len(pointers) - 1} more are Git LFS pointers" if len(pointers) > 1 else " is a Git LFS pointer"
    yield Problem(f"{first.shown}{more}, not the contents", first.shown, severity=None if needed else "warning")


@rule("FIL102", "error", "a web page or a message in place of a file",
      breaks=file(WEIGHTS_NAME, b"<!DOCTYPE html><html><head><title>Log in</title></head></html>"))  # fmt: skip
def web_page(subject: Subject) -> Iterator[Problem]:
    """A download that needed a login, or hit an error, has saved the server's answer under the file's name.

    Fix: download it again, logged in (`hf auth login`), and look at what the server answers.
    """
    yield from damaged(subject, "page")
    for found in listing(subject).files:
        if _is(found, "page") and found.suffix in NEVER_A_PAGE and found.name != subject.weights_name:
            yield Problem(f"{found.shown} is a web page or an XML document of {found.size} bytes", found.shown)


def _is(entry: Entry, group: str) -> bool:
    return entry.format is not None and entry.format.group == group


@rule(
    "FIL103",
    "error",
    "the weights are a file of another format",
    breaks=file(WEIGHTS_NAME, b"GGUF\3\0\0\0" + bytes(40)),
)
def other_format(subject: Subject) -> Iterator[Problem]:
    """The name promises tensors in safetensors and the bytes are something else, which no loader will open.

    Fix: put the adapter's own weights there; unpack them first if they were archived.
    """
    yield from damaged(subject, "other-format")


@rule("FIL104", "error", "the weights' file is empty", breaks=file(WEIGHTS_NAME, b""))
def empty_file(subject: Subject) -> Iterator[Problem]:
    """An interrupted save or download leaves a file of no bytes, or of zeros.

    Fix: save or download the weights again.
    """
    yield from damaged(subject, "too-short", "zeros")


@rule(
    "FIL105",
    "error",
    "no tensors in the weights",
    breaks=file(WEIGHTS_NAME, framed(b'{"__metadata__":{"format":"pt"}}')),
)
def no_tensors(subject: Subject) -> Iterator[Problem]:
    """A header and nothing behind it: under DeepSpeed ZeRO-3 a save that does not gather the weights looks so.

    Fix: save again with stage3_gather_16bit_weights_on_model_save, or convert with zero_to_fp32.py.
    """
    yield from damaged(subject, "no-tensors")


def _emptied(draft: Draft) -> None:
    draft.tensors.update({key: numbers((0,), 0) for key in draft.tensors})


@rule("FIL106", "error", "tensors of zero elements", needs=("tensors",), breaks=_emptied)
def zero_elements(subject: Subject) -> Iterator[Problem]:
    """Names without numbers are what a shard of ZeRO-3 holds: loading fails, or leaves the adapter untrained.

    Fix: save again with stage3_gather_16bit_weights_on_model_save, or convert with zero_to_fp32.py.
    """
    keys = tuple(key for key, info in subject.store.infos.items() if 0 in info.shape)
    adapter = subject.adapter_opened.value if keys else None
    pruned = emptied(adapter) if adapter is not None else frozenset()
    if keys := tuple(key for key in keys if key not in pruned):
        shape = list(subject.store[keys[0]].shape)
        message = f"{len(keys)} of {len(subject.store)} tensors have no elements, first {printable(keys[0])} {shape}"
        yield Problem(message, subject.weights_name, tensors=keys)
