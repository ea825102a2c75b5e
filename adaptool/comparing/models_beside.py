"""What lies beside two models' weights, and whether the two are the very same files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adaptool.adapters.base import BaseModel
from adaptool.comparing.file_bytes import same_bytes
from adaptool.comparing.models_measure import stored
from adaptool.errors import AdaptoolError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json
from adaptool.versions import read_manifest

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
    for name in (*SETTINGS, *TEXTS):
        old, new = before.folder / name, after.folder / name
        if old.is_file() != new.is_file():
            yield f"{name} is beside the {'first' if old.is_file() else 'second'} only"
        elif old.is_file() and not same_bytes(old, new):
            said = _settings_apart(old, new) if name in SETTINGS else "is not the same beside the two"
            if said:
                yield f"{name} {said}"


def manifest_version(model: BaseModel) -> str | None:
    """What the manifest beside it calls this state; None where there is none that can be read."""
    try:
        version = (read_manifest(model.folder) or {}).get("version") if model.beside is None else None
    except AdaptoolError:
        return None
    return version if isinstance(version, str) else None


def _settings_apart(one: Path, two: Path) -> str:
    """Which keys of two JSON files differ; "" where none does that matters."""
    old, new = _settings(one), _settings(two)
    if old is None or new is None:
        return "is not the same beside the two"
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
