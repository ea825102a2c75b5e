"""Chat templates: one, or several by name, from the three places a folder may keep them in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adaptool.tensors.ggml.values import KeyValues, Value, ValueType, array, text
from adaptool.tokenizers.files import TokenizerFiles

TEMPLATE = "tokenizer.chat_template"
NAMES = "tokenizer.chat_templates"


def chat_templates(files: TokenizerFiles) -> dict[str, Value]:
    """The folder's chat templates as GGUF keys: the named ones, their names, the default one.

    tokenizer_config.json comes first, then chat_template.jinja with its additional ones, then chat_template.json.
    """
    if not files.settings:
        return {}
    value = files.settings["chat_template"] if "chat_template" in files.settings else _beside(files)
    if isinstance(value, str):
        return {TEMPLATE: text(value)}
    if not isinstance(value, list):
        return {}
    named = {
        name: template
        for entry in value
        if isinstance(entry, Mapping) and (name := _name(entry)) and isinstance(template := entry.get("template"), str)
    }
    default = named.pop("default", None)
    keys = {f"{TEMPLATE}.{name}": text(template) for name, template in named.items()}
    if named:
        keys[NAMES] = array(ValueType.STRING, sorted(named))
    if default is not None:
        keys[TEMPLATE] = text(default)
    return keys


def template_files(keys: KeyValues) -> dict[str, bytes]:
    """The files that hold a GGUF's chat templates in a folder."""
    prefix = f"{TEMPLATE}."
    files = {}
    if isinstance(template := keys[TEMPLATE].data if TEMPLATE in keys else None, str):
        files["chat_template.jinja"] = template.encode("utf-8")
    for key, value in keys.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and re.fullmatch(r"\w{1,64}", name, re.ASCII) and isinstance(value.data, str):
            files[f"additional_chat_templates/{name}.jinja"] = value.data.encode("utf-8")
    return files


def _beside(files: TokenizerFiles) -> Any:
    """The template kept in a file of its own."""
    if (template := files.text("chat_template.jinja")) is not None:
        if not (names := files.templates()):
            return template
        others = [
            {"name": name.removesuffix(".jinja"), "template": files.text(f"additional_chat_templates/{name}")}
            for name in names
        ]
        return [{"name": "default", "template": template}, *others]
    return (files.mapping("chat_template.json") or {}).get("chat_template")


def _name(entry: Mapping[str, Any]) -> str:
    """A template's name with what a key cannot hold replaced."""
    name = entry.get("name")
    return re.sub(r"[^A-Za-z0-9]", "_", name) if isinstance(name, str) else ""
