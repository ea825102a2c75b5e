"""CFG420–CFG429: what in a config would make a loader import or run code."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator
from typing import Any

from adaptool.adapters.config import CONFIG_NAME
from adaptool.rules.configs.document import config_places
from adaptool.rules.draft import fields
from adaptool.rules.finding import Problem, Severity
from adaptool.rules.jinja.words import DUNDERS
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.jsons import shown

LIBRARIES = {
    "accelerate", "adapters", "colpali_engine", "diffusers", "flair", "gliner", "lerobot", "megatron", "nemo",
    "open_clip", "optimum", "peft", "pylate", "sentence_transformers", "setfit", "speechbrain", "timm",
    "torch", "torchaudio", "torchvision", "transformers", "trl", "unsloth", "unsloth_zoo",
}  # fmt: skip
"""Where the classes of base models live; peft.auto has a shorter list of its own, and imports from no other."""

LOADS_CODE = {
    "auto_map", "class_path", "code_revision", "custom_pipeline", "custom_pipelines", "py/function", "py/module",
    "py/object", "py/reduce", "py/type", "trust_remote_code", "_target_",
}  # fmt: skip
"""Keys by which transformers, diffusers, Hydra, jsonargparse and jsonpickle import what their value names."""

CODE = re.compile(
    DUNDERS.pattern
    + r"|\b(?:os\.(?:system|popen)|subprocess\.|importlib\.)|(?<![\w.*\\])(?:eval|exec)\(['\"\w]|!!python/"
)
"""What stands in Python code and in no name, number or pattern of a config."""

PROSE = {"prompt_tuning_init_text"}


@rule("CFG420", "error", "auto_mapping would import a stranger's module", needs=("config",),
      breaks=fields(auto_mapping={"base_model_class": "Model", "parent_library": "os"}))  # fmt: skip
def imported_library(subject: Subject) -> Iterator[Problem]:
    """AutoPeftModel imports parent_library to find the base's class: importing a module runs it.

    PEFT up to 0.19 takes any module's name, 0.20 and later those of a short list. Libraries of models pass here; a
    module of the author's own is a warning, and one of Python, of a look-alike name or beside the adapter an error.

    Fix: write the task_type and set auto_mapping to null; load the adapter with the class for its task.
    """
    library, field = _mapped(subject, "parent_library"), "auto_mapping.parent_library"
    if isinstance(library, str) and not (_is_module(library) and library.split(".")[0] in LIBRARIES):
        severity, says = _judged(library, subject)
        yield Problem(f"auto_mapping would import {shown(library)}: {says}", CONFIG_NAME, field, severity=severity)


def _judged(library: str, subject: Subject) -> tuple[Severity, str]:
    """How grave importing a module of no known library is, and why."""
    root, class_name = library.split(".")[0], _mapped(subject, "base_model_class")
    near = difflib.get_close_matches(root.lower(), LIBRARIES, n=1, cutoff=0.85)
    if library == "__main__":
        return "info", "the training script itself, which nobody else has"
    if not _is_module(library):
        return "error", "this is no module of a library"
    if root == "transformers_modules":
        return "warning", "code that trust_remote_code downloads with the base model"
    if any((subject.folder / name).exists() for name in (f"{root}.py", root)):
        return "error", "it lies in the adapter's own folder"
    if root in sys.stdlib_module_names:
        return "error", "a part of Python, with no model in it"
    if near and near[0] != root:
        return "error", f"it only looks like {near[0]}"
    if not (isinstance(class_name, str) and class_name[:1].isupper()):
        return "error", "no library of models known here, and no class of one"
    return "warning", "no library of models known here; whoever lacks it cannot load this by AutoPeftModel"


@rule("CFG421", "error", "auto_mapping is malformed", needs=("config",),
      breaks=fields(auto_mapping={"base_model_class": "a.b()", "parent_library": "transformers"}))  # fmt: skip
def mapping_form(subject: Subject) -> Iterator[Problem]:
    """auto_mapping holds two names, of a library and of a class in it; PEFT fails on, or runs, anything else.

    Fix: set auto_mapping to null and write the task_type.
    """
    mapping = subject.fields.get("auto_mapping")
    if mapping is None:
        return
    if not isinstance(mapping, dict):
        yield Problem(f"auto_mapping is {shown(mapping)}, not an object", CONFIG_NAME, "auto_mapping")
        return
    for name in ("base_model_class", "parent_library"):
        value = mapping.get(name)
        if not isinstance(value, str):
            yield Problem(f"auto_mapping has {shown(value)} as its {name}", CONFIG_NAME, "auto_mapping")
        elif name == "base_model_class" and (not value.isidentifier() or value.startswith("__")):
            message = f"auto_mapping's base_model_class {shown(value)} is no class's name"
            yield Problem(message, CONFIG_NAME, f"auto_mapping.{name}")


@rule("CFG422", "error", "config asks for code to be loaded", needs=("config",),
      breaks=fields(auto_map={"AutoModel": "modeling_evil.Model"}))  # fmt: skip
def remote_code(subject: Subject) -> Iterator[Problem]:
    """Keys like auto_map and trust_remote_code make loaders import what they name; no adapter needs them.

    Fix: delete the field, and ask why it was there.
    """
    for place in config_places(subject):
        name = "" if place.key is None else place.key
        if (name in LOADS_CODE or re.fullmatch(r"__\w+__", name)) and place.value not in (None, False, {}, [], ""):
            yield Problem(f"{shown(place.path)} is {shown(place.value)}: a loader that follows it imports code",
                          CONFIG_NAME, place.path)  # fmt: skip
        elif isinstance(place.value, str) and _is_code(place.path, place.value):
            yield Problem(f"{shown(place.path)} holds code: {shown(place.value)}", CONFIG_NAME, place.path)
        elif CODE.search(name):
            yield Problem(f"the key {shown(name)} holds code", CONFIG_NAME, place.path)


@rule("CFG423", "error", "megatron_core names another module", needs=("config",), breaks=fields(megatron_core="os"))
def megatron_module(subject: Subject) -> Iterator[Problem]:
    """Where megatron_config is set, PEFT imports this module and so runs it: any up to 0.19, later only megatron's.

    Fix: set megatron_core to "megatron.core", PEFT's default.
    """
    name = subject.fields.get("megatron_core")
    if name is None or name == "megatron.core":
        return
    known = isinstance(name, str) and name.startswith("megatron.") and _is_module(name)
    when = "on loading" if subject.fields.get("megatron_config") else "once megatron_config is set"
    yield Problem(f"megatron_core is {shown(name)}, which PEFT imports {when}", CONFIG_NAME, "megatron_core",
                  severity="warning" if known else None)  # fmt: skip


@rule("CFG424", "info", "runtime settings in the config", needs=("config",), breaks=fields(runtime_config={"a": True}))
def runtime_settings(subject: Subject) -> Iterator[Problem]:
    """runtime_config belongs to one run and not to the adapter; PEFT drops it with a warning.

    Fix: delete the field.
    """
    if subject.fields.get("runtime_config") is not None:
        yield Problem("runtime_config is ignored on loading", CONFIG_NAME, "runtime_config")


@rule("CFG425", "error", "prompt tuning's text does not fit its init", needs=("config",),
      breaks=fields(peft_type="PROMPT_TUNING", prompt_tuning_init="TEXT"))  # fmt: skip
def prompt_text(subject: Subject) -> Iterator[Problem]:
    """With prompt_tuning_init TEXT PEFT wants the text and a tokenizer, and without it no tokenizer_kwargs: it raises.

    Fix: add what is missing, or set prompt_tuning_init to RANDOM: the trained prompt is in the weights either way.
    """
    if subject.peft_type != "PROMPT_TUNING":
        return
    fields, field = subject.fields, "prompt_tuning_init"
    if fields.get(field) == "TEXT":
        if not fields.get("tokenizer_name_or_path"):
            yield Problem(f"{field} is TEXT, and tokenizer_name_or_path is missing", CONFIG_NAME, field)
        if fields.get("prompt_tuning_init_text") is None:
            yield Problem(f"{field} is TEXT, and prompt_tuning_init_text is missing", CONFIG_NAME, field)
    elif fields.get("tokenizer_kwargs"):
        yield Problem(f"tokenizer_kwargs without {field} TEXT", CONFIG_NAME, "tokenizer_kwargs")


def _mapped(subject: Subject, name: str) -> Any:
    mapping = subject.fields.get("auto_mapping")
    return mapping.get(name) if isinstance(mapping, dict) else None


def _is_module(name: str) -> bool:
    """A dotted name of modules, none of them Python's own (__main__ runs a package)."""
    return all(part.isidentifier() and not part.startswith("__") for part in name.split("."))


def _is_code(path: str, value: str) -> bool:
    named = path in PROSE or path.split(".")[0] == "auto_mapping"
    return not named and CODE.search(value) is not None
