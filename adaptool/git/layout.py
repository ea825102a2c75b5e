"""Folders of a revision laid out as files: what every reader of local files then opens.

Blobs are streamed; the content of LFS files is linked from the repository's store, its SHA-256 checked; a file that was
not fetched is laid out as its pointer, which readers refuse in words. All of it is removed when the process ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from adaptool.errors import DiskError, NotFetchedError, NotFoundError
from adaptool.git.lfs import LfsStore, fetching
from adaptool.git.named import Source, follow
from adaptool.git.reader import Reader, not_here
from adaptool.git.repository import Blob
from adaptool.git.trees import LINK
from adaptool.tensors.locate import LAID_OUT
from adaptool.tensors.pointers import FETCHED_BY, LARGEST, Pointer, parse_pointer
from adaptool.writing.publish import require_space

HELD = 1 << 20
"""Bytes of a blob that are read through the process that is running anyway; larger ones get one of their own."""

NEEDED = re.compile(r"(?:adapter_)?config\.json|.*\.(?:safetensors|gguf|bin)")
"""Files without which nothing can be said of a folder; others that this clone lacks are left out."""

PART = re.compile(r"-\d{5}-of-\d{5}")


def lay_out(source: Source, folders: Iterable[str], root: str, only: str | None = None) -> Path:
    """The files directly in ``folders``, all at or below ``root``, as a folder on this disk, called as ``root`` is.

    ``only``: the file that is meant; other large ones are left out, unless they are parts of the same.
    Raises NotFetchedError where this clone lacks a file that is needed.
    """
    top = _new_folder(Path(root).name or source.repository.folder.resolve().name)
    LAID_OUT[str(top)] = source.told(root)
    store = LfsStore(source.repository)
    with source.repository.reader() as reader:
        for folder in folders:
            out = top / folder.removeprefix(root).lstrip("/")
            if not _is_name_safe(*out.relative_to(top).parts):
                continue
            for name, blob in source.folders[folder].items():
                mine = only is None or PART.sub("", name) == PART.sub("", only)
                needed = mine if only is not None else NEEDED.fullmatch(name) is not None
                if _is_name_safe(name):
                    _lay_out_file(source, reader, store, blob, out / name, needed=needed, large=mine)
    return top


def _lay_out_file(
    source: Source, reader: Reader, store: LfsStore, blob: Blob, out: Path, *, needed: bool, large: bool
) -> None:
    try:
        if blob.mode == LINK:
            there, path = follow(source, blob.path)
            if path not in there.tree:
                raise NotFoundError(f"{source.told(blob.path)}: a link to {path}, which is no file in that revision")
            if there is not source:  # inside a submodule
                with there.repository.reader() as other:
                    _write(there, other, LfsStore(there.repository), there.tree[path], out, large=large)
                return
            blob = there.tree[path]
        _write(source, reader, store, blob, out, large=large)
    except (NotFetchedError, NotFoundError):
        if needed:
            raise
    except (FileExistsError, NotADirectoryError):
        pass  # this file system does not tell two names apart that differ in case: the first stays
    except OSError as error:
        raise DiskError(
            f"{source.told(blob.path)}: cannot be laid out: {error.strerror}", hint="is TMPDIR full?"
        ) from error


def _write(source: Source, reader: Reader, store: LfsStore, blob: Blob, out: Path, *, large: bool) -> None:
    """One file, from the object database or from the LFS store."""
    size = reader.size(blob.oid)
    if size is None:
        raise NotFetchedError(f"{source.told(blob.path)}: not in this clone", hint=not_here(blob.oid).hint)
    out.parent.mkdir(parents=True, exist_ok=True)
    if size > HELD and not large:
        return
    if size > HELD:
        require_space(out.parent, size)
        source.repository.copy(blob.oid, out)
        return
    content = reader.read(blob.oid, HELD)
    pointer = parse_pointer(content) if size < LARGEST else None
    if pointer is not None and pointer.size > HELD and not large:
        return
    if pointer is not None and store.find(pointer) is not None:
        _link(store.open(pointer, source.told(blob.path)), out)
        return
    with out.open("xb") as file:
        file.write(content)
    if pointer is not None:
        FETCHED_BY[out] = _command(source, blob, pointer)


def _command(source: Source, blob: Blob, pointer: Pointer) -> str:
    if pointer.kind == "xet":
        return "git xet checkout"
    is_head = source.revision in ("", "HEAD", "@") and not source.repository.bare
    return fetching(blob.path, "" if is_head else source.revision)


def _link(content: Path, out: Path) -> None:
    """Another name for the store's object: a hard link, or where the disk is another one a symbolic link."""
    try:
        out.hardlink_to(content.resolve())
    except FileExistsError:
        raise
    except OSError:
        out.symlink_to(content.resolve())


def _is_name_safe(*names: str) -> bool:
    """Whether files of these names lie in the folder they are put into, and do not make it a repository."""
    return all(name not in ("", ".", "..") and "/" not in name and name.casefold() != ".git" for name in names)


@cache
def _scratch() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="adaptool-", ignore_cleanup_errors=True)


def _new_folder(name: str) -> Path:
    above = Path(_scratch().name) / str(len(list(Path(_scratch().name).iterdir())))
    folder = above / (name if _is_name_safe(name) else "adapter")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise DiskError(f"{folder}: cannot be made: {error.strerror}", hint="is TMPDIR full?") from error
    return folder
