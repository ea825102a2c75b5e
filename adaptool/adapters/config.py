"""adapter_config.json: read strictly, kept whole, typed where adaptool must understand it.

Unknown fields survive a round trip: PEFT drops them with a warning, an artifact tool must not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import regex

from adaptool.errors import FormatError, NotFoundError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json

CONFIG_NAME = "adapter_config.json"
CONFIG_LIMIT = 4 << 20
"""Bytes: AdaLoRA's boolean masks are the largest real configs, well under this."""

PATTERN_SECONDS = 0.25
"""A pattern is matched against one short module name; more than this is a pattern that runs away."""


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
        return self.fields.get("base_model_name_or_path") or None

    @property
    def revision(self) -> str | None:
        """The base's revision, where the training pinned one."""
        return self.fields.get("revision") or None

    @property
    def task_type(self) -> str | None:
        """CAUSAL_LM, SEQ_CLS, …"""
        return self.fields.get("task_type") or None

    @property
    def peft_version(self) -> str | None:
        """The PEFT that saved it (written from 0.18 on)."""
        return self.fields.get("peft_version") or None

    def flag(self, name: str) -> bool:
        """A boolean field, False where absent or null."""
        value = self.fields.get(name) or False
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}: {name} must be true or false, not {value!r}")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """A field that is null, one name, or a list of names; sets are saved in any order, so it is sorted."""
        value = self.fields.get(name) or []
        items = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else None
        if items is None or not all(isinstance(item, str) for item in items):
            raise FormatError(f"{self.where}: {name} must be a name or a list of names, not {value!r}")
        return tuple(sorted(items))

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
        return self._rank("rank_pattern", self._pattern("rank_pattern", module, self.rank))

    def alpha_of(self, module: str) -> float:
        """The alpha declared for ``module``: the first key of alpha_pattern that matches, else lora_alpha."""
        return self._alpha("alpha_pattern", self._pattern("alpha_pattern", module, self.alpha))

    def scale_of(self, module: str) -> float:
        """α/r, or α/√r under rsLoRA (arXiv 2312.03732), with the module's own α and r."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.flag("use_rslora") else rank)

    def _pattern(self, name: str, module: str, default: Any) -> Any:
        patterns = self.fields.get(name) or {}
        if not isinstance(patterns, dict):
            raise FormatError(f"{self.where}: {name} must map patterns to numbers")
        key = first_match(patterns, module, f"{self.where}: {name}")
        return default if key is None else patterns[key]

    def _rank(self, name: str, value: object) -> int:
        if type(value) is not int or value < 1:
            raise FormatError(f"{self.where}: {name} must be a positive whole number, not {value!r}")
        return value

    def _alpha(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise FormatError(f"{self.where}: {name} must be a finite number, not {value!r}")
        return value

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
    return next((key for key in patterns if matches(rf"(.*\.)?({key})$", module, where)), None)


def matches(pattern: str, module: str, where: str) -> bool:
    """Whether ``pattern`` matches from the start of ``module``, within a time limit."""
    try:
        return regex.match(pattern, module, timeout=PATTERN_SECONDS) is not None
    except regex.error as error:
        raise FormatError(f"{where}: {pattern!r} is not a regular expression: {error}") from None
    except TimeoutError:
        raise FormatError(f"{where}: the pattern {pattern!r} takes too long to match") from None
