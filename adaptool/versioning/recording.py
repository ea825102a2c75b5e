"""From the adapter in a folder to its record: what it is read again, what was said of it carried over."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from adaptool import __version__
from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME, Adapter, open_adapter
from adaptool.comparing.base_names import COMMIT, bases_changed
from adaptool.comparing.base_names import name_of as base_name
from adaptool.comparing.contents import Contents, TensorContent, vocabulary_of
from adaptool.summary.beside import kind_of
from adaptool.versioning.hashing import hash_weights
from adaptool.versioning.naming import name_of
from adaptool.versioning.record import Base, Content, Record, TensorRecord, weights_digest
from adaptool.versions import MANIFEST_NAME, FileRecord, config_digest, file_record
from adaptool.writing.text_file import write_text

FIRST = "0.1.0"
"""The version an adapter begins with, unless it is given another."""

SHIPPED = {"weights", "weights index", "adapter config", "model config", "tokenizer", "chat template", "Python code"}
"""What a runtime may load. The card, the licence, logs and the state of a training may change beside a version."""

TEMPLATES = "additional_chat_templates/"
"""The one folder of a tokenizer."""


def record_of(folder: Path, previous: Record | None = None) -> Record:
    """The record of the adapter that lies in ``folder`` now, every byte of it read once.

    Name, version and all that cannot be read from the adapter come from ``previous``; without one it is named after
    the folder. Raises what ``open_adapter`` raises.
    """
    adapter = open_adapter(folder)
    weights = {path.name: path for path in adapter.store.files}
    known: dict[str, FileRecord] = {}
    digests: Mapping[str, str] = {}
    for name, path in weights.items():
        whole, digests = hash_weights(adapter.store, path)
        known[name] = FileRecord(name, path.stat().st_size, whole)
    tensors = {
        name: TensorRecord(adapter.store[name].dtype.name, adapter.store[name].shape, digest)
        for name, digest in digests.items()
    }
    files = tuple(known.get(name) or replace(file_record(folder / name, hashed=True), name=name)
                  for name in shipped_in(folder))  # fmt: skip
    new = Record(
        name=name_of(folder), version=FIRST, peft_type=adapter.config.peft_type, base=Base(None),
        content=Content(config_digest(adapter.config), weights_digest(digests)), tensors=tensors, files=files,
        vocabulary=vocabulary_of(adapter),
    )  # fmt: skip
    if previous is None:
        return replace(new, base=base_of(adapter))
    return replace(
        previous, peft_type=new.peft_type, base=base_of(adapter, previous.base), content=new.content,
        tensors=new.tensors, files=new.files, vocabulary=new.vocabulary, stated=None, adaptool=__version__,
    )  # fmt: skip


def base_of(adapter: Adapter, previous: Base | None = None) -> Base:
    """The base its config names, with the pin recorded for it where the config has no commit of its own."""
    name, revision = adapter.config.base_model, adapter.config.revision
    if name is not None and not _is_commit(revision):
        revision = base_name(name).commit or revision  # a path into the hub's cache ends in the commit
    if previous is None or bases_changed((previous.name, None), (name, None))[0] == "other":
        return Base(name, revision)
    pin_is_firmer = _is_commit(previous.revision) and not _is_commit(revision)
    if revision is None or revision == previous.revision or pin_is_firmer:
        return replace(previous, name=name)
    return Base(name, revision, None if previous.revision else previous.digest)


def _is_commit(revision: str | None) -> bool:
    return revision is not None and COMMIT.fullmatch(revision) is not None


def shipped_in(folder: Path) -> tuple[str, ...]:
    """The names of the files that a record lists, in order."""
    names = [child.name for child in folder.iterdir() if _is_file(child)]
    inner = folder / TEMPLATES
    if inner.is_dir():
        names += [f"{TEMPLATES}{child.name}" for child in inner.iterdir() if _is_file(child)]
    return tuple(shipped(names))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a link to a name that no file system can have
        return False


def shipped(names: Iterable[str]) -> list[str]:
    """Of the files of an adapter, by their names from its folder, those that a record lists, in order."""
    return sorted(name for name in names if _is_shipped(name))


def _is_shipped(name: str) -> bool:
    if name.startswith(TEMPLATES):
        return "/" not in name.removeprefix(TEMPLATES)
    return "/" not in name and not name.startswith(".") and name != MANIFEST_NAME and kind_of(name) in SHIPPED


def has_own_content(name: str, names: Collection[str]) -> bool:
    """Whether a file of an adapter holds what no digest of it is over: code, a template, weights beside those read."""
    if kind_of(name) == "weights":
        return name != next((one for one in (WEIGHTS_NAME, PICKLE_NAME) if one in names), name)
    return name.startswith(TEMPLATES) or kind_of(name) in ("Python code", "chat template", "weights index")


def write_record(folder: Path, text: str) -> None:
    """Put a manifest beside an adapter, whole or not at all."""
    write_text(folder / MANIFEST_NAME, text)


def contents_of_record(record: Record) -> Contents:
    """What a change is judged by, from the manifest alone; of the config it has the digest only."""
    return Contents(
        record.peft_type, record.base.name, record.base.revision, None, record.content.config,
        {name: TensorContent(tensor.dtype, tensor.shape, tensor.digest) for name, tensor in record.tensors.items()},
        record.vocabulary, frozenset((parent.relation, parent.name) for parent in record.parents), record.base.digest,
    )  # fmt: skip
