"""A weights file as text, for ``git diff``: a line a module, so that two revisions differ where the adapter does.

Git hands over the file alone, under another name and without the config beside it. So it is the factors that are told:
what a module's update is before its scale, ‖B@A‖, exactly and without forming it. The same weights always make the
same text, in whatever order they were saved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptool.adapters.names import PREFIX
from adaptool.errors import AdaptoolError
from adaptool.git.lfs import LfsStore
from adaptool.git.measured import Measured, Update, measure
from adaptool.git.repository import find_repository
from adaptool.summary.contents import place_of
from adaptool.tensors.files import open_file
from adaptool.tensors.gguf import GgufFile, open_single
from adaptool.tensors.pointers import LARGEST, Pointer, parse_pointer
from adaptool.tensors.sniff import sniff
from adaptool.tensors.store import Store, TensorInfo, totals_by_type

READ_LIMIT = 2 << 30
"""Bytes: of a larger file only names, types and shapes are told, or every ``git log -p`` would take minutes."""

LONGEST_VALUE = 200
SHORT = 10
"""Digits of a digest: the first of what adaptool.json holds for the tensor."""

KINDS = {"safetensors": "safetensors", "torch-zip": "PyTorch", "torch-legacy": "PyTorch", "gguf": "GGUF"}


@dataclass(frozen=True, slots=True)
class Section:
    """The lines under one heading: a layer, or what is in none."""

    heading: str
    lines: tuple[str, ...]


def textconv(path: Path) -> Iterator[str]:
    """The lines for one file, whatever it is: what cannot be read is one line that says so."""
    try:
        yield from _told(path)
    except AdaptoolError as error:
        yield f"cannot be read: {_line(error.message.removeprefix(f'{path}: '))}"
    except Exception as error:  # git diff must go on, whatever a file holds
        yield f"cannot be read: {type(error).__name__}: {_line(str(error))}"


def _told(path: Path) -> Iterator[str]:
    file = open_file(path)
    if file.size == 0:
        yield "an empty file"
        return
    pointer = parse_pointer(file.read(0, file.size)) if file.size < LARGEST else None
    if pointer is None:
        yield from _weights(path)
        return
    content = fetched(pointer)
    if content is not None:
        yield from _weights(content)
        return
    yield f"{'Git LFS' if pointer.kind == 'lfs' else 'Xet'} pointer, content not fetched"
    yield f"oid {'sha256:' if pointer.kind == 'lfs' else ''}{pointer.oid}"
    yield f"size {pointer.size}"


def fetched(pointer: Pointer) -> Path | None:
    """The content of an LFS pointer, if the repository that git runs us for has it."""
    try:
        repository = find_repository(Path())
        return None if repository is None else LfsStore(repository).open(pointer, "the file")
    except AdaptoolError:
        return None


def _weights(path: Path) -> Iterator[str]:
    from adaptool.adapters.adapter import open_weights

    kind = sniff(path)
    store: Store = open_single(path) if kind == "gguf" else open_weights(path.parent, path)
    read = store.nbytes <= READ_LIMIT
    told = measure(store) if read else Measured((), tuple(store.infos.values()), {}, {})
    types = ", ".join(f"{count} {name}" for name, count, _ in totals_by_type(store.infos.values()))
    yield f"weights: {KINDS.get(kind, kind)}, {len(store)} tensors ({types}), {store.nbytes} bytes"
    if told.updates:
        ranks = sorted({update.rank for update in told.updates})
        rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
        yield f"updates: {len(told.updates)} modules, rank {rank}, |BA| {_number(told.norm)} without scale"
    yield f"digest: {told.digest}" if read else f"values: not read, they are more than {READ_LIMIT} bytes"
    for key, value in _metadata(store):
        yield f"metadata: {_line(key)} = {_line(value)[:LONGEST_VALUE]}"
    for section in _sections(told):
        yield ""
        yield f"[{section.heading}]"
        yield from section.lines


def _metadata(store: Store) -> Iterator[tuple[str, str]]:
    if not isinstance(store, GgufFile):
        yield from sorted(store.metadata.items())
        return
    for key in sorted(store.keys):
        data = store.keys[key].data
        is_list = not isinstance(data, str | int | float | bool)
        yield key, f"{len(data)} values" if is_list else str(data)


def _sections(told: Measured) -> Iterator[Section]:
    """Modules and tensors by layer, in the natural order of their names."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for update in told.updates:
        heading, name = _place(update.module)
        rows.setdefault(heading, []).append((name, _update_line(name, update)))
    for info in told.others:
        heading, name = _place(info.name.removeprefix(PREFIX))
        rows.setdefault(heading, []).append((name, _tensor_line(name, info, told)))
    for heading in sorted(rows, key=_natural):
        yield Section(heading, tuple(line for _, line in sorted(rows[heading], key=lambda row: _natural(row[0]))))


def _place(name: str) -> tuple[str, str]:
    place = place_of(name)
    if place.layer is None:
        return "no layer", _line(name)
    return _line(f"{place.stack}.{place.layer}".lstrip(".")), _line(name.partition(f"{place.layer}.")[2])


def _update_line(name: str, update: Update) -> str:
    return (
        f"{name}  rank {update.rank}  {update.rows}x{update.columns}  {update.dtype}  |BA| {_number(update.norm)}"
        f"  |A| {_number(update.norm_a)}  |B| {_number(update.norm_b)}"
        f"  {update.digest_a[:SHORT]} {update.digest_b[:SHORT]}"
    )


def _tensor_line(name: str, info: TensorInfo, told: Measured) -> str:
    norm = f"  |W| {_number(told.norms[info.name])}" if info.name in told.norms else ""
    digest = f"  {told.digests[info.name][:SHORT]}" if info.name in told.digests else ""
    return f"{name}  {list(info.shape)}  {info.dtype}{norm}{digest}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _line(text: str) -> str:
    """``text`` on one line, with what would not show as itself escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A key by which layer 2 comes before layer 10."""
    parts = re.split(r"(\d{1,18})", text)
    return tuple((0, int(part), part) if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts)
