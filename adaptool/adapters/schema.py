"""adapter_config.json against its JSON Schema: each field's faults in plain words, and what a missing field meant.

``schemas/adapter_config.json`` describes every PEFT type; ``schemas/generate.py`` writes it. An editor validates with
the schema as it stands; here only the fields of the adapter's own type are looked at, and two things are stricter:
8.0 is no whole number (PEFT makes tensors of that shape), and no fault of one field hides those of the others.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice, takewhile
from typing import Any, Literal

from adaptool.schema_files import schema_folder
from adaptool.tensors.jsons import shown

Schema = Mapping[str, Any]
Kind = Literal["type", "word", "range"]

NAME = "adapter_config.json"

LONG = 500
"""Items of a list or object that are looked at one by one; a hostile config has a million."""

WANTED = {
    "integer": ("a whole number", "whole numbers"), "number": ("a number", "numbers"), "string": ("text", "texts"),
    "boolean": ("true or false", "truth values"), "object": ("an object", "objects"), "array": ("a list", "lists"),
    "null": ("null", "nulls"),
}  # fmt: skip
"""A JSON type as a message names it: one of it, and several."""

KINDS: Mapping[type, str] = {
    int: "integer", float: "number", str: "string", bool: "boolean", dict: "object", list: "array", type(None): "null",
}  # fmt: skip
"""What JSON calls the values that Python reads from it."""

HARDER = {"exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "pattern"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one value."""

    field: str
    """With what it is inside of: ``r``, ``rank_pattern.q_proj``, ``eva_config.rho``, ``layers_to_transform.2``."""
    kind: Kind
    message: str
    value: Any
    words: tuple[str, ...] = ()
    """Of a word that is not known, those that are."""

    @property
    def top(self) -> str:
        """The config's own field it is in."""
        return self.field.partition(".")[0]


@cache
def schema() -> Schema:
    """The schema of adapter_config.json, read once."""
    read: Schema = json.loads((schema_folder() / NAME).read_bytes())
    return read


def newest_peft() -> str:
    """The last release the schema knows."""
    return str(schema()["x-peft"]["version"])


def newest_release() -> tuple[int, ...]:
    """Its major and minor number."""
    return release(newest_peft())[:2]


def peft_types() -> tuple[str, ...]:
    """Every PEFT type there is or was."""
    return tuple(schema()["properties"]["peft_type"]["enum"])


@cache
def fields_of(home: str) -> Mapping[str, Schema]:
    """The fields of a PEFT type, or of a nested config's class; none of an unknown one."""
    parts = schema()["$defs"]
    if home not in parts:
        return {}
    shared = parts["PeftConfig"]["properties"] if home in peft_types() else {}
    return {**shared, **parts[home]["properties"]}


def homes_of(field: str) -> tuple[str, ...]:
    """The PEFT types that have a field."""
    return _homes().get(field, ())


@cache
def _homes() -> Mapping[str, tuple[str, ...]]:
    names = {name for home in peft_types() for name in fields_of(home)}
    return {name: tuple(home for home in peft_types() if name in fields_of(home)) for name in names}


def nested_class(field: Schema) -> str | None:
    """The class of the config that a field holds; None where it holds none."""
    options = [field, *field.get("anyOf", ())]
    return next((option["$ref"].removeprefix("#/$defs/") for option in options if "$ref" in option), None)


def default_of(peft_type: str, field: str, version: str | None = None) -> Any:
    """What a config that lacks ``field`` means to the PEFT of that version, to the newest known one without.

    Before a field's first release this is its first default: fields arrive with a default that changes nothing.
    Raises KeyError for a field that the type never had.
    """
    known = fields_of(peft_type)[field]
    history: Mapping[str, Any] = known["x-peft"].get("defaults", {})
    if version is None or not history:
        return known["default"]
    before = [then for then in history if release(then) <= release(version)]
    return history[before[-1] if before else next(iter(history))]


def release(version: str) -> tuple[int, ...]:
    """Orders versions: 0.9.0 before 0.10.0, a development version with the release it leads to."""
    return tuple(int(part[:9]) for part in re.findall(r"\d+", version.partition("@")[0][:40])[:3])


def faults(peft_type: str, config: Mapping[str, Any]) -> Iterator[Fault]:
    """Every value of a known field that is not what the field holds."""
    known = fields_of(peft_type)
    for name, value in config.items():
        if name == "peft_type" or name not in known or plainly_valid(value, known[name]):
            continue
        errors = islice(_validator().evolve(schema=known[name]).iter_errors(_thinned(value)), 4 * LONG)
        told: dict[str, Fault] = {}
        for error in sorted(errors, key=_in_order):
            if (fault := _fault(name, known[name], error)) is not None:
                told.setdefault(fault.field, fault)  # null for a word is of the wrong type, and none of the words
        yield from told.values()


def _in_order(error: Any) -> list[str]:
    """jsonschema takes the keys of an object in any order."""
    return [str(step).zfill(9) for step in error.absolute_path]


def _thinned(value: Any) -> Any:
    """A value without most of what its long lists and objects repeat: the first items, and of the others one a type.

    What a schema says of items it says of all of them.
    """
    if isinstance(value, list):
        rest = {_form(item): item for item in reversed(value[LONG:])} if len(value) > LONG else {}
        return [_thinned(item) for item in (*value[:LONG], *rest.values())]
    if isinstance(value, dict):
        further = {_form(item): (name, item) for name, item in list(value.items())[LONG:]}
        return {name: _thinned(item) for name, item in (*islice(value.items(), LONG), *further.values())}
    return value


def _form(value: Any) -> object:
    """The type of a value, and of the items in it."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return type(value), frozenset(map(type, inside))


def plainly_valid(value: Any, part: Schema) -> bool:
    """Whether a value is right beyond doubt; where this says no, jsonschema decides.

    It spares healthy configs jsonschema's import, a tenth of what validating an adapter of 40 MB takes.
    """
    if "anyOf" in part:
        return any(plainly_valid(value, option) for option in part["anyOf"])
    kind, kinds = KINDS.get(type(value), ""), part.get("type", ())
    if kind not in kinds and not (kind == "integer" and "number" in kinds):
        return "$ref" in part and value == {}
    if HARDER & part.keys():
        return False
    if kind in ("integer", "number"):
        return part.get("minimum", -math.inf) <= value <= part.get("maximum", math.inf)
    if isinstance(value, list):
        return len(value) <= LONG and all(plainly_valid(item, part.get("items", {})) for item in value)
    if isinstance(value, dict):
        return not value
    return "enum" not in part or value in part["enum"]


@cache
def _validator() -> Any:
    """jsonschema's validator of the whole schema, from which those of its parts are taken."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.validators import extend  # type: ignore[import-untyped]

    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return extend(Draft202012Validator, type_checker=types)(schema())


def _fault(name: str, field: Schema, error: Any) -> Fault | None:
    """jsonschema's error in our words; None where another rule speaks of such values."""
    error = _nearest(error)
    value, part = error.instance, error.schema
    if isinstance(value, float) and not math.isfinite(value):
        return None  # no JSON in the first place
    steps = takewhile(lambda step: not isinstance(step, int) or step < LONG, error.absolute_path)
    path = ".".join([name, *(shown(step).strip('"') for step in steps)])
    if error.validator in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"):
        return Fault(path, "range", f"{path} must be {_bounds(part)}, and is {shown(value)}", value)
    if isinstance(value, str) and error.validator in ("enum", "pattern", "anyOf"):
        words = tuple(_words(part))
        if words or error.validator == "pattern":
            listed = f"one of {', '.join(map(shown, words))}" if words else "one of the names PEFT knows"
            return Fault(path, "word", f"{path} must be {listed}, and is {shown(value)}", value, words)
    wanted = field if path == name else part
    return Fault(path, "type", f"{path} must be {_wanted(wanted)}, and is {_is(value)}", value)


def _nearest(error: Any) -> Any:
    """Of a choice that fails, the error of the one option that the value is of the type of."""
    while error.validator == "anyOf":
        options: dict[int, list[Any]] = {}
        for inner in error.context:
            options.setdefault(inner.schema_path[0], []).append(inner)
        near = [found for found in options.values()
                if not any(e.validator == "type" and not e.relative_path for e in found)]  # fmt: skip
        if len(near) != 1:
            break
        error = near[0][0]
    return error


def _words(part: Schema) -> Iterator[str]:
    """The words a schema takes, of all its options."""
    for option in (part, *part.get("anyOf", ())):
        yield from (word for word in option.get("enum", ()) if isinstance(word, str))


def _bounds(part: Schema) -> str:
    """``minimum``, ``maximum`` … as a message says them."""
    said = {
        "minimum": "at least {}", "exclusiveMinimum": "more than {}",
        "maximum": "at most {}", "exclusiveMaximum": "less than {}", "multipleOf": "a multiple of {}",
    }  # fmt: skip
    return " and ".join(words.format(part[name]) for name, words in said.items() if name in part)


def _wanted(part: Schema) -> str:
    """What a schema asks for: "a whole number or null"."""
    said: list[str] = []
    for option in part.get("anyOf", (part,)):
        if "$ref" in option:
            said.append("an object")
        elif "enum" in option and option.get("type") == "string":
            said.append(f"one of {', '.join(map(shown, option['enum']))}")
        elif "type" in option and ("pattern" not in option or "anyOf" not in part):  # a pattern adds to the words
            kinds = option["type"] if isinstance(option["type"], list) else [option["type"]]
            said += (_kind(kind, option) for kind in kinds)
    return _listed(dict.fromkeys(said))


def _kind(kind: str, option: Schema) -> str:
    inner = option.get({"array": "items", "object": "additionalProperties"}.get(kind, ""), {})
    inside = inner.get("type") if isinstance(inner, Mapping) else None
    if not isinstance(inside, str):
        return WANTED[kind][0]
    count = f"{option['minItems']} " if "minItems" in option else ""
    return f"a list of {count}{WANTED[inside][1]}" if kind == "array" else f"an object of {WANTED[inside][1]}"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _is(value: Any) -> str:
    """A value with its type, as a message says it."""
    if value is None or isinstance(value, bool):
        return shown(value)
    kind = {str: "the text", int: "the number", float: "the number", list: "the list", dict: "the object"}
    return f"{kind.get(type(value), 'the')} {shown(value)}"
