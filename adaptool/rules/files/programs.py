"""Every pickle in an adapter's folder, whatever it is called and whatever it is packed in, with what it imports."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptool.errors import AdaptoolError
from adaptool.rules.files.archives import Archive, Careful, inflated, read_archive
from adaptool.rules.files.imports import OPCODES_LIMIT, Program, read_program
from adaptool.rules.files.listing import Entry, listing, printable
from adaptool.rules.files.magic import identify
from adaptool.tensors.files import FileHandle, open_file
from adaptool.tensors.legacy import Window
from adaptool.tensors.opcodes import PICKLE_LIMIT
from adaptool.tensors.sniff import sniff

if TYPE_CHECKING:
    from adaptool.rules.subject import Subject

BUDGET = 1_200_000
"""Opcodes in all files of a folder together, less than two seconds."""

SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".p", ".ckpt", ".joblib", ".dill", ".dat", ".model"})
"""By which a file may be opened as a pickle, so that one without a magic number is looked at as well."""

PROMISED_SAFE = ".safetensors"
"""Looked at as well: the name is the promise that it is none."""

USUAL = SUFFIXES | {".npy", ".npz", ".data", ".distcp", ".metadata", ""}
"""Where a pickle is no surprise: PyTorch's distributed checkpoints have one called .metadata."""

_MAY_BEGIN = b"\x80(ci"
_OBJECTS = re.compile(rb"'descr':\s*(?:'[|<>=]?O|\[.*'[|<>=]?O)", re.DOTALL)
_LAMBDA = re.compile(rb'"class_name"\s*:\s*"(?:Lambda|TFOpLambda)"')
_KERAS_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A pickle: the file it is in, the member of it where that is an archive, and what it imports."""

    entry: Entry
    member: str
    program: Program

    @property
    def shown(self) -> str:
        """As a message names it: "a.zip (x.pkl in it)"."""
        return f"{self.entry.shown} ({printable(self.member)} in it)" if self.member else self.entry.shown

    @property
    def is_disguised(self) -> bool:
        """Whether its name promises something else."""
        return not self.member and self.entry.suffix not in USUAL


@dataclass(frozen=True, slots=True)
class Survey:
    """The pickles of a folder, its archives, the Keras models with code in them, and what was not read."""

    pickles: tuple[Found, ...]
    archives: tuple[tuple[Entry, Archive], ...]
    lambdas: tuple[Entry, ...]
    gaps: tuple[str, ...]


def survey(subject: Subject) -> Survey:
    """The programs in the folder of ``subject``, looked for once."""
    return subject.once("programs", lambda: _Surveyor().look(listing(subject).files))


_PICKLES = ("pickle", "torch-legacy")


class _Surveyor:
    """Looks into file after file until its budget is spent."""

    def __init__(self) -> None:
        self.left = BUDGET
        self.pickles: list[Found] = []
        self.archives: list[tuple[Entry, Archive]] = []
        self.lambdas: list[Entry] = []
        self.gaps: list[str] = []

    def look(self, entries: tuple[Entry, ...]) -> Survey:
        # the adapter's own folder first: what lies deeper is what a spent budget leaves out
        for entry in sorted(entries, key=lambda entry: entry.name.count("/")):
            if not _is_candidate(entry):
                continue
            try:
                handle = open_file(entry.path)
            except AdaptoolError:
                continue  # the listing has noted it
            try:
                self._look_into(entry, handle)
            except AdaptoolError as error:
                self.gaps.append(f"{entry.shown}: {error.message.removeprefix(f'{entry.path}: ')}")
            finally:
                handle.close()
        return Survey(tuple(self.pickles), tuple(self.archives), tuple(self.lambdas), tuple(self.gaps))

    def _look_into(self, entry: Entry, handle: FileHandle) -> None:
        group = entry.format.group if entry.format else ""
        match group:
            case "zip" | "tar":
                self._archive(entry, Careful(handle), entry.head, handle.size)
            case "compressed":
                self._compressed(entry, handle)
            case "numpy":
                self._numpy(entry, "", entry.head, handle)
            case "model":
                if _LAMBDA.search(handle.read(0, min(handle.size, _KERAS_LIMIT))):
                    self.lambdas.append(entry)
            case _:
                if _is_named(entry) or sniff(entry.path) in _PICKLES:
                    self._pickle(entry, "", Window(handle, PICKLE_LIMIT))

    def _pickle(self, entry: Entry, member: str, source: Window | io.BytesIO) -> None:
        if self.left <= 0:
            self.gaps.append(f"{entry.shown}: not read, the pickles before it were too long")
            return
        program = read_program(source, min(self.left, OPCODES_LIMIT))
        if program is not None:
            self.left -= program.opcodes
            self.pickles.append(Found(entry, member, program))
            if program.too_long:
                self.gaps.append(f"{entry.shown}: a pickle of more than {program.opcodes} opcodes, not read to its end")

    def _archive(self, entry: Entry, file: Careful | io.BytesIO, head: bytes, packed: int, outer: str = "") -> None:
        archive = read_archive(file, head)
        if not outer:
            self.archives.append((entry, archive))
        if archive.damage:
            self.gaps.append(f"{entry.shown}: {printable(archive.damage)}")
        for member in archive.members:
            name = f"{outer}{member.name}"
            if member.content.startswith(b"\x93NUMPY"):
                self._numpy(entry, name, member.content)
            elif member.content.startswith(b"PK\3\4") and not outer:
                self._archive(entry, io.BytesIO(member.content), member.content, len(member.content), f"{name}/")
            elif member.content[:1] == b"\x80" or member.name.lower().endswith((".pkl", ".pickle")):
                self._pickle(entry, name, io.BytesIO(member.content))
            elif member.name == "config.json" and _LAMBDA.search(member.content):
                self.lambdas.append(entry)

    def _compressed(self, entry: Entry, handle: FileHandle) -> None:
        content = inflated(handle, entry.head)
        if content is None:
            return
        found = identify(content[:1024])
        if found is not None and found.group in ("zip", "tar"):
            self._archive(entry, io.BytesIO(content), content[:1024], handle.size)
        else:
            self._pickle(entry, "what is compressed", io.BytesIO(content))

    def _numpy(self, entry: Entry, member: str, head: bytes, handle: FileHandle | None = None) -> None:
        """An array of Python objects is a pickle behind a short header."""
        width = 2 if head[6:7] == b"\1" else 4
        start = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
        if _OBJECTS.search(head[:start]):
            rest = handle.read(start, min(max(0, handle.size - start), PICKLE_LIMIT)) if handle else head[start:]
            self._pickle(entry, member or "the objects", io.BytesIO(rest))


def _is_named(entry: Entry) -> bool:
    return entry.suffix in SUFFIXES or entry.suffix == PROMISED_SAFE


def _is_candidate(entry: Entry) -> bool:
    """Whether it is worth opening: most files are text, which their first byte tells."""
    if entry.format is not None:
        return entry.format.group in ("zip", "tar", "compressed", "numpy", "model")
    return entry.head != b"" and (_is_named(entry) or entry.head[:1] in _MAY_BEGIN)
