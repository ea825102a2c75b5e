"""Two adapters or two models, compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from adaptool.adapters.adapter import open_adapter
from adaptool.adapters.base import open_base
from adaptool.adapters.config import CONFIG_NAME
from adaptool.errors import UsageError
from adaptool.jobs import default_workers
from adaptool.tensors.locate import LOCAL, locate

if TYPE_CHECKING:
    from adaptool.comparing.result import Comparison


def diff(before: Path | str, after: Path | str, *, workers: int | None = None) -> Comparison:
    """Compare two adapters, or two models (checkpoints or GGUFs, in any pair).

    Each is a folder, a file or a Git revision; a revision beside a path means what lies at that path there. ΔW is
    compared exactly, in factor space; models are streamed. Raises AdaptoolError where one cannot be read, or an adapter
    is put against a model.
    """
    given = str(before), str(after)
    paths = _located(given[0], given[1]), _located(given[1], given[0])
    adapters = [_is_adapter(path) for path in paths]
    if all(adapters):
        from adaptool.comparing.adapters import compare_adapters

        return compare_adapters(open_adapter(paths[0]), open_adapter(paths[1]), given)
    if any(adapters):
        adapter, model = given if adapters[0] else given[::-1]
        raise UsageError(
            f"{adapter} is an adapter and {model} is not: they cannot be compared",
            hint=f"whether it was merged into it is told by: adaptool verify {model} --base BASE --adapter {adapter}",
        )
    from adaptool.comparing.models import compare_models

    return compare_models(open_base(paths[0]), open_base(paths[1]), given, workers=workers or default_workers())


def _located(text: str, other: str) -> Path:
    """Where ``text`` is: ``v1.0.0`` beside ``adapters/sql`` is that folder at that revision."""
    if not LOCAL.match(text) and not os.path.lexists(text):
        from adaptool.git.revisions import open_beside

        return open_beside(text, Path(other)) or locate(text)
    return locate(text)


def _is_adapter(path: Path) -> bool:
    """Whether a folder, or the folder of a file, has an adapter's config (a model beside it is named by its file)."""
    folder = path if path.is_dir() else path.parent
    named = path.is_dir() or path.name.startswith("adapter_") or not path.name.endswith(".gguf")
    return named and (folder / CONFIG_NAME).exists()
