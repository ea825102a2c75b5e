"""CFG001–CFG019: adapter_config.json as JSON."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Iterator

from adaptool.adapters.config import CONFIG_LIMIT, CONFIG_NAME
from adaptool.rules.configs.document import DEEPEST, MOST_PLACES, config_places, repeated_keys
from adaptool.rules.draft import Draft, fields, file
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.jsons import shown

LFS_POINTER = b"version https://git-lfs"

LARGEST_INTEGER = 2**64
"""Beyond, parsers that read numbers into 64 bits refuse the file or round."""

INVISIBLE = {0xAD, 0x180E, 0x2060, 0xFEFF, 0x2028, 0x2029} | {*range(0x200B, 0x2010)} | {*range(0xE0000, 0xE0080)}
"""Soft hyphen, zero widths, marks of direction, line separators, tags: text with them is not what it looks like."""

OVERRIDES = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
"""Bidirectional overrides and isolates: text with them reads in another order than it runs."""

MOST = 10
"""Findings of one rule about one file: more say nothing new."""

PROSE = {"prompt_tuning_init_text"}
"""Fields of running text, in any script and of many lines."""


def preceded(by: str, encoding: str = "utf-8") -> Callable[[Draft], object]:
    """The mutation that puts text before the config's first field."""
    return lambda draft: draft.files.update({
        CONFIG_NAME: ("{" + by + json.dumps(draft.config, indent=2)[1:]).encode(encoding)
    })  # fmt: skip


def damage(subject: Subject) -> str:
    """The one word for why the config is no JSON; "" where it is, and where another family says what it is."""
    error, data = subject.strict_config.error, subject.config_bytes.value
    if error is None:
        return ""
    if data is None or data.startswith(LFS_POINTER):
        return error.defect if error.defect == "too-large" else ""
    if not data.strip(b" \t\r\n\0"):
        return "empty"
    if error.defect == "byte-order-mark" and not data.startswith(b"\xef\xbb\xbf"):
        return "not-utf8"
    if error.defect == "not-json" and b"\0" in data[:4]:
        return "not-utf8"
    return error.defect or "not-object"


def _words(subject: Subject) -> str:
    """The parser's own words, without the file's name."""
    error = subject.strict_config.error
    return "" if error is None else error.message.split(": ", 1)[-1].removeprefix("the config ")


@rule("CFG001", "error", "empty config", breaks=file(CONFIG_NAME, b""))
def empty(subject: Subject) -> Iterator[Problem]:
    """An interrupted save or a full disk leaves a file with nothing in it, or with zeros.

    Fix: copy adapter_config.json again from where the adapter was trained.
    """
    if damage(subject) == "empty":
        data = subject.config_bytes.value or b""
        what = "nothing but blanks or zeros" if data else "nothing"
        yield Problem(f"{CONFIG_NAME} holds {what} ({len(data)} bytes)", CONFIG_NAME)


@rule("CFG002", "error", "config is not JSON", breaks=file(CONFIG_NAME, b'{"peft_type": "LORA",}'))
def not_json(subject: Subject) -> Iterator[Problem]:
    """A cut, hand-edited or overwritten config cannot be read by any library.

    Fix: correct the line (no trailing commas, no comments, double quotes), or save the adapter again.
    """
    if damage(subject) == "not-json":
        yield Problem(f"{CONFIG_NAME} {_words(subject)}", CONFIG_NAME)


@rule("CFG003", "error", "config is not UTF-8", breaks=file(CONFIG_NAME, '{"peft_type": "LORA"}'.encode("utf-16")))
def not_utf8(subject: Subject) -> Iterator[Problem]:
    """JSON is UTF-8; PEFT opens the file as UTF-8 text and fails, other readers take other characters from it.

    Fix: save it as UTF-8 (PowerShell's > writes UTF-16).
    """
    if damage(subject) == "not-utf8":
        data = subject.config_bytes.value or b""
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]
        yield Problem(
            f"{CONFIG_NAME} is UTF-16 or UTF-32" if utf16 else f"{CONFIG_NAME} {_words(subject)}", CONFIG_NAME
        )


@rule("CFG004", "error", "config starts with a byte order mark", breaks=preceded("", "utf-8-sig"))
def byte_order_mark(subject: Subject) -> Iterator[Problem]:
    """Python's json, and PEFT with it, refuses text that starts with a byte order mark.

    Fix: save it as UTF-8 without a BOM.
    """
    if damage(subject) == "byte-order-mark":
        yield Problem(f"{CONFIG_NAME} starts with a byte order mark, which PEFT's parser refuses", CONFIG_NAME)


@rule("CFG005", "error", "a key stands twice in the config", breaks=preceded('"lora_alpha": 4096,'))
def duplicate_key(subject: Subject) -> Iterator[Problem]:
    """Of two equal keys Python takes the last, other parsers the first, and some refuse: the same file, two adapters.

    Fix: delete the one that is wrong.
    """
    if damage(subject) == "duplicate-key":
        for twice in repeated_keys(subject.config_bytes.value or b"")[:MOST]:
            first, last = shown(twice.values[0]), shown(twice.values[-1])
            differ = f"PEFT takes the last, {last}, other parsers the first, {first}" if first != last else "all equal"
            times = f"{shown(twice.key)} stands {len(twice.values)} times"
            yield Problem(f"{times}: {differ}", CONFIG_NAME, twice.key)


@rule("CFG006", "error", "NaN or Infinity in the config", breaks=fields(lora_dropout=math.nan))
def nan_literal(subject: Subject) -> Iterator[Problem]:
    """JSON has no NaN: Python reads it, every other parser refuses the file, and what it scales becomes NaN.

    Fix: put the number that was meant.
    """
    if damage(subject) == "nan-literal":
        found = [place for place in config_places(subject) if isinstance(place.value, float)]
        where = [place.path for place in found if not math.isfinite(place.value)]
        more = f" in {', '.join(where[:3])}" if where else ""
        yield Problem(f"{CONFIG_NAME} {_words(subject)}{more}", CONFIG_NAME, where[0] if where else "")


@rule("CFG007", "error", "config is not a JSON object", breaks=file(CONFIG_NAME, b'[{"peft_type": "LORA"}]'))
def not_object(subject: Subject) -> Iterator[Problem]:
    """A config is one object, {"peft_type": …}; a list, a text or a number is none.

    Fix: save the adapter again; save_pretrained writes an object.
    """
    if damage(subject) == "not-object":
        yield Problem(f"{CONFIG_NAME} is JSON, and not an object", CONFIG_NAME)


@rule("CFG008", "error", "config nested absurdly deep", breaks=file(
    CONFIG_NAME, b'{"peft_type": "LORA", "eva_config": ' + b"[" * 5000 + b"]" * 5000 + b"}"))  # fmt: skip
def too_deep(subject: Subject) -> Iterator[Problem]:
    """Brackets by the thousand crash recursive parsers; no library writes such a config.

    Fix: do not load it; take the adapter from its author again.
    """
    if damage(subject) == "too-deep":
        yield Problem(f"{CONFIG_NAME} is nested deeper than a parser follows", CONFIG_NAME)
    deep = next((place for place in config_places(subject) if place.depth > DEEPEST), None)
    if deep is not None:
        field = deep.path.split(".")[0]
        yield Problem(f"{shown(field)} is nested more than {DEEPEST} levels deep", CONFIG_NAME, field)


@rule("CFG009", "error", "config far too large", breaks=file(CONFIG_NAME, b"{" + b" " * CONFIG_LIMIT + b"}"))
def too_large(subject: Subject) -> Iterator[Problem]:
    """A config has a few kilobytes; one of megabytes is another file, or made to fill a parser's memory.

    Fix: check that it is the config at all (weights saved under its name?).
    """
    if damage(subject) == "too-large":
        size = (subject.folder / CONFIG_NAME).stat().st_size
        yield Problem(f"{CONFIG_NAME} has {size} bytes; {CONFIG_LIMIT} are read at most", CONFIG_NAME)
    if len(config_places(subject)) >= MOST_PLACES:
        yield Problem(f"{CONFIG_NAME} holds {MOST_PLACES} values or more; the rest is not looked at", CONFIG_NAME)


@rule("CFG010", "error", "a number no parser agrees on", breaks=fields(lora_alpha=10**30))
def huge_number(subject: Subject) -> Iterator[Problem]:
    """Integers beyond 64 bits and floats that overflow are read differently, or refused, from parser to parser.

    Fix: put the number that was meant.
    """
    if damage(subject) == "huge-number":
        yield Problem(f"{CONFIG_NAME} holds an integer of thousands of digits", CONFIG_NAME)
    if damage(subject) not in ("", "duplicate-key"):
        return
    for place in config_places(subject):
        value = place.value
        if isinstance(value, float) and not math.isfinite(value):
            yield Problem(
                f"{place.path} is a number too large for a float: it is read as {value}", CONFIG_NAME, place.path
            )
        elif isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST_INTEGER:
            digits = int(math.log10(abs(value))) + 1
            yield Problem(f"{place.path} is an integer of {digits} digits, beyond 64 bits", CONFIG_NAME, place.path)


@rule("CFG011", "error", "half a character in the config", breaks=preceded(r'"note": "\ud800",'))
def lone_surrogate(subject: Subject) -> Iterator[Problem]:
    r"""A lone surrogate (\ud800) is no character: what reads it cannot write it, or name a file by it.

    Fix: correct the text; \uXXXX escapes above FFFF come in pairs.
    """
    if damage(subject) == "lone-surrogate":
        yield Problem(f"{CONFIG_NAME} {_words(subject)}", CONFIG_NAME)


@rule("CFG012", "error", "control or invisible characters in the config", needs=("config",),
      breaks=fields(base_model_name_or_path="HuggingFaceTB/SmolLM2-135M\u202e"))  # fmt: skip
def unprintable(subject: Subject) -> Iterator[Problem]:
    """Escape codes rewrite a terminal, zero-width and direction marks make one name look like another.

    Fix: delete the characters, and ask where the file comes from.
    """
    if damage(subject) == "lone-surrogate":
        return
    for place in config_places(subject):
        if place.key is not None and (sign := _unprintable(place.key, prose=False)):
            yield Problem(f"the key {shown(place.key)} holds {sign}", CONFIG_NAME, place.path)
        if isinstance(place.value, str) and (sign := _unprintable(place.value, prose=place.path in PROSE)):
            yield Problem(f"{shown(place.path)} holds {sign}: {shown(place.value)}", CONFIG_NAME, place.path)


def _unprintable(text: str, *, prose: bool) -> str:
    """The first character that does not show, as a message names it; "" where all do."""
    if text.isascii() and text.isprintable():
        return ""
    for character in text:
        code = ord(character)
        control = unicodedata.category(character) == "Cc" and not (prose and character in "\n\r\t")
        if control or code in OVERRIDES or (code in INVISIBLE and not prose):
            name = unicodedata.name(character, "a control character").lower()
            return f"U+{code:04X} ({name})"
    return ""
