"""Archives beside an adapter: the names in them, their links, and the beginnings of their members, in bounded work.

Nothing is extracted. A read larger than four megabytes, or more than sixteen inflated, is refused: a zip bomb is
recognised by what its directory claims, never by inflating it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import IO, Any

from adaptool.errors import FormatError
from adaptool.rules.files.magic import HEAD, identify
from adaptool.tensors.files import FileHandle

MEMBERS_LIMIT = 50_000
OPENED_LIMIT = 1000
"""Members whose beginning is looked at."""

READ_LIMIT = 4 << 20
INFLATED_LIMIT = 16 << 20

BOMB_BYTES = 128 << 20
BOMB_RATIO = 200
"""A text of one letter is deflated a thousandfold, any real file less than fifty times."""

_COMPRESSIONS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
    *((bytes((0x78, level)), lambda file: _deflated(file)) for level in (0x01, 0x5E, 0x9C, 0xDA)),  # joblib's
)


def _deflated(file: Any) -> io.BytesIO:
    """The beginning of a zlib stream."""
    return io.BytesIO(zlib.decompressobj().decompress(file.read(READ_LIMIT), INFLATED_LIMIT))


_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive."""

    name: str
    size: int
    """Bytes once extracted, as the archive claims."""
    link: str | None = None
    """Where it points, if it is a link."""
    special: bool = False
    """A device or a pipe."""
    content: bytes = b""
    """Of a small file, all of it; of others the beginning."""

    @property
    def escapes(self) -> bool:
        """Whether extracting it by its name writes outside the folder it is extracted to."""
        return self.special or _leaves(self.name) or (self.link is not None and _leaves(self.link))


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive holds, as far as it was read."""

    members: tuple[Member, ...]
    damage: str = ""
    """Why not all of it was read."""

    def inflates(self, packed: int) -> int:
        """The bytes it claims to extract to, where that is a bomb's; else 0."""
        total = sum(member.size for member in self.members)
        return total if total > max(BOMB_BYTES, BOMB_RATIO * packed) else 0


class Careful(io.RawIOBase):
    """A file that is read a little at a time or not at all."""

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._handle.size)[whence]
        if self._at < 0:
            raise FormatError("it points before its beginning")
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        rest = max(0, self._handle.size - self._at)
        size = rest if size is None or size < 0 else min(size, rest)
        if size > READ_LIMIT:
            raise FormatError(f"a single entry of it is larger than {READ_LIMIT} bytes")
        data = self._handle.read(self._at, size)
        self._at += size
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(min(len(buffer), READ_LIMIT))
        buffer[: len(data)] = data
        return len(data)


def inflated(handle: FileHandle, head: bytes) -> bytes | None:
    """The first megabytes of a compressed file, decompressed; None where it is of no kind that can be."""
    for magic, opener in _COMPRESSIONS:
        if head.startswith(magic):
            pieces: list[bytes] = []
            try:
                with opener(Careful(handle)) as stream:
                    while sum(map(len, pieces)) < INFLATED_LIMIT and (piece := stream.read(READ_LIMIT)):
                        pieces.append(piece)
            except Exception:  # a stranger's stream raises what it likes; what came out before counts
                pass
            return b"".join(pieces)
    return None


def read_archive(file: IO[bytes] | Careful, head: bytes) -> Archive:
    """The members of a zip or tar archive."""
    members: list[Member] = []
    contents = _Contents()
    damage = ""
    found = identify(head)
    walk = _zip_members if found is not None and found.group == "zip" else _tar_members
    try:
        members.extend(islice(walk(file, contents), MEMBERS_LIMIT + 1))  # type: ignore[arg-type]
    except Exception as error:  # the standard library's readers raise a dozen kinds over a hostile archive
        damage = f"an archive that cannot be read: {error}"[:200]
    if len(members) > MEMBERS_LIMIT:
        damage = f"an archive of more than {MEMBERS_LIMIT} members"
    return Archive(tuple(members[:MEMBERS_LIMIT]), damage or contents.unread)


class _Contents:
    """Reads the whole of members that may be pickles and the beginning of others, until it has read enough."""

    def __init__(self) -> None:
        self.opened = 0
        self.left = INFLATED_LIMIT
        self.unread = ""

    def of(self, name: str, opener: Callable[[], IO[bytes] | None]) -> bytes:
        self.opened += 1
        if self.opened > OPENED_LIMIT or self.left <= 0:
            self.unread = f"an archive of which {OPENED_LIMIT} members and {INFLATED_LIMIT} bytes were read, no more"
            return b""
        try:
            with opener() or io.BytesIO() as stream:
                pieces = [stream.read(HEAD)]
                if pieces[0][:1] == b"\x80" or pieces[0].startswith(b"PK\3\4") or name.lower().endswith(_PICKLED):
                    while self.left > 0 and (piece := stream.read(READ_LIMIT)):
                        self.left -= len(piece)
                        pieces.append(piece)
                return b"".join(pieces)
        except Exception as error:  # encrypted, damaged, or compressed by a method Python lacks
            self.unread = f"a member that cannot be read: {error}"[:200]
            return b""


_PICKLED = (".pkl", ".pickle")


def _zip_members(file: IO[bytes], contents: _Contents) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        is_torch = any(name.endswith("/data.pkl") for name in archive.namelist())
        for info in archive.infolist():
            content = b""
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            # a storage in a file of torch.save is numbers, and there are thousands of them
            if not info.is_dir() and not (is_torch and re.search(r"/data/\d+$", info.filename)):
                content = contents.of(info.filename, partial(archive.open, info))
            link = content.decode("utf-8", "replace") if is_link else None
            yield Member(info.orig_filename, info.file_size, link, content=content)


def _tar_members(file: IO[bytes], contents: _Contents) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            content = contents.of(info.name, partial(archive.extractfile, info)) if info.isreg() else b""
            link = info.linkname if info.issym() or info.islnk() else None
            yield Member(info.name, info.size, link, info.isdev(), content)


def _leaves(path: str) -> bool:
    return _ABSOLUTE.match(path) is not None or ".." in re.split(r"[/\\]", path)
