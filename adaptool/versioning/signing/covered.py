"""Which files of a folder a signature is over, and the digest of each.

Every file is, but for what nothing loads: Git's own, signatures, the card. So whatever is added to a signed folder
shows. A Git LFS pointer stands for its file: its oid is the file's SHA-256, so nothing need be fetched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptool.errors import DiskError, FormatError
from adaptool.rules.files.listing import Entry, Listing, look
from adaptool.tensors.files import open_file
from adaptool.tensors.pointers import LARGEST, Pointer, parse_pointer
from adaptool.versioning.signing.bundle import SIGNATURE_NAME
from adaptool.versioning.signing.statement import Resource, Statement, is_ignored
from adaptool.versions import CHUNK_BYTES, sha256_of
from adaptool.writing.text_file import is_scratch

GIT = (".git", ".gitattributes", ".github", ".gitignore")
"""What model-signing leaves out of its own accord."""

PROSE = ("README.md", ".cache/huggingface")
"""The card, and what a download from the hub leaves."""

INERT = re.compile(
    r"(?:\.git|\.github|\.cache/huggingface)/.*|(?:.*/)?\.git(?:attributes|ignore|keep|modules)|\.git|\.github"
    r"|(?:.*/)?(?:readme|licen[cs]e|notice|copying|changelog)(?:\.(?:md|txt|rst))?|.*\.(?:md|sig|png|jpe?g|gif|svg|webp)"
    r"|(?:.*/)?\.DS_Store",
    re.IGNORECASE | re.DOTALL,
)
"""What no loader reads: it alone may be left out of a signature, whatever the signature itself says."""


@dataclass(frozen=True)
class Folder:
    """A folder to be signed or verified, looked through once."""

    path: Path
    listing: Listing
    signature: str = SIGNATURE_NAME
    """The signature's path within the folder; "" where it lies elsewhere."""

    @property
    def entries(self) -> Iterator[Entry]:
        """Everything but folders that were entered, what Git keeps for itself, signatures, half-written files."""
        for entry in self.listing.entries:
            is_gits = entry.name.split("/")[0] in GIT
            is_signature = entry.name == self.signature or (entry.is_top and entry.suffix == ".sig")
            entered = entry.kind == "folder" and entry.base != ".git"
            if not (is_gits or is_signature or entered or is_scratch(entry.base)):
                yield entry

    def check(self) -> None:
        """Raise DiskError where part of the folder could not be looked at."""
        if self.listing.gaps:
            raise DiskError(f"{self.path}: not everything could be looked at: {self.listing.gaps[0]}")


def open_folder(path: Path, signature: Path | None = None) -> Folder:
    """Look a folder through; ``signature`` is where its signature is, or will be."""
    place = path / SIGNATURE_NAME if signature is None else signature
    root, real = path.resolve(), place.parent.resolve() / place.name
    inside = real.relative_to(root).as_posix() if real.is_relative_to(root) else ""
    return Folder(path, look(path), inside)


def pointer_in(entry: Entry) -> Pointer | None:
    """What Git LFS or git-xet has put in a file's place, where it has."""
    if not entry.is_file or entry.size >= LARGEST or not entry.head.startswith((b"version ", b"# xet")):
        return None
    return parse_pointer(open_file(entry.path).read_all(LARGEST))


def is_as_signed(entry: Entry, said: tuple[Resource, ...], statement: Statement, known: Mapping[str, str]) -> bool:
    """Whether a file's bytes are those that were signed; ``known`` has the SHA-256 of files hashed already."""
    if statement.method == "files" and statement.hash_type == "sha256":
        return said[0].digest == (known.get(entry.name) or sha256_of(open_file(entry.path)))
    if statement.method == "shards" and said[-1].stop != entry.size:
        return False
    return all(_digest(entry, statement.hash_type, one) == one.digest for one in said)


def _digest(entry: Entry, hash_type: str, resource: Resource) -> str:
    handle = open_file(entry.path)
    stop = handle.size if resource.stop is None else resource.stop
    digest = hashlib.new(hash_type)
    for offset in range(resource.start, stop, CHUNK_BYTES):
        digest.update(handle.read(offset, min(CHUNK_BYTES, stop - offset)))
    return digest.hexdigest()


def left_out(folder: Folder) -> tuple[str, ...]:
    """What a signature of this folder says that it leaves out."""
    signatures = {entry.name for entry in folder.listing.entries if entry.is_top and entry.suffix == ".sig"}
    return tuple(sorted({*GIT, *PROSE, *signatures, SIGNATURE_NAME, folder.signature} - {""}))


def to_sign(folder: Folder) -> Iterable[Entry]:
    """The files a signature is over. Raises FormatError where something in the folder could not be covered."""
    folder.check()
    ignored = left_out(folder)
    for entry in folder.entries:
        if is_ignored(entry.name, ignored):
            continue
        if entry.kind == "link" and not entry.is_file:
            raise FormatError(f"{folder.path}: {entry.shown} is a link that leaves the folder, or leads to no file",
                              hint="replace it by what it leads to")  # fmt: skip
        if not entry.is_file:
            raise FormatError(f"{folder.path}: {entry.shown} is a {entry.kind}, which cannot be signed",
                              hint="move it out of the folder")  # fmt: skip
        yield entry
