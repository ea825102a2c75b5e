"""What bytes are, by how they begin: the formats met in an adapter's folder that are not its own.

``tensors.sniff`` tells the files that hold tensors from each other; this table names everything else, so that a finding
can say "an ELF executable" where a name says "tokenizer.model". A beginning is a hint and no proof.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

HEAD = 1024
"""Bytes of a file that are looked at."""

Group = Literal[
    "native", "script", "zip", "tar", "archive", "compressed", "numpy", "model", "page", "pointer", "document"
]
"""native: machine code. archive: one that is not looked into. model: weights of another framework."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format, and its group: what a rule asks for."""

    group: Group
    what: str
    """As a message calls it."""


_AT_START: tuple[tuple[bytes, Format], ...] = (
    (b"\x7fELF", Format("native", "an ELF executable or library")),
    (b"\xfe\xed\xfa\xce", Format("native", "a Mach-O executable or library")),
    (b"\xfe\xed\xfa\xcf", Format("native", "a Mach-O executable or library")),
    (b"\xce\xfa\xed\xfe", Format("native", "a Mach-O executable or library")),
    (b"\xcf\xfa\xed\xfe", Format("native", "a Mach-O executable or library")),
    (b"\xca\xfe\xba\xbe", Format("native", "a Mach-O library or a Java class")),
    (b"\0asm", Format("native", "a WebAssembly program")),
    (b"dex\n03", Format("native", "an Android program")),
    (b"PK\3\4", Format("zip", "a zip archive")),
    (b"PK\5\6", Format("zip", "an empty zip archive")),
    (b"7z\xbc\xaf\x27\x1c", Format("archive", "a 7z archive")),
    (b"Rar!\x1a\7", Format("archive", "a RAR archive")),
    (b"MSCF\0\0\0\0", Format("archive", "a Windows cabinet")),
    (b"!<arch>\n", Format("archive", "an ar archive (.a, .deb)")),
    (b"\xed\xab\xee\xdb", Format("archive", "an RPM package")),
    (b"\x1f\x8b", Format("compressed", "a gzip file")),
    (b"BZh", Format("compressed", "a bzip2 file")),
    (b"\xfd7zXZ\0", Format("compressed", "an xz file")),
    *((bytes((0x78, level)), Format("compressed", "a zlib stream")) for level in (0x01, 0x5E, 0x9C, 0xDA)),
    (b"\x28\xb5\x2f\xfd", Format("compressed", "a zstd file")),
    (b"\x04\x22\x4d\x18", Format("compressed", "an lz4 file")),
    (b"\x93NUMPY", Format("numpy", "a NumPy array")),
    (b"\x89HDF\r\n\x1a\n", Format("model", "an HDF5 file (Keras .h5)")),
    (b"GGUF", Format("model", "a GGUF")),
    (b"algg", Format("model", "a GGML adapter")),
    (b"lmgg", Format("model", "a GGML file")),
    (b"tjgg", Format("model", "a GGML file")),
    (b"version https://git-lfs", Format("pointer", "a Git LFS pointer")),
    (b"#!", Format("script", "a script")),
    (b"%PDF-", Format("document", "a PDF")),
    (b"\x89PNG\r\n\x1a\n", Format("document", "a PNG image")),
    (b"\xff\xd8\xff", Format("document", "a JPEG image")),
    (b"GIF8", Format("document", "a GIF image")),
    (b"SQLite format 3\0", Format("document", "an SQLite database")),
    (b"PAR1", Format("document", "a Parquet file")),
)

_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head|body|\?xml|error>|!--)", re.IGNORECASE)


def identify(head: bytes) -> Format | None:
    """What begins with ``head``; None where the table does not know."""
    for magic, found in _AT_START:
        if head.startswith(magic):
            return found
    if head.startswith(b"MZ") and _portable_executable(head):
        return Format("native", "a Windows executable or library")
    if head[4:8] == b"TFL3":
        return Format("model", "a TensorFlow Lite model")
    if head[257:262] == b"ustar":
        return Format("tar", "a tar archive")
    if _PAGE.match(head):
        return Format("page", "a web page or an XML document")
    return None


def is_prose(head: bytes) -> bool:
    """Whether it reads as text: a server's "Entry not found" saved in place of a file."""
    try:
        return head != b"" and "".join(head.decode("utf-8").split()).isprintable()
    except UnicodeDecodeError:
        return False


def _portable_executable(head: bytes) -> bool:
    """Two letters are not enough: the offset of the real header must lie where one can be, or point at it."""
    at = int.from_bytes(head[60:64], "little")
    return head[at : at + 4] == b"PE\0\0" if 64 <= at <= len(head) - 4 else len(head) >= 64 and b"\0\0" in head[:60]
