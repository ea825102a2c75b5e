"""CFG020–CFG039: whether the config is PEFT's, and of which type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from adaptool.adapters.config import CONFIG_NAME
from adaptool.adapters.schema import newest_release, peft_types
from adaptool.rules.draft import fields, file
from adaptool.rules.finding import Problem
from adaptool.rules.rule import rule
from adaptool.rules.subject import Subject
from adaptool.tensors.jsons import SHOWN, shown


@rule("CFG020", "error", "a model's config, not an adapter's", needs=("config",),
      breaks=file(CONFIG_NAME, b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'))  # fmt: skip
def model_config(subject: Subject) -> Iterator[Problem]:
    """A model's config.json under the adapter's name says nothing of rank or targets.

    Fix: put the adapter's own adapter_config.json back; save_pretrained of the PeftModel writes it.
    """
    if stranger(subject) == "model":
        kind = subject.fields.get("model_type", subject.fields.get("architectures"))
        yield Problem(f"{CONFIG_NAME} is the config of a model ({shown(kind)})", CONFIG_NAME)


@rule("CFG021", "error", "an MLX-LM adapter's config", needs=("config",),
      breaks=file(CONFIG_NAME, b'{"fine_tune_type": "lora", "lora_parameters": {"rank": 8}}'))  # fmt: skip
def mlx_config(subject: Subject) -> Iterator[Problem]:
    """MLX-LM names its config like PEFT's, with other fields and transposed factors: PEFT cannot load it.

    Fix: fuse it with mlx_lm.fuse, or convert its factors and write a PEFT config.
    """
    if stranger(subject) == "mlx":
        yield Problem(f"{CONFIG_NAME} is MLX-LM's (fine_tune_type, lora_parameters), not PEFT's", CONFIG_NAME)


@rule("CFG022", "error", "another library's adapter config", needs=("config",), breaks=file(
    CONFIG_NAME, b'{"config": {"reduction_factor": 16}, "model_class": "BertModel", "name": "a"}'))  # fmt: skip
def foreign_config(subject: Subject) -> Iterator[Problem]:
    """The adapters library (AdapterHub) also calls its config adapter_config.json; PEFT cannot load it.

    Fix: load it with the adapters library, or train it again with PEFT.
    """
    if stranger(subject) == "adapterhub":
        yield Problem(f"{CONFIG_NAME} is of the adapters library (AdapterHub), not PEFT's", CONFIG_NAME)


@rule("CFG023", "error", "no peft_type", needs=("config",), breaks=lambda draft: draft.config.pop("peft_type"))
def no_peft_type(subject: Subject) -> Iterator[Problem]:
    """Without peft_type no library knows what the tensors are; PEFT refuses the config.

    Fix: add "peft_type": "LORA", or the type it was trained as.
    """
    if stranger(subject) == "untyped":
        null = " (it is null)" if "peft_type" in subject.fields else ""
        yield Problem(f"{CONFIG_NAME} has no peft_type{null}", CONFIG_NAME, "peft_type" if null else "")


@rule("CFG024", "error", "peft_type is not text", needs=("config",), breaks=fields(peft_type=["LORA"]))
def peft_type_form(subject: Subject) -> Iterator[Problem]:
    """PEFT looks the type up by its name, and raises on anything else.

    Fix: write the one type as text: "peft_type": "LORA".
    """
    value = subject.fields.get("peft_type")
    if value is not None and not isinstance(value, str):
        yield Problem(f"peft_type is {shown(value)}, not a name", CONFIG_NAME, "peft_type")


@rule("CFG025", "error", "unknown peft_type", needs=("config",), breaks=fields(peft_type="LORRA"))
def unknown_peft_type(subject: Subject) -> Iterator[Problem]:
    """PEFT raises KeyError for a type it does not have; it compares in capitals.

    Fix: correct the name, or update the tool if a newer PEFT brought the type.
    """
    value = subject.fields.get("peft_type")
    if not isinstance(value, str) or value in peft_types():
        return
    near = difflib.get_close_matches(value.upper()[:SHOWN], sorted(peft_types()), n=1, cutoff=0.7)
    version = version_of(subject.fields.get("peft_version"))
    known = ".".join(map(str, newest_release()))
    if value.upper() in peft_types():
        yield Problem(f'peft_type is {shown(value)}; PEFT only knows "{value.upper()}", in capitals', CONFIG_NAME,
                      "peft_type", fix=f'Write "peft_type": "{value.upper()}".')  # fmt: skip
    elif version is not None and version > newest_release():
        yield Problem(f"peft_type {shown(value)} is none of PEFT {known}'s; a newer PEFT wrote this", CONFIG_NAME,
                      "peft_type", fix="Update adaptool: it cannot check what this adapter saves.")  # fmt: skip
    else:
        guess = f"; did you mean {near[0]}?" if near else ""
        yield Problem(f"peft_type {shown(value)} is none of PEFT's, up to {known}{guess}", CONFIG_NAME, "peft_type")


@rule("CFG026", "warning", "peft_type BONE, which PEFT dropped", needs=("config",), breaks=fields(peft_type="BONE"))
def bone(subject: Subject) -> Iterator[Problem]:
    """BONE existed up to PEFT 0.18 and was removed in 0.19 in favour of MiSS; newer ones raise KeyError.

    Fix: load it with PEFT 0.18, or convert it to MISS (PEFT's scripts/convert-bone-to-miss.py).
    """
    if subject.fields.get("peft_type") == "BONE":
        yield Problem("peft_type BONE loads in PEFT up to 0.18 only", CONFIG_NAME, "peft_type")


def stranger(subject: Subject) -> str:
    """Whose config it is where it is not PEFT's: model, mlx, adapterhub, or untyped; "" where it names a type."""
    fields = subject.fields
    if fields.get("peft_type") is not None:
        return ""
    if "fine_tune_type" in fields or "lora_parameters" in fields:
        return "mlx"
    if "model_type" in fields or "architectures" in fields:
        return "model"
    if isinstance(fields.get("config"), dict) and {"model_class", "model_type", "name"} & set(fields):
        return "adapterhub"
    return "untyped"


def version_of(value: object) -> tuple[int, int] | None:
    """Major and minor of a PEFT version ("0.18.2.dev0@1a2b3c4"); None where it is not one."""
    if not isinstance(value, str) or len(value) > 100:
        return None
    found = re.fullmatch(r"v?(\d{1,4})\.(\d{1,4})(?:\.\d{1,4})?(?:[._-]?(?:a|b|c|rc|dev|post)\d*)*"
                         r"(?:\+[\w.]+)?(?:@\w+)?", value, re.ASCII)  # fmt: skip
    return (int(found[1]), int(found[2])) if found else None
