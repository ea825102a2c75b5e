"""The files beside an adapter's or model's weights, and what each is: where it comes from, and what travels with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptool.errors import AdaptoolError
from adaptool.tensors.sniff import sniff

KINDS = (
    ("weights", r".+\.(?:safetensors|gguf)|(?:adapter_model|pytorch_model.*)\.bin"),
    ("weights index", r".+\.index\.json"),
    ("adapter config", r"adapter_config\.json"),
    ("model config", r"(?:generation_)?config\.json"),
    ("tokenizer", r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..+|merges\.txt|spiece\.model"
                  r"|sentencepiece.*|.+\.tiktoken"),
    ("chat template", r"chat_template.*|additional_chat_templates/"),
    ("model card", r"readme(?:\.\w+)?"),
    ("licence", r"(?:licen[cs]e|notice|copying|use_policy).*"),
    ("manifest", r"adaptool\.json"),
    ("training arguments", r"training_(?:args|config|params).*|trainer_config.*|axolotl.*\.ya?ml"),
    ("training log", r"trainer_state\.json|all_results\.json|(?:train|eval)_results\.json|runs/|wandb/"),
    ("training state", r"(?:optimizer|scheduler|scaler|rng_state).*"),
    ("checkpoint", r"checkpoint-\d+/"),
    ("Python code", r".+\.py"),
)  # fmt: skip
"""What a file is, by its name; the first that matches."""

LOOKED_INTO = ("", "training arguments", "training state", "weights")
MOST_FILES = 500
"""A folder with more is not listed to the end."""


@dataclass(frozen=True, slots=True)
class FileBeside:
    """One file or folder (its name ends in ``/``, and its size is 0)."""

    name: str
    nbytes: int
    what: str
    """"" where the name says nothing."""
    pickled: bool
    """Whether its first bytes are a pickle's, whatever it is called: loading one runs its code."""


def files_beside(folder: Path) -> tuple[FileBeside, ...]:
    """What lies in a folder, by name; nothing is followed out of it and no file is read beyond its first bytes."""
    return tuple(_listed(folder))


def _listed(folder: Path) -> Iterator[FileBeside]:
    for number, name in enumerate(sorted(path.name for path in folder.iterdir())):
        if number == MOST_FILES:
            return
        path = folder / name
        if path.is_dir():
            yield FileBeside(f"{name}/", 0, kind_of(f"{name}/"), pickled=False)
        elif path.is_file():
            what = kind_of(name)
            yield FileBeside(name, path.stat().st_size, what, what in LOOKED_INTO and _is_pickle(path))


def kind_of(name: str) -> str:
    """What a file is by its name (a folder's ends in ``/``); "" where that says nothing."""
    return next((what for what, pattern in KINDS if re.fullmatch(pattern, name, re.IGNORECASE)), "")


def _is_pickle(path: Path) -> bool:
    try:
        return sniff(path) in ("pickle", "torch-zip", "torch-legacy")
    except (AdaptoolError, OSError):
        return False
