"""The files beside a merged model's weights, gathered where planning can read them before anything is written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptool.errors import DiskError
from adaptool.merging.folder import MergeJob


@contextmanager
def _temporary() -> Iterator[str]:
    try:
        place = tempfile.TemporaryDirectory(prefix="adaptool-")
    except OSError as error:
        raise DiskError(
            f"no temporary folder can be made: {error.strerror}", hint="set TMPDIR to a folder with some room"
        ) from error
    with place as name:
        yield name


@contextmanager
def staged(job: MergeJob) -> Iterator[Path]:
    """A temporary folder, called what OUT is called, with the merged model's config, tokenizer and card."""
    with _temporary() as place:
        folder = Path(place) / Path(os.path.abspath(job.out)).name  # noqa: PTH100 (a last link is kept as it is)
        folder.mkdir(exist_ok=True)
        job.write_sides(folder, linked=True)
        (folder / "README.md").write_text(job.card, encoding="utf-8", errors="replace")
        if job.config is not None:
            (folder / "config.json").write_text(json.dumps(job.config), encoding="utf-8", errors="replace")
        yield folder
