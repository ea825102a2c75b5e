"""What lies beside the weights of a model: config, tokenizer, templates, licence, and the card.

Copied by an allow-list, so that nothing executable and nothing pickled travels along; edited only where
the merge made it untrue.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptool.adapters.base import BaseModel
from adaptool.adapters.plan import Plan
from adaptool.tensors.files import open_file
from adaptool.tensors.sniff import sniff

SIDE_FILES = re.compile(
    r"(?!adapter_|adaptool\.json|config\.json|.*\.index\.json|training_args|trainer_state|optimizer|scheduler|README)"
    r"(?:.+\.(?:json|txt|jinja|model|tiktoken|spm|vocab|bpe)"
    r"|(?:LICEN[CS]E|NOTICE|USE_POLICY|COPYING)[\w-]*(?:\.(?:txt|md|rst|pdf))?)",
    re.IGNORECASE,
)
TOKENIZER_FILES = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt|spiece\.model"
    r"|sentencepiece.*|chat_template.*|.*\.tiktoken"
)
COMPONENT_FOLDERS = re.compile(r"\d+_\w+|additional_chat_templates")
"""sentence-transformers keeps its pooling in folders such as 1_Pooling."""

COMPONENT_FILES = re.compile(r"config\.json|.+\.safetensors")
"""What such a folder holds besides."""

REMOTE_CODE = re.compile(r".+\.py")
SIDE_FILE_LIMIT = 256 << 20
ARCHIVE_STARTS = (b"PK\x03\x04", b"\x1f\x8b")

TASK_CLASSES = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
    "CAUSAL_LM": "ForCausalLM",
    "SEQ_2_SEQ_LM": "ForConditionalGeneration",
}


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file to be copied into the output under ``name``."""

    name: str
    source: Path


def side_files(base: BaseModel, adapter_folder: Path, *, remote_code: bool) -> tuple[list[SideFile], list[str]]:
    """The files to copy, and notes on what was left out or preferred.

    The adapter's tokenizer, where it saved one, is the one training used, so it wins over the base's.
    """
    notes = []
    lone_file = base.path.is_file() and base.config is None
    chosen = {} if lone_file else {file.name: file for file in _allowed(base.folder, remote_code=remote_code)}
    own = [file for file in _allowed(adapter_folder, remote_code=False) if TOKENIZER_FILES.fullmatch(file.name)]
    if any(
        file.name in ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model") for file in own
    ):
        differing = [file for file in own if file.name in chosen and not _same_content(file, chosen[file.name])]
        chosen = {name: file for name, file in chosen.items() if not TOKENIZER_FILES.fullmatch(name)}
        chosen |= {file.name: file for file in own}
        if differing:
            notes.append(f"the tokenizer is the adapter's; it differs from the base's in {_listed(differing)}")
    if not remote_code and any(base.folder.glob("*.py")):
        notes.append("the base's Python files were not copied; --allow-remote-code-files copies them")
    return sorted(chosen.values(), key=lambda file: file.name), notes


def _allowed(folder: Path, *, remote_code: bool) -> Iterator[SideFile]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and COMPONENT_FOLDERS.fullmatch(path.name):
            for inner in sorted(path.iterdir()):
                if _is_side_file(inner, folder, remote_code=remote_code):
                    yield SideFile(f"{path.name}/{inner.name}", inner)
        elif _is_side_file(path, folder, remote_code=remote_code):
            yield SideFile(path.name, path)


def _is_side_file(path: Path, folder: Path, *, remote_code: bool) -> bool:
    wanted = SIDE_FILES.fullmatch(path.name) or (remote_code and REMOTE_CODE.fullmatch(path.name))
    wanted = wanted or (path.parent != folder and COMPONENT_FILES.fullmatch(path.name))
    if not wanted or not path.is_file() or path.stat().st_size > SIDE_FILE_LIMIT or not _inside(path, folder):
        return False
    head = open_file(path).read(0, min(4, path.stat().st_size))
    return not head.startswith(ARCHIVE_STARTS) and sniff(path) in ("safetensors", "unknown")


def _inside(path: Path, folder: Path) -> bool:
    """A symlink may lead into its own folder or, as in the HF cache, into the blobs beside its snapshot."""
    target = path.resolve()
    allowed = [folder.resolve()]
    if folder.absolute().parent.name == "snapshots":
        allowed.append(folder.absolute().parent.parent.resolve() / "blobs")
    return any(root in target.parents for root in allowed)


def _same_content(one: SideFile, other: SideFile) -> bool:
    return one.source.read_bytes() == other.source.read_bytes()


def _listed(files: list[SideFile]) -> str:
    return ", ".join(file.name for file in files[:3]) + (" …" if len(files) > 3 else "")


def merged_config(plan: Plan, dtype_name: str, task_type: str | None, *, remote_code: bool) -> Mapping[str, Any] | None:
    """The base's config.json with what the merge changed: type, vocabulary, tie flag, task head; None without one."""
    if plan.base.config is None:
        return None
    config: dict[str, Any] = json.loads(json.dumps(plan.base.config))
    config.pop("quantization_config", None)
    if not remote_code and any(plan.base.folder.glob("*.py")):
        config.pop("auto_map", None)
    key = "dtype" if "dtype" in config else "torch_dtype"
    config[key] = dtype_name
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    if key in text or "dtype" in text:
        text["dtype" if "dtype" in text else key] = dtype_name
    if plan.unties:
        config["tie_word_embeddings"] = False
        if "tie_word_embeddings" in text:
            text["tie_word_embeddings"] = False
    _set_vocabulary(plan, text)
    _set_head(plan, config, task_type)
    return config


def _set_vocabulary(plan: Plan, config: dict[str, Any]) -> None:
    embedding = plan.base.embedding
    if embedding in plan.replaced:
        rows = plan.info(embedding).shape[0]
        if rows != plan.base.store[embedding].shape[0]:
            config["vocab_size"] = rows


def _set_head(plan: Plan, config: dict[str, Any], task_type: str | None) -> None:
    """A task head needs the class that has it, and as many labels as it has rows."""
    heads = [
        name for name in (*plan.added, *plan.replaced) if re.search(r"(?:classifier|score|out_proj)\.weight$", name)
    ]
    suffix = TASK_CLASSES.get(task_type or "")
    names = config.get("architectures")
    if suffix and isinstance(names, list) and names and task_type not in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        stem = re.sub(r"(?:Model|PreTrainedModel|For\w+|LMHeadModel)$", "", str(names[0]))
        config["architectures"] = [stem + suffix]
    if heads and suffix in ("ForSequenceClassification", "ForTokenClassification"):
        labels = plan.info(heads[-1]).shape[0]
        if len(config.get("id2label") or {0: "", 1: ""}) != labels or "id2label" not in config:
            config["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
            config["label2id"] = {f"LABEL_{i}": i for i in range(labels)}


def card(base_names: list[str], adapters: list[str], licence: str | None, *, transformers: bool = True) -> str:
    """README.md of a merged model: the metadata the Hub reads, and how it was made; nothing invented."""
    lines = ["---"]
    if base_names:
        lines += ["base_model:", *[f"- {json.dumps(name)}" for name in base_names], "base_model_relation: merge"]
    if licence:
        lines.append(f"license: {licence}")
    lines += [
        *(["library_name: transformers"] if transformers else []),
        "tags:",
        "- merge",
        "- lora",
        "- adaptool",
        "---",
        "",
    ]
    made = "\n".join(f"- `{name}`" for name in adapters)
    lines += [
        "# Merged model",
        "",
        "The base model's weights with these adapters merged in, in this order:",
        "",
        made,
        "",
        "Made with `adaptool merge`: `adaptool.json` records the inputs (digests, sizes, revision) and the recipe.",
        "",
    ]
    return "\n".join(lines)


def licence_of(folder: Path) -> str | None:
    """The licence named in a model card's metadata block, taken as it stands."""
    path = folder / "README.md"
    if not path.is_file() or path.stat().st_size > 4 << 20:
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*([\w.+-]+)\s*$", match.group(1), re.MULTILINE) if match else None
    return found.group(1) if found else None
