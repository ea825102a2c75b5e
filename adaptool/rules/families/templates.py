"""FIL400–FIL499: chat templates, parsed and never rendered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptool.errors import AdaptoolError
from adaptool.rules.draft import file
from adaptool.rules.files.texts import walk
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.summary.beside import MOST_FILES
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json, shown

if TYPE_CHECKING:
    from adaptool.rules.jinja.inspection import Kind, Sight

SUFFIXES = (".jinja", ".jinja2", ".j2")
HOLDERS = {"tokenizer_config.json", "chat_template.json", "processor_config.json", "preprocessor_config.json",
           "chat_templates.json", "generation_config.json"}  # fmt: skip
"""JSON files that tokenizers and processors read a template from."""

FIELD = re.compile(r"(?:default_)?chat_templates?")

TEMPLATE_LIMIT, TOTAL_LIMIT, HOLDER_LIMIT = 48 << 10, 96 << 10, 16 << 20
"""Characters of one template and of all that are looked at, and bytes of a JSON file with one in it.

The longest templates in use have 20 000, a tokenizer has one to five; its config, with its tokens, has megabytes.
"""


@dataclass(frozen=True, slots=True)
class Inspected:
    """One template and what it does, or why it could not be read."""

    where: str
    file: str
    sights: tuple[Sight, ...]
    unread: str = ""
    nbytes: int = 0


def inspected(subject: Subject) -> tuple[Inspected, ...]:
    """Every template beside the weights, parsed once."""
    return subject.once("templates", lambda: tuple(_inspected(subject)))


def _inspected(subject: Subject) -> Iterator[Inspected]:
    known: dict[str, tuple[Sight, ...]] = {}
    for name, where, source in _sources(subject):
        if isinstance(source, AdaptoolError):
            yield Inspected(where, name, (), source.message.split(": ", 1)[-1])
        elif len(source) > TEMPLATE_LIMIT or (source not in known and sum(map(len, (source, *known))) > TOTAL_LIMIT):
            yield Inspected(where, name, (), nbytes=len(source))
        else:
            from adaptool.rules.jinja.parse import inspect

            known[source] = known[source] if source in known else inspect(source)
            yield Inspected(where, name, known[source])


def _sources(subject: Subject) -> Iterator[tuple[str, str, str | AdaptoolError]]:
    """Every template: its file, its place in words, and its text or why it cannot be read."""
    for number, name in enumerate(walk(subject.folder)):
        own = name.rpartition("/")[2].lower()
        if number == MOST_FILES:
            return
        if own.endswith(SUFFIXES):
            try:
                text: str | AdaptoolError = (
                    open_file(subject.folder / name).read_all(HOLDER_LIMIT).decode("utf-8", "replace")
                )
            except AdaptoolError as error:
                text = error
            yield name, name, text
        elif own in HOLDERS:
            yield from _held(subject, name)
    store = subject.store_opened.value
    for key, value in {}.items() if store is None else store.metadata.items():
        if FIELD.search(key):
            yield subject.weights_name, f"__metadata__.{key} of {subject.weights_name}", value


def _held(subject: Subject, name: str) -> Iterator[tuple[str, str, str | AdaptoolError]]:
    """The templates of a JSON file; of one that is no sound JSON, those a lenient parser finds."""
    try:
        data = open_file(subject.folder / name).read_all(HOLDER_LIMIT)
        document = parse_json(data, name)
    except AdaptoolError as error:
        if b"chat_template" in name.encode() or error.defect in ("too-large", "too-deep", ""):
            yield name, name, error
        elif b"chat_template" in data:
            yield name, name, error
            yield from _found(name, _lenient(data))
        return
    yield from _found(name, document)


def _lenient(data: bytes) -> Any:
    """All the values of every key: a parser may take either of two equal ones."""
    found: dict[str, list[Any]] = {}

    def gather(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, value in pairs:
            if FIELD.fullmatch(key):
                found.setdefault(key, []).append(value)
        return dict(pairs)

    try:
        json.loads(data.decode("utf-8-sig", "replace"), object_pairs_hook=gather)
    except (ValueError, RecursionError):
        return {}
    return {"chat_template": [{"name": "repeated", "template": value} for values in found.values() for value in values]}


def _found(name: str, document: Any) -> Iterator[tuple[str, str, str | AdaptoolError]]:
    if isinstance(document, str):
        document = {"chat_template": document}
    if not isinstance(document, dict):
        return
    for key, value in document.items():
        if not FIELD.fullmatch(key):
            continue
        named: list[tuple[Any, Any]] = [("", value)]
        if isinstance(value, dict):
            named = list(value.items())
        elif isinstance(value, list):
            named = [(entry.get("name"), entry.get("template")) for entry in value if isinstance(entry, dict)]
        for label, source in named:
            if isinstance(source, str):
                yield name, f"{key}{f' {shown(label)}' if label else ''} of {name}", source


def _told(subject: Subject, *kinds: Kind) -> Iterator[Problem]:
    """One problem for each template with such a sight: the first, and how many more."""
    for template in inspected(subject):
        sights = [sight for sight in template.sights if sight.kind in kinds]
        if sights:
            more = f" (and {len(sights) - 1} more places)" if len(sights) > 1 else ""
            message = f"{template.where}, line {sights[0].line}: {sights[0].what}{more}"
            yield Problem(message, template.file)


def template(source: str) -> Any:
    """The mutation that puts a chat template beside the weights."""
    return file("chat_template.jinja", source.encode())


@rule("FIL401", "error", "a chat template reaches into Python",
      breaks=template("{{ ''.__class__.__mro__[1].__subclasses__() }}"))  # fmt: skip
def reaches_internals(subject: Subject) -> Iterator[Problem]:
    """From any value's __class__ a template finds its way to os.system; a renderer without a sandbox runs it.

    transformers renders in a sandbox, other tools do not, and sandboxes have had holes. Names put together from pieces
    ('__cla' ~ 'ss__', |attr, "%c") are followed too.

    Fix: do not load the tokenizer; take the template of the base model.
    """
    yield from _told(subject, "internals")


@rule("FIL402", "error", "a chat template uses what no conversation has",
      breaks=template("{{ request.application }}"))  # fmt: skip
def uses_strangers(subject: Subject) -> Iterator[Problem]:
    """request, self, lipsum, cycler and the like are where attacks on templates start from; a chat needs none.

    Fix: do not load the tokenizer; take the template of the base model.
    """
    yield from _told(subject, "stranger")


@rule("FIL403", "error", "a chat template loads other files", breaks=template("{% include '/etc/passwd' %}"))
def loads_files(subject: Subject) -> Iterator[Problem]:
    """include, import and extends read another file wherever the renderer lets them; a chat template stands alone.

    Fix: put the template into one file.
    """
    yield from _told(subject, "loads")


@rule("FIL404", "error", "a chat template runs away",
      breaks=template("{% for i in range(10 ** 9) %}x{% endfor %}"))  # fmt: skip
def runs_away(subject: Subject) -> Iterator[Problem]:
    """Loops of millions of rounds and texts of gigabytes stop the server that renders them for its first request.

    Fix: do not load the tokenizer; take the template of the base model.
    """
    yield from _told(subject, "runaway")


@rule("FIL405", "warning", "a chat template is not valid Jinja", breaks=template("{% if messages %}"))
def not_jinja(subject: Subject) -> Iterator[Problem]:
    """Every chat with this tokenizer fails with the parser's error.

    Fix: correct the line, or take the template of the base model.
    """
    yield from _told(subject, "syntax")


@rule("FIL406", "error", "a chat template too large or deep to check",
      breaks=template("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}"))  # fmt: skip
def too_large(subject: Subject) -> Iterator[Problem]:
    """A template has a few kilobytes; brackets by the thousand and megabytes of text only serve to break its readers.

    Fix: do not load the tokenizer; take the template of the base model.
    """
    yield from _told(subject, "deep")
    for template in inspected(subject):
        if template.nbytes > TEMPLATE_LIMIT:
            message = f"{template.where} has {template.nbytes} characters; {TEMPLATE_LIMIT} are looked at most"
            yield Problem(message, template.file)
        elif template.nbytes:
            yield Problem(
                f"{template.where} is not looked at: the others have {TOTAL_LIMIT} characters already", template.file
            )


@rule("FIL407", "warning", "a file with a chat template cannot be read",
      breaks=file("tokenizer_config.json", b'{"chat_template": "{{ 1 }}", "chat_template": "{{ 2 }}"}'))  # fmt: skip
def unreadable(subject: Subject) -> Iterator[Problem]:
    """What one parser refuses another may read otherwise: the template in it was not, or not surely, looked at.

    Fix: save the tokenizer again.
    """
    for template in inspected(subject):
        if template.unread:
            yield Problem(f"{template.where}: {template.unread}", template.file)
