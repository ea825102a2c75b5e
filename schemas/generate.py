"""Write adapter_config.json's JSON Schema from PEFT's own config classes, in every release of PEFT.

    pip download --no-deps -d WHEELS peft==0.21.2     (and so for every release)
    python schemas/generate.py WHEELS

The classes are read as syntax trees, never imported: old releases need libraries long gone. Each field gets its type
and default from the newest release, and under "x-peft" the release it came with, the last one that had it, and its
defaults where they changed. What source code cannot tell is in adapter_config.toml.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMA = HERE / "adapter_config.json"
FACTS: dict[str, dict[str, Any]] = tomllib.loads((HERE / "adapter_config.toml").read_text("utf-8"))
BASE = "PeftConfig"
"""The class whose fields every PEFT type has."""

SIMPLE = {"int": "integer", "float": "number", "str": "string", "bool": "boolean", "dict": "object", "list": "array",
          "Dict": "object", "List": "array", "set": "array", "tuple": "array", "None": "null"}  # fmt: skip
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a config class."""

    annotation: ast.expr
    default: Any
    """As JSON."""


@dataclass(frozen=True, slots=True)
class Release:
    """The config classes of one PEFT."""

    version: str
    types: Mapping[str, Mapping[str, Field]]
    """By PEFT type, every field, inherited ones first."""
    nested: Mapping[str, Mapping[str, Field]]
    """By class: configs inside a config, and PeftConfig."""
    tasks: tuple[str, ...]


def wheels(folder: Path) -> list[Release]:
    """Every release there is a wheel of, oldest first."""
    found = sorted(folder.glob("peft-*.whl"), key=lambda path: key(path.name.split("-")[1]))
    return [read_release(path.name.split("-")[1], _sources(path)) for path in found]


def _sources(wheel: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("peft/") and name.endswith(".py"):
                yield name, archive.read(name).decode()


def installed(package: Path, version: str) -> Release:
    """The release whose package lies in a folder."""
    names = sorted(package.rglob("*.py"))
    return read_release(version, ((path.relative_to(package.parent).as_posix(), path.read_text()) for path in names))


def key(version: str) -> tuple[int, ...]:
    """Orders versions: "0.9.0" before "0.10.0"."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def read_release(version: str, sources: Iterable[tuple[str, str]]) -> Release:
    """A release from its files, some of which old wheels hold twice: the deeper one is the one Python imports."""
    classes: dict[str, ast.ClassDef] = {}
    for _, text in sorted(sources, key=lambda file: (file[0].count("/"), file[0] != "peft/utils/config.py")):
        if re.search(r"^class (\w*Config\b|.*Enum\))", text, re.MULTILINE):
            classes |= {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    named = {name: node for name, node in classes.items() if _is_config(name, classes)}
    types: dict[str, Mapping[str, Field]] = {}
    for name, node in named.items():
        found = re.search(r"self\.peft_type = PeftType\.(\w+)", ast.unparse(node))
        if found:
            types[found[1]] = fields(name, classes)
    nested = [name for name, node in classes.items() if re.fullmatch(r"[A-Z]\w*Config", name) and not node.bases]
    plain = {name: fields(name, classes) for name in (BASE, *nested) if classes[name].decorator_list}
    return Release(version, types, plain, tuple(_enum(classes["TaskType"])))


def _is_config(name: str, classes: Mapping[str, ast.ClassDef]) -> bool:
    node = classes.get(name)
    return name == BASE or (node is not None and any(_is_config(ast.unparse(b), classes) for b in node.bases))


def fields(name: str, classes: Mapping[str, ast.ClassDef]) -> dict[str, Field]:
    """The fields of a class and of those it inherits from."""
    node = classes.get(name)
    if node is None:
        return {}
    found: dict[str, Field] = {}
    for base in node.bases:
        found |= fields(ast.unparse(base), classes)
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found[line.target.id] = Field(line.annotation, _default(line.value, classes))
    return found


def _default(value: ast.expr | None, classes: Mapping[str, ast.ClassDef]) -> Any:
    """A default as PEFT saves it: an enum's value, a nested config as its own defaults."""
    if isinstance(value, ast.Tuple) and value.elts:  # 0.19's nblocks has a comma too many
        return _default(value.elts[0], classes)
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field"):
        given = {word.arg: word.value for word in value.keywords}
        factory = given.get("default_factory")
        if factory is None:
            return _default(given.get("default"), classes)
        made = ast.unparse(factory)
        return {"list": []}.get(made, {name: field.default for name, field in fields(made, classes).items()})
    if isinstance(value, ast.Attribute) and ast.unparse(value.value) in classes:
        return _enum(classes[ast.unparse(value.value)], value.attr)[0]
    return None if value is None else ast.literal_eval(value)


def _enum(node: ast.ClassDef, member: str | None = None) -> list[str]:
    values = {ast.unparse(line.targets[0]): ast.literal_eval(line.value) for line in node.body
              if isinstance(line, ast.Assign)}  # fmt: skip
    return [value for name, value in values.items() if member in (None, name)]


def shape(annotation: ast.expr) -> Schema:
    """The JSON Schema of an annotation, in whichever of Python's notations."""
    options: list[Schema] = []
    for option in _options(annotation):
        if option not in options:
            options.append(option)
    if any("$ref" in option for option in options):  # "a config of this class, or any dict"
        options = [option for option in options if option != {"type": "object"}]
    bare = [option for option in options if set(option) <= {"type", "items"} and not isinstance(option["type"], list)]
    if len(bare) == len(options) > 1 and sum("items" in option for option in bare) < 2:
        items = {word: value for option in bare for word, value in option.items() if word != "type"}
        return {"type": [option["type"] for option in bare], **items}
    return options[0] if len(options) == 1 else {"anyOf": options}


def _options(node: ast.expr) -> Iterator[Schema]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from _options(ast.parse(node.value, mode="eval").body)
    elif isinstance(node, ast.BinOp):
        yield from (*_options(node.left), *_options(node.right))
    elif isinstance(node, ast.Subscript):
        yield from _generic(ast.unparse(node.value).removeprefix("typing."), node.slice)
    else:
        name = ast.unparse(node)
        if name in SIMPLE:
            yield {"type": SIMPLE[name]}
        elif name.endswith("Config"):
            yield {"$ref": f"#/$defs/{name}"}


def _generic(name: str, inside: ast.expr) -> Iterator[Schema]:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if name == "Literal":
        yield {"type": "string", "enum": [ast.literal_eval(part) for part in parts]}
    elif name in ("Optional", "Union"):
        for part in parts:
            yield from _options(part)
        if name == "Optional":
            yield {"type": "null"}
    elif name in ("list", "List"):
        yield {"type": "array", "items": shape(parts[0])}
    elif name in ("dict", "Dict"):
        yield {"type": "object", "additionalProperties": shape(parts[1])}


def schema(releases: list[Release]) -> Schema:
    """The whole schema, from every release, oldest first."""
    newest = releases[-1]
    names = sorted({name for release in releases for name in release.types})
    nested = sorted(set(newest.nested) - {BASE})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "adapter_config.json",
        "title": "adapter_config.json: the settings of a PEFT adapter",
        "description": f"Every PEFT type and field up to PEFT {newest.version}, with what earlier releases wrote.",
        "x-peft": {"version": newest.version, "first": releases[0].version},
        "type": "object",
        "required": ["peft_type"],
        "properties": {"peft_type": {"type": "string", "enum": names, "description": FACTS["words"]["peft_type"]}},
        "allOf": [
            {"if": {"properties": {"peft_type": {"const": name}}, "required": ["peft_type"]},
             "then": {"$ref": f"#/$defs/{name}"}} for name in names
        ],
        "$defs": {
            BASE: _class(BASE, [(release.version, release.nested[BASE]) for release in releases], newest),
            **{name: _type(name, releases) for name in names},
            **{name: _class(name, [(r.version, r.nested.get(name, {})) for r in releases], newest) for name in nested},
        },
    }  # fmt: skip


def _type(name: str, releases: list[Release]) -> Schema:
    history = [(release.version, release.types.get(name, {})) for release in releases]
    return {"allOf": [{"$ref": f"#/$defs/{BASE}"}]} | _class(name, history, releases[-1])


def _class(home: str, history: list[tuple[str, Mapping[str, Field]]], newest: Release) -> Schema:
    """A PEFT type's or a nested config's part: its fields through all releases."""
    there = [version for version, found in history if found]
    inherited = set() if home == BASE or home in newest.nested else set(newest.nested[BASE])
    order = {name: None for _, found in reversed(history) for name in found if name not in inherited}
    words = FACTS["types"].get(home)
    since = {"since": there[0]} | ({} if there[-1] == newest.version else {"until": there[-1]})
    return {
        "title": home, **({"description": words} if words else {}), "x-peft": since,
        **({} if there[-1] == newest.version else {"deprecated": True}),
        "type": "object", "properties": {name: _field(home, name, history, newest) for name in order},
    }  # fmt: skip


def _field(home: str, name: str, history: list[tuple[str, Mapping[str, Field]]], newest: Release) -> Schema:
    there = [(version, found[name]) for version, found in history if name in found]
    last = there[-1][1]
    made = _shape(home, name, last, newest)
    changes: dict[str, Any] = {}
    for version, field in there:
        if not changes or field.default != list(changes.values())[-1]:
            changes[version] = field.default
    last_of_home = [version for version, found in history if found][-1]
    known: Schema = {"since": there[0][0]}
    if there[-1][0] != last_of_home:
        known["until"] = there[-1][0]
    if len(changes) > 1:
        known["defaults"] = changes
    plain = name if not _is_dropout(name) or name in FACTS["words"] else "dropout"
    words = FACTS["words"].get(f"{home}.{name}") or FACTS["words"].get(plain)
    return made | {
        "default": last.default, **({"description": words} if words else {"title": name}),
        **({"deprecated": True} if "until" in known else {}), "x-peft": known,
    }  # fmt: skip


def _shape(home: str, name: str, field: Field, newest: Release) -> Schema:
    """What a field may hold: by hand where PEFT's annotation is not the truth; null where that is the default."""
    own = FACTS["bias"].get(home) if name == "bias" else None
    if name == "peft_type":
        made: Schema = {"type": "string"}
    elif name == "task_type":
        made = {"anyOf": [{"type": "string", "enum": list(newest.tasks)}, {"type": "null"}]}
    elif own:
        words = {"type": "string", "enum": ["none", "all", own]}
        made = {"anyOf": [words, {"type": "string", "pattern": "^.+_only$"}]}
    else:
        facts = FACTS["shapes"]
        given = facts.get(f"{home}.{name}", facts.get(name))
        made = dict(shape(field.annotation) if given is None else given)
    limits = FACTS["limits"]
    usual = limits["dropout"] if _is_dropout(name) else {}
    made |= limits.get(f"{home}.{name}", limits.get(name, usual))
    return _or_null(made) if field.default is None else made


def _or_null(made: Schema) -> Schema:
    if "type" in made and "enum" not in made:
        kinds = made["type"] if isinstance(made["type"], list) else [made["type"]]
        return made | {"type": kinds if "null" in kinds else [*kinds, "null"]}
    options = made.get("anyOf", [made] if made else [])
    takes = any("null" in option.get("type", ()) for option in options)
    return made if takes or not made else {"anyOf": [*options, {"type": "null"}]}


def _is_dropout(name: str) -> bool:
    """A share of inputs dropped in training, which every type has under its own name."""
    return name.endswith("_dropout") or name == "xlora_dropout_p"


def text(value: Any, depth: int = 0) -> str:
    """JSON with one field of a config on one line, so that a diff of two releases reads."""
    if depth == 4 or not isinstance(value, dict | list) or not value or (depth and not _long(value)):
        return json.dumps(value, ensure_ascii=False)
    pad, ends = " " * (depth + 1), "{}" if isinstance(value, dict) else "[]"
    rows = ([f"{json.dumps(name)}: {text(part, depth + 1)}" for name, part in value.items()]
            if isinstance(value, dict) else [text(part, depth + 1) for part in value])  # fmt: skip
    return ends[0] + "\n" + ",\n".join(pad + row for row in rows) + "\n" + " " * depth + ends[1]


def _long(value: Any) -> bool:
    return len(json.dumps(value)) > 100


if __name__ == "__main__":
    SCHEMA.write_text(text(schema(wheels(Path(sys.argv[1])))) + "\n", "utf-8")
