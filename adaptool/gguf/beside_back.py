"""The files beside a model's weights, read back from a GGUF: generation settings, tokenizer, model card."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from adaptool.archs.gguf.pooling import pooling_files
from adaptool.errors import UnsupportedError
from adaptool.gguf.config_back import special_ids
from adaptool.gguf.metadata import Metadata
from adaptool.tokenizers import tokenizer_files

SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
"""Recommended sampling, as newer files carry it → what generation_config.json calls it."""

TOKENIZER = "tokenizer.ggml.model"
NO_TOKENIZER = ("none", "no_vocab")

END_TOKENS = ("eos", "eot", "eom")
"""Roles of tokens that end an answer."""


def files_beside(meta: Metadata, config: Mapping[str, Any]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The generation settings, tokenizer, pooling and card of the model in a GGUF, by file name, and notes on them.

    A tokenizer that cannot be rebuilt is left out, and noted; one whose keys are broken raises FormatError.
    """
    tokenizer, notes = _tokenizer(meta)
    return {
        "generation_config.json": _json(generation_config(meta, config["vocab_size"])),
        **tokenizer,
        **pooling_files(meta.count(".pooling_type"), meta.count(".embedding_length") or 0),
        "README.md": card(meta).encode(errors="replace"),
    }, notes


def _tokenizer(meta: Metadata) -> tuple[dict[str, bytes], tuple[str, ...]]:
    if (meta.text(TOKENIZER) or "none") in NO_TOKENIZER:
        return {}, ("the GGUF holds no tokenizer: put the original model's beside the weights",)
    try:
        return tokenizer_files(meta.keys), ()
    except UnsupportedError as error:
        return {}, (f"no tokenizer files are made: {error.message}",)


def generation_config(meta: Metadata, vocab_size: int) -> dict[str, Any]:
    """The special tokens, every one that ends an answer among them, and the sampling that is recommended."""
    special = special_ids(meta, vocab_size)
    settings: dict[str, Any] = {name: number for name, number in special.items() if number is not None}
    ids = [number for role in END_TOKENS if (number := meta.token(role)) is not None and number < vocab_size]
    if len(set(ids)) > 1:
        settings["eos_token_id"] = list(dict.fromkeys(ids))
    sampling = {name: value for key, name in SAMPLING.items() if (value := meta.number(key)) is not None}
    return dict(sorted((settings | ({"do_sample": True} | sampling if sampling else {})).items()))


def card(meta: Metadata) -> str:
    """README.md: licence and origin as the GGUF has them, and how this was made."""
    lines = ["---"]
    licence = meta.text("general.license")
    if licence is not None and re.fullmatch(r"[\w.+-]+", licence):
        lines.append(f"license: {licence}")
    url = meta.text("general.base_model.0.repo_url") or meta.text("general.source.url") or ""
    if found := re.fullmatch(r"https://huggingface\.co/([\w.-]+/[\w.-]+)", url):
        lines += ["base_model:", f"- {json.dumps(found[1])}", "base_model_relation: quantized"]
    name = meta.text("general.name") or meta.path.stem
    return "\n".join([
        *lines, "library_name: transformers", "tags:", "- adaptool", "---", "",
        f"# {' '.join(name.split())}", "",
        f"Made from `{meta.path.name}`: what was quantised there is dequantised here, and not the original weights.",
        "",
    ])  # fmt: skip


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="replace")
