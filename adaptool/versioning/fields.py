"""The fields of a JSON object that a stranger wrote, each asked for by its name and the type it must have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaptool.errors import FormatError
from adaptool.tensors.jsons import shown

LONGEST = 10_000
"""Characters of a text."""


@dataclass(frozen=True, slots=True, init=False)
class Fields:
    """An object and where it stands; every method raises FormatError where a field is not what it must be."""

    values: Mapping[str, Any]
    where: str

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where}: must be an object, not {shown(value)}")
        object.__setattr__(self, "values", value)
        object.__setattr__(self, "where", where)

    def text(self, name: str, form: re.Pattern[str] | None = None) -> str:
        """A text, of that form."""
        value = self.values.get(name)
        if not isinstance(value, str) or not value:
            raise self._wrong(name, "text", value)
        if len(value) > LONGEST:
            raise FormatError(f"{self.where}: {name} is longer than {LONGEST} characters")
        if form is not None and not form.fullmatch(value):
            raise self._wrong(name, "a SHA-256 in lower case", value)
        return value

    def maybe(self, name: str, form: re.Pattern[str] | None = None) -> str | None:
        """A text, or None where it is absent or null; a path may be empty."""
        value = self.values.get(name)
        return value if value is None or (value == "" and form is None) else self.text(name, form)

    def size(self, name: str) -> int:
        """A number of bytes."""
        value = self.values.get(name)
        if type(value) is not int or not 0 <= value < 2**63:
            raise self._wrong(name, "a number of bytes", value)
        return value

    def inner(self, name: str, *, optional: bool = False) -> Fields:
        """An object."""
        value = self.values.get(name)
        return Fields({} if optional and value is None else value, f"{self.where}: {name}")

    def items(self, name: str, *, optional: bool = False) -> tuple[Fields, ...]:
        """A list of objects."""
        value = self.values.get(name)
        if optional and value is None:
            return ()
        if not isinstance(value, list):
            raise self._wrong(name, "a list", value)
        return tuple(Fields(item, f"{self.where}: {name}[{i}]") for i, item in enumerate(value))

    def numbers_or_texts(self, name: str) -> Mapping[str, float | str]:
        """An object whose values are numbers or texts; none where it is absent."""
        values = self.inner(name, optional=True).values
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise self._wrong(f"{name}.{key[:40]}", "a number or text", value)
        return values

    def _wrong(self, name: str, wanted: str, value: object) -> FormatError:
        return FormatError(f"{self.where}: {name} must be {wanted}, and is {shown(value)}")
