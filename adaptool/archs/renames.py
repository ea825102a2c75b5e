"""From a runtime parameter name to the tensor's name in a checkpoint, across both generations of transformers.

An adapter names modules as the transformers that trained it did. The checkpoint keeps the names it was first
published with: transformers 4.52 began to rename on load, transformers 5 renames much more. Neither direction is
sure, so a name has candidates, the most literal first, and the one that the checkpoint holds is it.

A rename is a row ``disk runtime`` of whole dotted components:

    {n}         a number                        {a,b}    one of these words
    {1}         what the first column's first placeholder stands for, in the second
    ^           at the start of the name; a lone ``^`` is the name's start itself, so the other side is a prefix

A block of rows belongs to model types; ``=type`` where it holds for that model alone and not inside another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain, product
from operator import itemgetter
from typing import Any

from adaptool.archs.names_multimodal import MULTIMODAL
from adaptool.archs.names_text import TEXT
from adaptool.archs.names_vision import VISION
from adaptool.archs.prefixes import BASE_MODEL_PREFIX, MOST, base_model_prefix

BLOCKS: Mapping[str, str] = {**TEXT, **VISION, **MULTIMODAL}

# For every model: PyTorch's weight norm, TensorFlow's layer norm, a level that transformers 5.10 to 5.22 saved twice.
LEGACY = """
    weight_g                                    parametrizations.weight.original0
    weight_v                                    parametrizations.weight.original1
    LayerNorm.gamma                             LayerNorm.weight
    LayerNorm.beta                              LayerNorm.bias
    ^model.language_model.model                 ^model.language_model
"""

# Where nothing says what the model is, the renames that are likeliest.
USUAL = ("vit", "clip_vision_model", "llava", "qwen2_vl", "mixtral", "gpt_neox")


@dataclass(frozen=True, slots=True)
class Rename:
    """One row: how a part of a name is spelt on disk and at run time."""

    disk: str
    runtime: str

    def to_disk(self, name: str) -> str:
        """``name`` with its first runtime spelling put as on disk; unchanged where there is none."""
        return _substitute(name, self.runtime, self.disk)

    def to_runtime(self, name: str) -> str:
        """The reverse."""
        return _substitute(name, self.disk, self.runtime)


def disk_names(name: str, config: Mapping[str, Any] | None) -> Iterator[str]:
    """What a checkpoint may call a runtime module or parameter, most literal first, none twice.

    The name itself; with the base model's prefix put on or off; renamed from run time to disk (an adapter of
    transformers 5 or late 4, a published checkpoint); renamed the other way (an old adapter, a checkpoint saved under
    the new names). Without a config only the usual renames are tried, and every known prefix.
    """
    seen: set[str] = set()
    for candidate in _candidates(name, config):
        if candidate not in seen:
            seen.add(candidate)
            yield candidate


def published_name(name: str, config: Mapping[str, Any]) -> str:
    """A runtime name as a checkpoint in its published form has it, the base model's prefix left alone."""
    blocks = _blocks(tuple(model_types(config)) or ("",))
    return _apply(name, blocks, (-1,) * len(blocks))


def renames_of(blocks: Iterable[str]) -> tuple[Rename, ...]:
    """Every row of these blocks, each once."""
    return tuple(dict.fromkeys(rename for rows in blocks for rename in _parse(rows)))


def _candidates(name: str, config: Mapping[str, Any] | None) -> Iterator[str]:
    types = ("",) if config is None else tuple(model_types(config)) or ("",)
    own = base_model_prefix(types[0])
    bare, bodied = _bodies(name, _all_prefixes() if config is None else (own, "transformer"), own)
    yield from (name, *bare, *bodied)
    groups = [_blocks((usual,)) for usual in USUAL] if config is None else [_blocks(types)]
    for blocks in [*groups, (_parse(LEGACY),)]:
        for way, start in product(_ways(len(blocks)), (name, *bare, *bodied)):
            renamed = _apply(start, blocks, way)
            if renamed != start:
                yield from chain([renamed], *_bodies(renamed, (own,), own))
    if config is None:
        yield from (f"{prefix}.{start}" for prefix in _all_prefixes() for start in (name, *bare))


def _bodies(name: str, off: tuple[str, ...], on: str) -> tuple[list[str], list[str]]:
    """``name`` without a base model's prefix, and those, and itself, with the model's own put on."""
    bare = [name.removeprefix(f"{prefix}.") for prefix in off if prefix and name.startswith(f"{prefix}.")]
    return bare, [f"{on}.{start}" for start in (name, *bare) if on and not start.startswith(f"{on}.")]


def _ways(count: int) -> Iterator[tuple[int, ...]]:
    """How each of ``count`` blocks is applied, −1 to disk, 1 to run time, 0 not: all, all but one, one alone."""
    for direction in (-1, 1):
        yield (direction,) * count
    for direction, one in product((-1, 1), range(count)):
        yield tuple(0 if place == one else direction for place in range(count))
        yield tuple(direction if place == one else 0 for place in range(count))


def _apply(name: str, blocks: tuple[tuple[Rename, ...], ...], way: tuple[int, ...]) -> str:
    """Blocks and their rows from the first on to run time, from the last back to disk."""
    for block in (block for block, direction in zip(blocks, way, strict=True) if direction > 0):
        for rename in block:
            name = rename.to_runtime(name)
    for block in reversed([block for block, direction in zip(blocks, way, strict=True) if direction < 0]):
        for rename in reversed(block):
            name = rename.to_disk(name)
    return name


def model_types(config: Mapping[str, Any], depth: int = 4) -> Iterator[str]:
    """The model's type, then those of the models it is made of, and of theirs."""
    if isinstance(model_type := config.get("model_type"), str):
        yield model_type
    for value in config.values():
        if isinstance(value, Mapping) and depth:
            yield from model_types(value, depth - 1)


@cache
def _blocks(types: tuple[str, ...]) -> tuple[tuple[Rename, ...], ...]:
    """The blocks that hold for a model made of these types: the outermost model's first, then as in the tables."""
    order = [f"={types[0]}", *types]
    found = [(_depth(order, names.split()), rows) for names, rows in BLOCKS.items()]
    return tuple(_parse(rows) for depth, rows in sorted(found, key=itemgetter(0)) if depth < len(order))


def _depth(order: list[str], names: list[str]) -> int:
    """How deep in the model the first of these types lies (the root's spellings are one), or their number."""
    return min((max(0, place - 1) for place, key in enumerate(order) if key in names), default=len(order))


@cache
def _parse(rows: str) -> tuple[Rename, ...]:
    return tuple(Rename(*_same_placeholders(*row.split())) for row in filter(str.strip, rows.splitlines()))


def _same_placeholders(disk: str, runtime: str) -> tuple[str, str]:
    """``{1}`` of the second column spelt out."""
    for number, placeholder in enumerate(re.findall(r"\{.*?\}", disk), start=1):
        runtime = runtime.replace(f"{{{number}}}", placeholder)
    return disk, runtime


def _substitute(name: str, old: str, new: str) -> str:
    if old == "^":
        return f"{new.removeprefix('^')}.{name}"
    pattern, replacement = _compiled(old, new)
    return pattern.sub(replacement, name, count=1)


@cache
def _compiled(old: str, new: str) -> tuple[re.Pattern[str], str]:
    body = re.escape(old.removeprefix("^"))
    body = re.sub(r"\\\{(.*?)\\\}", lambda found: _alternatives(found[1]), body)
    start = "^" if old.startswith("^") else r"(?<![^.])"
    number = iter(range(1, 10))
    replacement = re.sub(r"\{.*?\}", lambda _: rf"\g<{next(number)}>", new.removeprefix("^"))
    end = r"\." if new == "^" else r"(?![^.])"
    return re.compile(start + body + end), replacement


def _alternatives(placeholder: str) -> str:
    return r"(\d+)" if placeholder == "n" else f"({placeholder.replace(',', '|')})"


@cache
def _all_prefixes() -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (MOST, *BASE_MODEL_PREFIX.values()))))
