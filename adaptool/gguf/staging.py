"""The files beside a merged model's weights, gathered where planning can read them before anything is written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptool.merging.folder import MergeJob


@contextmanager
def staged(job: MergeJob) -> Iterator[Path]:
    """A temporary folder, called what OUT is called, with the merged model's config, tokenizer and card."""
    with tempfile.TemporaryDirectory(prefix="adaptool-") as place:
        folder = Path(place) / job.out.absolute().name
        folder.mkdir()
        job.write_sides(folder, linked=True)
        (folder / "README.md").write_text(job.card, encoding="utf-8", errors="replace")
        if job.config is not None:
            (folder / "config.json").write_text(json.dumps(job.config), encoding="utf-8", errors="replace")
        yield folder
