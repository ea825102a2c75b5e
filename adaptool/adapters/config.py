"""adapter_config.json: read strictly, kept whole, typed where adaptool must understand it.

Unknown fields survive a round trip: PEFT drops them with a warning, an artifact tool must not.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import regex

from adaptool.adapters.patterns import Patterns, patterns_of
from adaptool.errors import FormatError, NotFoundError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json

CONFIG_NAME = "adapter_config.json"
CONFIG_LIMIT = 4 << 20
"""Bytes: AdaLoRA's boolean masks are the largest real configs, well under this."""

LARGEST_ALPHA = 1e30
"""Beyond this, α/r·ΔW is no number in float32."""

PATTERN_LENGTH = 2000
"""Characters: the longest that tools write list every projection of a model in a few hundred."""

PATTERN_REPEATS = 10_000
"""The product of its counts, x{3}: compiling a pattern unrolls them, and compiling cannot be stopped."""

PATTERN_SECONDS = 0.25
"""A pattern is matched against one short module name; more than this is a pattern that runs away."""


MOST_PARAMETERS = 64
"""Of one module, by name: PEFT nests a wrapper for each."""


@dataclass(frozen=True)
class AdapterConfig:
    """One adapter's configuration: ``fields`` as written, and typed access to what a merge needs."""

    fields: Mapping[str, Any]
    where: str = CONFIG_NAME

    @cached_property
    def peft_type(self) -> str:
        """LORA, IA3, …, in capitals as PEFT writes it."""
        value = self.fields.get("peft_type")
        if not isinstance(value, str):
            raise FormatError(f"{self.where}: no peft_type", hint="is this an adapter's config and not a model's?")
        return value.upper()

    @property
    def base_model(self) -> str | None:
        """What the adapter says it was trained on: a hub id or a path."""
        return self._text("base_model_name_or_path")

    @property
    def revision(self) -> str | None:
        """The base's revision, where the training pinned one."""
        return self._text("revision")

    @property
    def task_type(self) -> str | None:
        """CAUSAL_LM, SEQ_CLS, …"""
        return self._text("task_type")

    @property
    def peft_version(self) -> str | None:
        """The PEFT that saved it (written from 0.18 on)."""
        return self._text("peft_version")

    def _text(self, name: str) -> str | None:
        value = self.fields.get(name) or None
        if value is not None and not isinstance(value, str):
            raise FormatError(f"{self.where}: {name} must be text, not {value!r}")
        return value

    def flag(self, name: str) -> bool:
        """A boolean field, False where absent or null."""
        value = self.fields.get(name) or False
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}: {name} must be true or false, not {value!r}")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """A field that is null, one name, or a list of names; sets are saved in any order, so it is sorted."""
        if name not in self._names:
            self._names[name] = self._sorted_names(name)
        return self._names[name]

    @cached_property
    def _names(self) -> dict[str, tuple[str, ...]]:
        return {}

    def _sorted_names(self, name: str) -> tuple[str, ...]:
        value = self.fields.get(name) or []
        items = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else None
        if items is None or not all(isinstance(item, str) for item in items):
            raise FormatError(f"{self.where}: {name} must be a name or a list of names, not {value!r}")
        return tuple(sorted(items))

    @cached_property
    def kept_endings(self) -> Mapping[int, frozenset[str]]:
        """modules_to_save by length: PEFT takes every module whose name *ends with* an entry."""
        by_length: dict[int, set[str]] = {}
        for name in self.names("modules_to_save"):
            by_length.setdefault(len(name), set()).add(name)
        return {length: frozenset(names) for length, names in by_length.items()}

    @cached_property
    def wrapped_parameters(self) -> Mapping[str, frozenset[str]]:
        """target_parameters by owner: ``{"mlp.experts": {"gate_up_proj", "down_proj"}}``; "" owns a bare name."""
        by_owner: dict[str, set[str]] = {}
        for name in self.names("target_parameters"):
            owner, _, leaf = name.rpartition(".")
            by_owner.setdefault(owner, set()).add(leaf)
        return {owner: frozenset(leaves) for owner, leaves in by_owner.items() if len(leaves) <= MOST_PARAMETERS}

    @cached_property
    def rank(self) -> int:
        """``r``: a positive integer."""
        return self._rank("r", self.fields.get("r", 8))

    @cached_property
    def alpha(self) -> float:
        """``lora_alpha``: PEFT allows a fraction."""
        return self._alpha("lora_alpha", self.fields.get("lora_alpha", 8))

    def rank_of(self, module: str) -> int:
        """The rank declared for ``module``: the first key of rank_pattern that matches, else r."""
        return self._rank("rank_pattern", self._of_module("rank_pattern", self.rank_patterns, module, self.rank))

    def alpha_of(self, module: str) -> float:
        """The alpha declared for ``module``: the first key of alpha_pattern that matches, else lora_alpha."""
        return self._alpha("alpha_pattern", self._of_module("alpha_pattern", self.alpha_patterns, module, self.alpha))

    def scale_of(self, module: str) -> float:
        """α/r, or α/√r under rsLoRA (arXiv 2312.03732), with the module's own α and r."""
        return self.scale(self.rank_of(module), self.alpha_of(module))

    def scale(self, rank: int, alpha: float) -> float:
        """What this rank and this alpha make of each other."""
        return alpha / (math.sqrt(rank) if self.flag("use_rslora") else rank)

    @cached_property
    def rank_patterns(self) -> Patterns:
        """The keys of rank_pattern."""
        return self.patterns("rank_pattern")

    @cached_property
    def alpha_patterns(self) -> Patterns:
        """The keys of alpha_pattern."""
        return self.patterns("alpha_pattern")

    def patterns(self, name: str) -> Patterns:
        """The keys of a field that maps patterns to something."""
        patterns = self.fields.get(name) or {}
        if not isinstance(patterns, dict):
            raise FormatError(f"{self.where}: {name} must map patterns to numbers")
        return patterns_of(patterns, f"{self.where}: {name}", matches)

    def _of_module(self, name: str, patterns: Patterns, module: str, default: Any) -> Any:
        key = patterns.first(module)
        return default if key is None else self.fields[name][key]

    def _rank(self, name: str, value: object) -> int:
        if type(value) is not int or value < 1:
            raise FormatError(f"{self.where}: {name} must be a positive whole number, not {value!r}")
        return value

    def _alpha(self, name: str, value: object) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_ALPHA
        if not number:  # NaN is not <= anything
            raise FormatError(f"{self.where}: {name} must be a finite number, not {str(value)[:40]}")
        return value  # type: ignore[return-value]

    def to_json(self) -> str:
        """The file's text: every field, in its order."""
        return json.dumps(self.fields, indent=2, ensure_ascii=False) + "\n"


def read_config(path: Path) -> AdapterConfig:
    """Read an ``adapter_config.json``; NotFoundError or FormatError say what is wrong with it."""
    try:
        handle = open_file(path)
    except NotFoundError:
        raise NotFoundError(
            f"{path.parent}: no {CONFIG_NAME}", hint="point at the folder that save_pretrained wrote"
        ) from None
    fields = parse_json(handle.read_all(CONFIG_LIMIT), str(path), what="config")
    if not isinstance(fields, dict):
        raise FormatError(f"{path}: the config is not a JSON object")
    return AdapterConfig(fields, str(path))


def first_match(patterns: Iterable[str], module: str, where: str) -> str | None:
    """The first pattern that matches ``module`` whole or from a dot on, as PEFT resolves its ``*_pattern`` fields.

    Patterns come from a file a stranger wrote, so the match runs under a time limit.
    """
    return patterns_of(patterns, where, matches).first(module)


def matches(pattern: str, module: str, where: str) -> bool:
    """Whether ``pattern`` matches from the start of ``module``, as ``re.match`` would, within a time limit.

    The standard library cannot be stopped, so it only judges the syntax; ``regex`` matches.
    """
    if math.prod(int(count[-9:]) or 1 for count in re.findall(r"\{(\d+)", pattern)) > PATTERN_REPEATS:
        raise FormatError(f"{where}: the pattern {pattern[:60]!r} repeats absurdly often", defect="absurd-pattern")
    if len(pattern) > PATTERN_LENGTH:
        raise FormatError(
            f"{where}: a pattern of {len(pattern)} characters", hint="list the modules' names instead",
            defect="absurd-pattern",
        )  # fmt: skip
    try:
        return regex.match(_as_stdlib(pattern), module, timeout=PATTERN_SECONDS) is not None
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise FormatError(
            f"{where}: {pattern[:60]!r} is not a regular expression: {error}", defect="not-a-pattern"
        ) from None
    except TimeoutError:
        raise FormatError(
            f"{where}: the pattern {pattern[:60]!r} takes too long to match", defect="runaway-pattern"
        ) from None


def matches_whole(pattern: str, module: str, where: str) -> bool:
    """Whether ``pattern`` is all of ``module``, as ``re.fullmatch`` would say; flags may stand at its beginning."""
    flags = re.match(r"\(\?([aimsx]+)\)", pattern)
    inner = f"(?{flags[1]}:{pattern[flags.end() :]})" if flags else f"(?:{pattern})"
    return matches(rf"{inner}\Z", module, where)


@lru_cache(maxsize=1024)
def _as_stdlib(pattern: str) -> str:
    """``pattern`` with what only ``regex`` reads as fuzzy matching made literal; re.error where it is no pattern."""
    with warnings.catch_warnings(action="ignore"):
        re.compile(pattern)
    return re.sub(r"(\\.)|\{(?!\d*,?\d*\})", lambda found: found[1] or r"\{", pattern, flags=re.DOTALL)
