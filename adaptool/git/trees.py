"""Which folders of a tree are adapters, and which files are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.adapters.config import CONFIG_NAME
from adaptool.git.repository import Blob

OWN_NAMES = frozenset((CONFIG_NAME, WEIGHTS_NAME, PICKLE_NAME))
"""A folder that holds one of these directly is an adapter's, sound or not."""

SUBMODULE = "160000"
LINK = "120000"


def folders_in_tree(tree: Mapping[str, Blob]) -> Mapping[str, Mapping[str, Blob]]:
    """Every folder with files directly in it ("" is the root), and those files by their names."""
    folders: dict[str, dict[str, Blob]] = {}
    for path, blob in tree.items():
        if blob.mode != SUBMODULE:
            folder, _, name = path.rpartition("/")
            folders.setdefault(folder, {})[name] = blob
    return folders


def adapters_in_tree(tree: Mapping[str, Blob]) -> Mapping[str, Mapping[str, Blob]]:
    """The folders of a tree that are adapters ("" is the root), with the files directly in them by their names."""
    return {folder: files for folder, files in folders_in_tree(tree).items() if holds_adapter(files)}


def holds_adapter(names: Iterable[str]) -> bool:
    """Whether files of these names make a folder an adapter's."""
    return not OWN_NAMES.isdisjoint(names)
