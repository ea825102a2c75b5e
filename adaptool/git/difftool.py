"""What ``git difftool`` hands over, one file at a time and without what lay beside it, made into two adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.adapters.config import CONFIG_NAME
from adaptool.errors import AdaptoolError, NotFoundError
from adaptool.git.process import run_git
from adaptool.git.textconv import fetched, textconv
from adaptool.tensors.files import open_file
from adaptool.tensors.locate import LAID_OUT
from adaptool.tensors.pointers import pointer_in
from adaptool.tensors.sniff import sniff

WEIGHTS = {"safetensors": WEIGHTS_NAME, "torch-zip": PICKLE_NAME, "torch-legacy": PICKLE_NAME}


def is_weights(path: Path) -> bool:
    """Whether a file holds an adapter's tensors (or is the LFS pointer of one that does and is here)."""
    try:
        return sniff(_content(path)) in WEIGHTS
    except AdaptoolError:
        return False


def shown_by_git(local: Path, remote: Path) -> Iterator[str]:
    """The difference of two other files, as git tells it; of weights that only one side has, what they are."""
    weights = [path for path in (local, remote) if is_weights(path)]
    if weights:
        yield "added" if weights[0] == remote else "removed"
        yield from textconv(weights[0])
        return
    done = run_git(Path(), "diff", "--no-index", "--no-ext-diff", "--no-textconv", "--", str(local), str(remote))
    yield from done.stdout.decode("utf-8", "replace").splitlines()


@contextmanager
def put_together(local: Path, remote: Path, merged: Path) -> Iterator[tuple[Path, Path]]:
    """Two folders, each with one version of the weights, and with the config that lies beside the file itself."""
    config = merged.parent / CONFIG_NAME
    if not config.is_file():
        raise NotFoundError(
            f"{merged.parent}: no {CONFIG_NAME} in the working tree, and git difftool hands over the weights alone",
            hint=f"compare the whole adapters: adaptool diff REVISION:{merged.parent} {merged.parent}",
        )
    with TemporaryDirectory(prefix="adaptool-difftool-") as scratch:
        folders = [Path(scratch) / side / (merged.absolute().parent.name or "adapter") for side in ("before", "after")]
        for folder, given in zip(folders, (local, remote), strict=True):
            folder.mkdir(parents=True)
            LAID_OUT[str(folder)] = f"{folder.parent.name}:{merged.parent}"
            content = _content(given)
            (folder / CONFIG_NAME).symlink_to(config.absolute())
            (folder / WEIGHTS[sniff(content)]).symlink_to(content.absolute())
        yield folders[0], folders[1]


def _content(path: Path) -> Path:
    """The file, or what the pointer in it stands for."""
    pointer = pointer_in(open_file(path))
    return path if pointer is None else fetched(pointer) or path
