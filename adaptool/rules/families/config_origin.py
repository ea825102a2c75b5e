"""CFG400–CFG419 and CFG430–CFG439: which base, revision, PEFT and task the adapter says it is of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.schema import newest_release
from adaptool.rules.configs.whereabouts import Kind, is_model_here, kind_of, suggestion, without_login
from adaptool.rules.draft import fields
from adaptool.rules.families.config_type import version_of
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.jsons import shown

BASE = "base_model_name_or_path"

TASKS = ("CAUSAL_LM", "FEATURE_EXTRACTION", "QUESTION_ANS", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS")
"""peft.TaskType."""

BRANCHES = {"main", "master"}
"""Revisions that move."""


def _base(subject: Subject, *kinds: Kind) -> str | None:
    """The base's name where it is of one of these kinds."""
    name = subject.fields.get(BASE)
    return name if isinstance(name, str) and name.strip() and kind_of(name) in kinds else None


def _hub_id(name: str) -> str:
    """What to do, with the model's id where the name gives it away."""
    model, revision = suggestion(name)
    pinned = f', and "revision": "{revision}"' if revision else ""
    return f'Write "{BASE}": "{model}"{pinned}.' if model else ""


@rule("CFG401", "info", "no base model named", needs=("config",), breaks=fields(base_model_name_or_path=None))
def no_base(subject: Subject) -> Iterator[Problem]:
    """Without base_model_name_or_path nobody knows which weights the update belongs to.

    Fix: write the hub id of the model it was trained on.
    """
    name = subject.fields.get(BASE)
    if name is None:
        yield Problem(f"{CONFIG_NAME} does not say which base model it is for", CONFIG_NAME, BASE)
    elif isinstance(name, str) and not name.strip():
        yield Problem(f"{BASE} is empty", CONFIG_NAME, BASE, severity="warning")


@rule("CFG402", "warning", "base model is a path of one machine", needs=("config",),
      breaks=fields(base_model_name_or_path="/mnt/nobody/has/this/llama"))  # fmt: skip
def absolute_base(subject: Subject) -> Iterator[Problem]:
    """Loading resolves the base by this name: on another machine the path leads nowhere, or to another model.

    A network share (\\\\server\\…) is an error: merely to look there tells the server who asks.

    Fix: write the base's hub id, and its revision.
    """
    name = _base(subject, "absolute")
    if name is None or _is_own_folder(name, subject):
        return
    network = name.startswith(("\\\\", "//"))  # not even looked for: asking a share sends it the user's login
    here = not network and is_model_here(name)
    says = "exists on this machine only" if here else "is a path nobody else can find"
    says = "is a network share, to which Windows sends the user's login when it looks there" if network else says
    yield Problem(
        f"{BASE} {shown(name)} {says}", CONFIG_NAME, BASE, fix=_hub_id(name),
        severity="info" if here else "error" if network else None,
    )  # fmt: skip


@rule("CFG403", "error", "base model path climbs out of its folder", needs=("config",),
      breaks=fields(base_model_name_or_path="../../../etc/models"))  # fmt: skip
def climbing_base(subject: Subject) -> Iterator[Problem]:
    """A path with .. leads wherever the loader happens to run: at best nowhere, at worst into other files.

    Fix: write the base's hub id, and its revision.
    """
    name = _base(subject, "climbing")
    if name is not None and not _is_own_folder(name, subject):
        here = is_model_here(name)
        says = "leads to a model from this folder only" if here else "climbs out of the loader's folder"
        yield Problem(f"{BASE} {shown(name)} {says}", CONFIG_NAME, BASE, fix=_hub_id(name),
                      severity="warning" if here else None)  # fmt: skip


@rule("CFG404", "error", "base model is a web address", needs=("config",),
      breaks=fields(base_model_name_or_path="https://huggingface.co/meta-llama/Llama-3.2-1B"))  # fmt: skip
def address_base(subject: Subject) -> Iterator[Problem]:
    """transformers takes a hub id or a folder and refuses an address; other tools may fetch from wherever it points.

    Fix: write the base's hub id, as in "meta-llama/Llama-3.2-1B".
    """
    if (name := _base(subject, "address")) is not None:
        login = "with a login in it " if without_login(name) != name else ""
        message = f"{BASE} is the address {shown(without_login(name))} {login}and no hub id"
        yield Problem(message, CONFIG_NAME, BASE, fix=_hub_id(name))
    if (name := _base(subject, "remote")) is not None:
        message = f"{BASE} {shown(without_login(name))} is a remote path, which PEFT and transformers cannot open"
        yield Problem(message, CONFIG_NAME, BASE, severity="warning")


@rule("CFG405", "warning", "base model is a relative path", needs=("config",),
      breaks=fields(base_model_name_or_path="./llama-3"))  # fmt: skip
def relative_base(subject: Subject) -> Iterator[Problem]:
    """A relative path is looked for where the loader runs, not beside the adapter: others get an error.

    Fix: write the base's hub id, and its revision.
    """
    name = _base(subject, "relative")
    if name is not None and not _is_own_folder(name, subject):
        here = is_model_here(name)
        says = "is found from this folder only" if here else "is a relative path nobody else can find"
        yield Problem(f"{BASE} {shown(name)} {says}", CONFIG_NAME, BASE, fix=_hub_id(name),
                      severity="info" if here else None)  # fmt: skip


@rule("CFG406", "warning", "base model is no hub id", needs=("config",),
      breaks=fields(base_model_name_or_path="my llama, the good one"))  # fmt: skip
def malformed_base(subject: Subject) -> Iterator[Problem]:
    """The hub's names are letters, digits, - _ and ., with one slash; with letters that only look alike it is a trap.

    Fix: write the base's hub id as its page shows it.
    """
    if (name := _base(subject, "malformed")) is not None:
        foreign = sorted({character for character in name if not character.isascii()})
        lookalike = bool(foreign) and all(character.isalnum() for character in foreign)
        why = f" (it has {', '.join(f'U+{ord(c):04X}' for c in foreign[:4])})" if foreign else ""
        yield Problem(f"{BASE} {shown(name)} cannot be the id of a model{why}", CONFIG_NAME, BASE,
                      severity="error" if lookalike else None)  # fmt: skip


@rule(
    "CFG407", "error", "base model is the adapter itself", needs=("config",), breaks=fields(base_model_name_or_path=".")
)
def own_folder(subject: Subject) -> Iterator[Problem]:
    """An adapter that names its own folder as its base loads itself for ever, or fails.

    Fix: write the hub id of the model it was trained on.
    """
    name = _base(subject, "absolute", "climbing", "relative")
    if name is not None and _is_own_folder(name, subject):
        yield Problem(f"{BASE} {shown(name)} is the adapter's own folder", CONFIG_NAME, BASE)


@rule("CFG408", "warning", "tokenizer is a path or an address", needs=("config",),
      breaks=fields(tokenizer_name_or_path="/mnt/nobody/has/this"))  # fmt: skip
def tokenizer_place(subject: Subject) -> Iterator[Problem]:
    """Prompt tuning from a text fetches this tokenizer again when training goes on: it must be found, and be safe.

    Fix: write the tokenizer's hub id, usually the base's.
    """
    name, field = subject.fields.get("tokenizer_name_or_path"), "tokenizer_name_or_path"
    if isinstance(name, str) and name.strip() and name != subject.fields.get(BASE) and kind_of(name) != "hub":
        says = f"{field} {shown(without_login(name))} is no hub id"
        yield Problem(says, CONFIG_NAME, field, severity="info" if is_model_here(name) else None)


@rule("CFG410", "info", "base model's revision is not pinned", needs=("config",), breaks=fields(revision=None))
def unpinned(subject: Subject) -> Iterator[Problem]:
    """A model's main branch moves: the base fetched next year need not be the one this was trained on.

    Fix: write the commit of the base as "revision" (40 digits; its page on the hub shows it under Files).
    """
    name, revision = _base(subject, "hub"), subject.fields.get("revision")
    if name is not None and (revision is None or revision in ("", *BRANCHES)):
        says = f"only names the branch {revision}" if revision else "is not pinned"
        yield Problem(f"the revision of {shown(name)} {says}", CONFIG_NAME, "revision")


@rule(
    "CFG411",
    "warning",
    "revision is no branch, tag or commit",
    needs=("config",),
    breaks=fields(revision="last week's"),
)
def revision_form(subject: Subject) -> Iterator[Problem]:
    """git refuses such names, so no branch, tag or commit is called that; a leading - or .. reaches for more.

    Fix: write the base's commit, 40 digits.
    """
    revision = subject.fields.get("revision")
    if not isinstance(revision, str) or not revision:
        return
    hostile = revision.startswith(("-", "/")) or ".." in revision or any(ord(c) < 32 for c in revision)
    if hostile or not _is_ref(revision):
        yield Problem(f"revision {shown(revision)} is no name git allows", CONFIG_NAME, "revision",
                      severity="error" if hostile else None)  # fmt: skip
    elif re.fullmatch(r"[0-9a-f]{30,39}|[0-9a-f]{41,63}", revision):
        yield Problem(f"revision has {len(revision)} digits; a commit has 40", CONFIG_NAME, "revision")


def _is_ref(name: str) -> bool:
    """git check-ref-format, of one level or more."""
    parts = name.split("/")
    return (
        len(name) <= 250
        and re.search(r"[\x00-\x20\x7f~^:?*\[\\'\"]|@\{|\.\.", name) is None
        and name != "@"
        and not name.endswith(".")
        and all(part and not part.startswith(".") and not part.endswith(".lock") for part in parts)
    )


@rule(
    "CFG430", "info", "saved by a newer PEFT than is known here", needs=("config",), breaks=fields(peft_version="9.1.0")
)
def newer_peft(subject: Subject) -> Iterator[Problem]:
    """A newer PEFT may have brought fields that change what the adapter does, and that these rules do not know.

    Fix: update adaptool.
    """
    version = version_of(subject.fields.get("peft_version"))
    if version is not None and version > newest_release():
        known = ".".join(map(str, newest_release()))
        message = f"PEFT {shown(subject.fields['peft_version'])} saved it; these rules know PEFT up to {known}"
        yield Problem(message, CONFIG_NAME, "peft_version")


@rule("CFG431", "warning", "peft_version is no version", needs=("config",), breaks=fields(peft_version="banana"))
def odd_version(subject: Subject) -> Iterator[Problem]:
    """The layout of some adapters is read by this version; PEFT writes it as in "0.18.1".

    Fix: delete the field, or write the version it was trained with.
    """
    value = subject.fields.get("peft_version")
    if value is not None and version_of(value) is None:
        yield Problem(f"peft_version is {shown(value)}", CONFIG_NAME, "peft_version")


@rule("CFG432", "error", "unknown task_type", needs=("config",), breaks=fields(task_type="CAUSALLM"))
def unknown_task(subject: Subject) -> Iterator[Problem]:
    """PEFT raises ValueError for a task it does not have; it compares in capitals.

    Fix: write one of CAUSAL_LM, SEQ_2_SEQ_LM, SEQ_CLS, TOKEN_CLS, QUESTION_ANS, FEATURE_EXTRACTION, or null.
    """
    import difflib

    value = subject.fields.get("task_type")
    if isinstance(value, str) and value not in TASKS:
        near = difflib.get_close_matches(value.upper()[:40], TASKS, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        yield Problem(f"task_type {shown(value)} is none of PEFT's{guess}", CONFIG_NAME, "task_type")


def _is_own_folder(name: str, subject: Subject) -> bool:
    try:
        own = subject.folder.resolve()
        return (
            name.rstrip("/\\") in (".", "") or Path(name).resolve() == own or (subject.folder / name).resolve() == own
        )
    except (OSError, ValueError, RuntimeError):
        return False
