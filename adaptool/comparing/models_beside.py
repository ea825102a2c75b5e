"""What lies beside two models' weights, and whether the two are the very same files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptool.adapters.base import BaseModel
from adaptool.comparing.beside import APART, notes_on
from adaptool.comparing.file_bytes import same_bytes
from adaptool.comparing.models_measure import stored
from adaptool.errors import AdaptoolError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json

SETTINGS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json",
            "processor_config.json")  # fmt: skip
"""JSON whose keys are compared, in whatever order they are."""
TEXTS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json",
         "chat_template.jinja")  # fmt: skip
METADATA = {"transformers_version", "_from_model_config", "name_or_path", "processor_class"}
LARGEST = 16 << 20


def same_files(before: BaseModel, after: BaseModel) -> bool:
    """Whether weights and config.json are the same files, byte for byte, under the same names."""
    old, new = (sorted(stored(model.store).files) for model in (before, after))
    alone = len(old) == len(new) == 1  # a single file may be called anything
    if not old or len(old) != len(new) or not (alone or [p.name for p in old] == [p.name for p in new]):
        return False
    pairs = list(zip(old, new, strict=True))
    if before.beside is None and after.beside is None:
        configs = [model.folder / "config.json" for model in (before, after)]
        if configs[0].is_file() != configs[1].is_file():
            return False
        pairs = [*([(configs[0], configs[1])] if configs[0].is_file() else []), *pairs]
    elif before.beside is None or after.beside is None:
        return False
    sizes = [(one.stat().st_size, two.stat().st_size) for one, two in pairs]
    return all(size == other for size, other in sizes) and all(same_bytes(one, two) for one, two in pairs)


def notes_beside(before: BaseModel, after: BaseModel) -> Iterator[str]:
    """What differs of the files that decide how the model is used, in words.

    A GGUF's are made from its metadata, so nothing is said where one side alone is one.
    """
    if (before.beside is None) != (after.beside is None):
        return
    yield from notes_on((*SETTINGS, *TEXTS), before.folder, after.folder, _told)


def _told(name: str, one: Path, two: Path) -> str:
    """How two files that are not the same differ: of settings which keys do, "" where none does that matters."""
    if name not in SETTINGS:
        return APART
    old, new = _settings(one), _settings(two)
    if old is None or new is None:
        return APART
    names = sorted(key for key in {**old, **new} if old.get(key) != new.get(key) and key not in METADATA)
    told = ", ".join(f"{name} {_brief(old.get(name))} → {_brief(new.get(name))}" for name in names[:3])
    return f"differs: {told}{f' and {len(names) - 3} more' if len(names) > 3 else ''}" if names else ""


def _settings(path: Path) -> Mapping[str, Any] | None:
    try:
        value = parse_json(open_file(path).read_all(LARGEST), str(path), what="file")
    except AdaptoolError:
        return None
    return value if isinstance(value, dict) else None


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}…"
