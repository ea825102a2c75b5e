"""The members of a zip archive as byte ranges of its file, for archives that are stored, not compressed.

PyTorch writes its checkpoints so: a tensor's bytes then lie in the file as they are and are read in place.
Only the central directory decides what is where, as in PyTorch's own reader; the local headers say
how much padding precedes the bytes. An archive a stranger made can lie in each of these places.

Format: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14–4.3.16 (its end).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.files import FileHandle

DIRECTORY_LIMIT = 64 << 20
"""Bytes of central directory: more than half a million members."""

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")

_ENCRYPTED = 1
_UTF8 = 1 << 11
_IN_EXTRA = 0xFFFFFFFF

_REFETCH = "the file is truncated or damaged: fetch it again"


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: where its local header begins, and where its bytes lie."""

    name: str
    header: int
    offset: int
    length: int
    stored: bool = True


def read_members(handle: FileHandle) -> Mapping[str, Member]:
    """Every member by name, in the order of the central directory; no member is read.

    Raises FormatError for members that repeat, overlap or leave the file.
    """
    start, directory = _directory(handle)
    members: dict[str, Member] = {}
    for name, header, length, stored in _entries(handle, directory):
        if name in members:
            raise FormatError(f"{handle.path}: the archive holds {name!r} twice")
        members[name] = Member(name, header, _offset(handle, name, header, length, end=start), length, stored)
    _check_apart(handle, members)
    return members


def check_stored(handle: FileHandle, members: Mapping[str, Member]) -> None:
    """Raise UnsupportedError if the bytes of a member do not lie in the file as they are."""
    for member in members.values():
        if not member.stored:
            raise UnsupportedError(
                f"{handle.path}: {member.name!r} is compressed or encrypted in the archive",
                hint="torch.save does neither: load it and save it again where it was made",
            )


def _directory(handle: FileHandle) -> tuple[int, bytes]:
    """The offset and the bytes of the central directory, found from the end of the file."""
    end = handle.size - _END.size
    if end < 0:
        raise FormatError(f"{handle.path}: {handle.size} bytes, too short to be a zip archive", hint=_REFETCH)
    magic, disk, first_disk, _, _, length, start, _ = _END.unpack(handle.read(end, _END.size))
    if magic != b"PK\5\6":
        raise FormatError(f"{handle.path}: no zip directory at the end of the file", hint=_REFETCH, defect="truncated")
    if handle.size >= _END.size + _LOCATOR.size + _END64.size:
        magic, _, at, _ = _LOCATOR.unpack(handle.read(end - _LOCATOR.size, _LOCATOR.size))
        if magic == b"PK\6\7":
            end -= _LOCATOR.size + _END64.size
            record = _END64.unpack(handle.read(end, _END64.size))
            if record[0] != b"PK\6\6" or at != end:
                raise FormatError(f"{handle.path}: the zip64 directory record is not where it should be")
            disk, first_disk, length, start = record[4], record[5], record[8], record[9]
    if disk or first_disk:
        raise UnsupportedError(f"{handle.path}: one part of a split zip archive")
    if start + length != end:
        raise FormatError(f"{handle.path}: the zip directory is not where its record says", hint=_REFETCH)
    if length > DIRECTORY_LIMIT:
        raise FormatError(f"{handle.path}: a zip directory of {length} bytes, more than the {DIRECTORY_LIMIT} allowed")
    return start, handle.read(start, length)


def _entries(handle: FileHandle, directory: bytes) -> Iterator[tuple[str, int, int, bool]]:
    """Each member's name, the offset of its local header, its length in the file, and whether that is all of it."""
    at = 0
    while at < len(directory):
        if at + _CENTRAL.size > len(directory) or not directory.startswith(b"PK\1\2", at):
            raise FormatError(f"{handle.path}: the zip directory is damaged", hint=_REFETCH)
        fields = _CENTRAL.unpack_from(directory, at)
        flags, method, packed, length = fields[3], fields[4], fields[8], fields[9]
        name_length, extra_length, comment_length, header = *fields[10:13], fields[16]
        at += _CENTRAL.size
        name = _name(handle, directory[at : at + name_length], flags)
        extra = directory[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        if at > len(directory):
            raise FormatError(f"{handle.path}: the zip directory is damaged", hint=_REFETCH)
        length, packed, header = _widened(handle, extra, (length, packed, header))
        stored = method == 0 and not flags & _ENCRYPTED
        if stored and packed != length:
            raise FormatError(f"{handle.path}: {name!r} is stored and has two lengths, {packed} and {length}")
        yield name, header, packed, stored


def _widened(handle: FileHandle, extra: bytes, fields: tuple[int, ...]) -> Iterator[int]:
    """The fields with those that did not fit 32 bits taken from the zip64 extra field."""
    wide = _zip64(extra)
    for field in fields:
        if field != _IN_EXTRA:
            yield field
        elif len(wide) >= 8:
            yield int.from_bytes(wide[:8], "little")
            wide = wide[8:]
        else:
            raise FormatError(f"{handle.path}: the zip directory lacks a 64-bit length", hint=_REFETCH)


def _zip64(extra: bytes) -> bytes:
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            return extra[4 : 4 + length]
        extra = extra[4 + length :]
    return b""


def _name(handle: FileHandle, raw: bytes, flags: int) -> str:
    try:
        return raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise FormatError(f"{handle.path}: the archive has a member with an unreadable name") from None


def _offset(handle: FileHandle, name: str, header: int, length: int, *, end: int) -> int:
    """Where the member's bytes begin: behind its local header, which may hold padding."""
    if header + _LOCAL.size > end:
        raise FormatError(f"{handle.path}: {name!r} begins outside the archive", hint=_REFETCH)
    fields = _LOCAL.unpack(handle.read(header, _LOCAL.size))
    offset: int = header + _LOCAL.size + fields[9] + fields[10]
    if fields[0] != b"PK\3\4" or offset + length > end:
        raise FormatError(f"{handle.path}: {name!r} is not where the zip directory says", hint=_REFETCH)
    if handle.read(header + _LOCAL.size, fields[9]) != name.encode():
        raise FormatError(f"{handle.path}: {name!r} has another name in its own header")
    return offset


def _check_apart(handle: FileHandle, members: Mapping[str, Member]) -> None:
    for before, after in pairwise(sorted(members.values(), key=lambda member: member.header)):
        if before.offset + before.length > after.header:
            raise FormatError(f"{handle.path}: {before.name!r} and {after.name!r} overlap in the archive")
