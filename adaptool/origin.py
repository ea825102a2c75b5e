"""What an adapter was trained on against what it is merged onto: said, never guessed silently."""

from __future__ import annotations

import re

from adaptool.adapters.adapter import Adapter
from adaptool.adapters.base import BaseModel
from adaptool.tensors.bnb import Bnb4bit

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
QUANTISED_NAME = re.compile(r"(?i)[-_.](?:unsloth-)?(bnb-4bit|4bit|nf4|int4|8bit|int8|awq|gptq|fp8|gguf)(?=$|[-_.])")


def hub_id(name: str | None) -> str | None:
    """``name`` if it reads as a hub id (org/name) and not as a path of somebody's machine."""
    return name if name is not None and HUB_ID.fullmatch(name) else None


def base_name(base: BaseModel) -> str:
    """What a base is called: the hub id its HF-cache folder or config carries, else its folder's name."""
    repository = base.path.parent.parent.name if base.path.parent.name == "snapshots" else ""
    if repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return hub_id((base.config or {}).get("_name_or_path")) or base.path.resolve().name


def origin_note(adapter: Adapter, base: BaseModel) -> str | None:
    """What the user should know where the named base and the given one are not plainly the same."""
    named = adapter.config.base_model
    given = base_name(base)
    if named is None:
        return f"{adapter.name} does not name the base it was trained on; merging onto {given}"
    quantised = QUANTISED_NAME.search(named)
    if quantised and not isinstance(base.store, Bnb4bit):
        return (
            f"{adapter.name} was trained on {named}, a quantised model; merging onto {given} in 16 bits. Training saw "
            f"the rounded weights, so outputs differ a little; --onto-nf4 merges onto what an NF4 training saw"
        )
    if _plain(named) == _plain(given):
        return None
    return f"{adapter.name} was trained on {named}; merging onto {given}, taken as the same model"


def _plain(name: str) -> str:
    """A model's bare name: no organisation, no path, no case."""
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()
