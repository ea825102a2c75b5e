"""How a sentence encoder makes one vector of many: what its folder says beside the config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.jsons import parse_json

MODULES = "modules.json"
"""sentence-transformers' list of what follows the model."""

NUMBERS = {"mean": 1, "cls": 2, "lasttoken": 3}
"""Modes that llama.cpp has, by their numbers there."""

FLAGS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "lasttoken": "pooling_mode_lasttoken"}
"""Modes, and the settings of sentence-transformers that turn them on."""


def read_pooling(folder: Path) -> str | None:
    """ "mean", "cls" or "lasttoken"; None for a folder that sentence-transformers has not written.

    Raises UnsupportedError for a mode llama.cpp does not have.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = _read(folder / MODULES)
    paths = [one.get("path", "") for one in modules if isinstance(one, dict) and _is_pooling(one)]
    if not paths:
        return None
    if not isinstance(paths[0], str) or ".." in Path(paths[0]).parts or Path(paths[0]).is_absolute():
        raise FormatError(f"{folder / MODULES}: {paths[0]!r} is no folder of the model's")
    where = folder / paths[0] / "config.json"
    if not where.is_file():
        raise FormatError(f"{folder / MODULES}: speaks of {paths[0]}, and there is no {where}")
    config = _read(where)
    found = next((mode for mode, flag in FLAGS.items() if config.get(flag)), config.get("pooling_mode"))
    if found not in NUMBERS:
        raise UnsupportedError(f"{where}: llama.cpp pools by {', '.join(NUMBERS)} only")
    return str(found)


def pooling_files(number: int | None, width: int) -> dict[str, bytes]:
    """The files of sentence-transformers that say so, by name; none for a number that is no mode of its own."""
    if number not in NUMBERS.values():
        return {}
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {"word_embedding_dimension": width} | {flag: NUMBERS[mode] == number for mode, flag in FLAGS.items()}
    return {MODULES: json.dumps(modules, indent=2).encode(), "1_Pooling/config.json": json.dumps(pooling).encode()}


def _is_pooling(module: dict[str, Any]) -> bool:
    return str(module.get("type", "")).endswith("Pooling")


def _read(path: Path) -> Any:
    return parse_json(path.read_bytes(), str(path))
