"""What a base's name points at: a model on the hub, a path of one machine, an address, or nothing at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

Kind = Literal["hub", "address", "remote", "absolute", "climbing", "relative", "malformed"]
"""hub: an id. address: a URL no loader takes. remote: a store's. absolute, climbing (..), relative: paths."""

REMOTE = {"hf", "s3", "gs", "gcs", "az", "abfs", "abfss"}
"""Schemes that tools with a remote file system open; PEFT and transformers do not."""

CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\]([0-9a-f]{40})")
"""A model in the hub's cache."""

PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)(?:/(?:tree|blob|resolve)/.*|/)?"
)
"""A model's page on the hub."""


def kind_of(name: str) -> Kind:
    """What ``name`` is, from its text alone."""
    if scheme := re.match(r"([A-Za-z][\w+.-]*)://|git@|(?:www\.)?(?:huggingface\.co|hf\.co)/", name):
        return "remote" if scheme[1] and scheme[1].lower() in REMOTE else "address"
    if ".." in re.split(r"[/\\]", name):
        return "climbing"
    if re.match(r"[/\\~]|[A-Za-z]:[/\\]|%\w+%|\$\{?\w", name):
        return "absolute"
    if re.match(r"\.(?:[/\\]|$)", name) or "\\" in name or name.count("/") > 1 or name.endswith("/"):
        return "relative"
    if re.fullmatch(r"(?:[^/]{1,96}/)?[^/]{1,96}", name) and _hub_words(name):
        return "hub"
    return "malformed"


def _hub_words(name: str) -> bool:
    """The hub's own rule for both halves of an id (huggingface_hub's validate_repo_id)."""
    halves = all(re.fullmatch(r"\w(?:[\w.-]*\w)?", half, re.ASCII) for half in name.split("/"))
    return halves and "--" not in name and not name.endswith(".git")


def suggestion(name: str) -> tuple[str, str]:
    """The hub id a path or an address stands for, and its revision; "" where it does not say."""
    if found := CACHED.search(name):
        return f"{found[1]}/{found[2]}", found[3]
    page = PAGE.fullmatch(name)
    return (page[1] if page else "", "")


def is_model_here(name: str) -> bool:
    """Whether the path is a folder with a model's config on this machine; nothing of it is opened."""
    try:
        return (Path(name).expanduser() / "config.json").is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def without_login(address: str) -> str:
    """An address with what stands before its @ left out."""
    return re.sub(r"(?<=://)[^/@\s]*@", "…@", address)
