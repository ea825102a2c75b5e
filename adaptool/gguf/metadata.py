"""A GGUF's metadata as typed settings: what a stranger's file claims is checked where it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptool.errors import FormatError, UnsupportedError
from adaptool.tensors.ggml.values import KeyValues, ValueType

MOST = 1 << 31
"""Counts and token ids are below this."""


@dataclass(frozen=True)
class Metadata:
    """The keys of the GGUF at ``path``; names that begin with "." are the architecture's own."""

    path: Path
    keys: KeyValues

    @property
    def arch(self) -> str:
        """``general.architecture``, which every model has."""
        name = self.text("general.architecture")
        if name is None:
            raise FormatError(f"{self.path}: no general.architecture: this is not a model")
        return name

    def full(self, name: str) -> str:
        """``.block_count`` → ``llama.block_count``."""
        return f"{self.text('general.architecture') or ''}{name}" if name.startswith(".") else name

    def find(self, name: str) -> Any:
        """A number, a text or a truth value, None where there is no such key.

        A list with one value per layer stands for that value where all are equal; else UnsupportedError.
        """
        name = self.full(name)
        value = self.keys.get(name)
        if value is None:
            return None
        if value.kind is ValueType.ARRAY:
            return self._one(name, list(value.data))
        return self._scalar(name, value.kind, value.data)

    def _one(self, name: str, items: list[Any]) -> Any:
        if not items or any(item != items[0] for item in items):
            raise UnsupportedError(f"{self.path}: {name} differs from layer to layer, which cannot be expressed")
        return items[0]

    def _scalar(self, name: str, kind: ValueType, data: Any) -> Any:
        if isinstance(data, bytes):
            raise FormatError(f"{self.path}: {name} is not UTF-8")
        if isinstance(data, float) and not math.isfinite(data):
            raise FormatError(f"{self.path}: {name} is {data}")
        return float(str(np.float32(data))) if kind is ValueType.FLOAT32 else data

    def text(self, name: str) -> str | None:
        """A text."""
        return self._typed(name, str, "a text")

    def count(self, name: str, *, least: int = 0) -> int | None:
        """A whole number from ``least`` on."""
        number = self._typed(name, int, "a count")
        if number is not None and (isinstance(number, bool) or not least <= number < MOST):
            raise FormatError(f"{self.path}: {self.full(name)} is {number!r}, where a count from {least} on belongs")
        return number

    def number(self, name: str) -> float | None:
        """A number."""
        return self._typed(name, (int, float), "a number")

    def _typed(self, name: str, kind: Any, what: str) -> Any:
        value = self.find(name)
        if value is not None and not isinstance(value, kind):
            raise FormatError(f"{self.path}: {self.full(name)} is {value!r:.60}, where {what} belongs")
        return value

    def token(self, role: str) -> int | None:
        """The id of a special token: "bos", "eos", "padding", …"""
        return self.count(f"tokenizer.ggml.{role}_token_id")
