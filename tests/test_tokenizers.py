"""A folder's tokenizer as GGUF keys: pre-tokenizers told by structure, vocabularies, special tokens, hostile files."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from adaptool.errors import AdaptoolError, FormatError, MismatchError, NotFoundError, UnsupportedError, UsageError
from adaptool.tensors.ggml.values import Value
from adaptool.tokenizers import Style, encode, fingerprint, regexes, tokenizer_keys
from adaptool.tokenizers.families import FAMILIES, NAMES
from adaptool.tokenizers.fast import parse_fast
from adaptool.tokenizers.files import TokenizerFiles
from adaptool.tokenizers.pretokenizer import recognise
from adaptool.tokenizers.specials import read_specials

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = BYTES | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w")]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def chain(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = CL100K.replace("{1,3}", "")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace("{1,3}", "")
DEEPSEEK3 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
ZETA = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|"

PUBLISHED = {
    "gpt2": (GPT2, {}, "gpt-2"),
    "gpt-neox": (GPT2, {"normalizer": {"type": "NFC"}}, "olmo"),
    "smollm2": (chain(DIGITS, GPT2), {"clean": False}, "smollm"),
    "starcoder2": (chain(DIGITS, GPT2), {"clean": True}, "starcoder"),
    "command-r": (chain(DIGITS, GPT2), {"clean": False, "normalizer": {"type": "NFC"}}, "command-r"),
    "llama-3": (chain(split(CL100K), BYTES), {"ignore_merges": True}, "llama-bpe"),
    "granite-4.1": (chain(split(CL100K, "Removed", True), BYTES), {}, "dbrx"),
    "qwen-3": (chain(split(QWEN), BYTES), {"clean": False, "normalizer": {"type": "NFC"}}, "qwen2"),
    "stablelm-2": (chain(split(QWEN, "Removed", True), BYTES), {"clean": True}, "stablelm2"),
    "glm-4": (chain(split(CL100K), BYTES), {"ignore_merges": True, "added": ["[gMASK]"]}, "glm4"),
    "gpt-oss": (chain(split(O200K), BYTES), {}, "gpt-4o"),
    "minimax": (chain(split(O200K, "Removed", True), BYTES), {}, "gpt-4o"),
    "mistral-nemo": (chain(split(TEKKEN), BYTES), {"ignore_merges": True}, "tekken"),
    "cohere-2": (chain(split(r"\d{1,3}(?=(?:\d{3})*\b)"), split(O200K), BYTES), {}, "tiny_aya"),
    "deepseek-v3": (
        chain(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), BYTES), {}, "deepseek-v3",
    ),
    "deepseek-coder": (
        chain(
            split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), DIGITS, BYTES,
        ),
        {},
        "deepseek-coder",
    ),
    "falcon": (
        chain(
            {"type": "Punctuation", "behavior": "Contiguous"}, GPT2, {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        ),
        {},
        "falcon",
    ),
    "bloom": (chain(split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), BYTES), {"clean": True}, "bloom"),
    "llada": (chain(split(BAILING), BYTES), {}, "bailingmoe"),
    "zeta": (chain(split(ZETA + "\\s+(?!\\S)|\\s+"), BYTES), {}, "seed-coder"),
    "minicpm5": (
        chain(split(r"\p{N}{1,3}"), split(CL100K.replace("{1,3}", "+")), BYTES), {"ignore_merges": True}, "minicpm5",
    ),
    "one in the other": (chain(chain(DIGITS), chain(GPT2)), {"clean": False}, "smollm"),
}  # fmt: skip
"""pre_tokenizer, what else the file has, and llama.cpp's name. Source: the published tokenizer.json files."""


def added(number: int, content: str, **flags: Any) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": number, "content": content} | plain | flags


def document(pre_tokenizer: Any = GPT2, tokens: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """A byte-level BPE: the 256 bytes, five merges, then the added tokens from 261 on."""
    from tokenizers import pre_tokenizers

    vocab = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    model = {
        "type": "BPE",
        "vocab": {token: number for number, token in enumerate(vocab)},
        "merges": [list(pair) for pair in MERGES],
    }
    model |= {"byte_fallback": False, "ignore_merges": changes.pop("ignore_merges", False)}
    return {
        "version": "1.0",
        "added_tokens": tokens or [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": BYTES,
        "model": model,
    } | changes


def write(folder: Path, **files: Any) -> Path:
    """Files by name (``__`` for a dot): text and bytes as they are, anything else as JSON."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, content in files.items():
        data = content if isinstance(content, str | bytes) else json.dumps(content, ensure_ascii=False)
        (folder / name.replace("__", ".")).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def keys(folder: Path, style: Style = Style.BPE, size: int = 264, **config: Any) -> dict[str, Value]:
    pre = config.pop("pre", None)
    return tokenizer_keys(folder, vocab_size=size, style=style, pre=pre, config={"vocab_size": size} | config)


def data(found: dict[str, Value], *names: str) -> list[Any]:
    return [found[f"tokenizer.ggml.{name}"].data for name in names]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_pretokenizers_are_told_by_their_structure(name: str, tmp_path: Path):
    pre_tokenizer, more, expected = PUBLISHED[name]
    more = dict(more)
    settings = {"clean_up_tokenization_spaces": more.pop("clean")} if "clean" in more else {"x": 1}
    tokens = [added(261 + n, text, special=True) for n, text in enumerate(more.pop("added", []))]
    write(tmp_path, tokenizer__json=document(pre_tokenizer, tokens, **more), tokenizer_config__json=settings)
    assert expected == recognise(TokenizerFiles(tmp_path))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.names[0])
def test_every_family_is_recognised_as_one_that_splits_alike(family: Any, tmp_path: Path):
    splits = [split(pattern) for pattern in family.splits]
    write(tmp_path, tokenizer__json=document(chain(*splits, BYTES), ignore_merges=family.ignore_merges))
    name = recognise(TokenizerFiles(tmp_path))
    found = next(other for other in FAMILIES if name in other.names)
    plain = [pattern for pattern in family.splits if pattern not in (regexes.DIGIT, regexes.DIGITS)]
    assert (plain, family.ignore_merges) == (
        [pattern for pattern in found.splits if pattern not in (regexes.DIGIT, regexes.DIGITS)],
        found.ignore_merges,
    )


@pytest.mark.parametrize(
    ("pre_tokenizer", "more", "said"),
    [
        (chain(split(r"\w+|\W+"), BYTES), {}, r"\\w+|\\W+"),
        (chain(split(CL100K, "MergedWithNext"), BYTES), {}, "MergedWithNext"),
        (GPT2 | {"add_prefix_space": True}, {}, "add_prefix_space"),
        (chain(split(QWEN), BYTES), {"ignore_merges": True}, "words looked up whole"),
        ({"type": "Whitespace"}, {}, "Whitespace"),
        (None, {"decoder": None}, "does not work on bytes"),
    ],
)
def test_an_unknown_structure_is_an_error_that_shows_it(pre_tokenizer: Any, more: dict, said: str, tmp_path: Path):
    write(tmp_path, tokenizer__json=document(pre_tokenizer, **more))
    with pytest.raises(UnsupportedError) as caught:
        keys(tmp_path)
    assert said in caught.value.message
    assert caught.value.hint


def test_the_closest_names_are_offered(tmp_path: Path):
    write(tmp_path, tokenizer__json=document(chain(split(QWEN.replace(r"\p{N}", r"\p{Nd}")), BYTES)))
    with pytest.raises(UnsupportedError) as caught:
        keys(tmp_path)
    assert "--pre NAME" in str(caught.value.hint)
    assert "qwen2" in str(caught.value.hint)


def test_a_forced_pretokenizer_is_written_and_must_be_one(tmp_path: Path):
    write(tmp_path, tokenizer__json=document(chain(split("x"), BYTES)))
    assert data(keys(tmp_path, pre="qwen2"), "pre") == ["qwen2"]
    with pytest.raises(UsageError, match="not a pre-tokenizer") as caught:
        keys(tmp_path, pre="qwen-2")
    assert "qwen2" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no pre-tokenizer to force"):
        keys(write(tmp_path / "spm", tokenizer__model=PIECES), Style.LLAMA, 8, pre="qwen2")


def test_names_are_llama_cpps_and_unique():
    names = [name for family in FAMILIES for name in family.names]
    assert {"deepseek-llm"} == {name for name in names if names.count(name) > 1}  # two spellings of its digits
    assert {"llama-bpe", "gpt-2", "qwen2", "smollm", "falcon", "jina-v2-en", "gemma4"} <= set(NAMES)
    assert set(fingerprint.NAMES.values()) <= set(NAMES) | {"gpt-2"}


CHECKED = [name for name in PUBLISHED if name not in ("bloom",)]


@pytest.mark.parametrize("name", CHECKED)
def test_the_check_text_is_encoded_as_tokenizers_does(name: str):
    from tokenizers import Tokenizer

    pre_tokenizer, more, _ = PUBLISHED[name]
    more = {key: value for key, value in more.items() if key in ("normalizer", "ignore_merges")}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [261], "tokens": ["<s>"]}},
    }
    tokens = [added(261, "<s>", special=True), added(262, "    ", normalized=True), added(263, "like some")]
    whole = document(pre_tokenizer, tokens, post_processor=template, **more)
    expected = Tokenizer.from_str(json.dumps(whole)).encode(fingerprint.TEXT).ids
    assert expected == encode.encode(parse_fast(whole, "x"), fingerprint.TEXT)


def test_a_known_vocabulary_chooses_among_names_that_split_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def known(pre_tokenizer: Any, name: str) -> str:
        whole = document(pre_tokenizer)
        ids = encode.encode(parse_fast(whole, "x"), fingerprint.TEXT)
        monkeypatch.setattr(fingerprint, "NAMES", {hashlib.sha256(str(ids).encode()).hexdigest()[:16]: name})
        return recognise(TokenizerFiles(write(tmp_path, tokenizer__json=whole)))

    assert known(GPT2, "phi-2") == "phi-2"
    assert known(chain(split(QWEN), BYTES), "deepseek-r1-qwen") == "deepseek-r1-qwen"
    assert known(chain(split(r"\w+|\W"), BYTES), "exaone") == "exaone"  # a structure not in the table
    assert known(GPT2, "qwen2") == "gpt-2"  # the structure contradicts: it is what the runtime goes by


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", "a{9999}{9999}", "(", "x" * 5000], ids=["runs away", "huge counts", "broken", "long"]
)
def test_a_hostile_pattern_is_not_run(pattern: str):
    whole = document(chain(split(pattern), BYTES))
    text = "a" * 40 + "!"
    assert encode.encode(parse_fast(whole, "x"), text) in (None, [whole["model"]["vocab"][c] for c in text])


def test_added_tokens_get_types_and_the_rest_is_padding(tmp_path: Path):
    tokens = [
        added(261, "<|im_end|>"),  # special by its looks
        added(262, "<end>", special=True),
        added(263, "▁▁x"),
        added(265, "õõ"),  # in the byte alphabet, and not bytes
        added(266, "Ġz"),
        added(267, "<new>", normalized=True),
    ]
    found = keys(write(tmp_path, tokenizer__json=document(tokens=tokens)), size=270)
    texts, types = data(found, "tokens", "token_type")
    assert texts[261:] == ["<|im_end|>", "<end>", "  x", "[PAD264]", "õõ", " z", "<new>", "[PAD268]", "[PAD269]"]
    assert [CONTROL, CONTROL, USER_DEFINED, UNUSED, *3 * [USER_DEFINED], UNUSED, UNUSED] == types[261:]
    assert types[:261] == [NORMAL] * 261
    assert found["tokenizer.ggml.merges"].data == ["h e", "l l", "he ll", "hell o", "Ġ w"]


def test_tokenizer_config_has_the_last_word_on_added_tokens(tmp_path: Path):
    settings = {"added_tokens_decoder": {"261": {"content": "<a>", "special": True}, "262": {"content": "<b>"}}}
    write(tmp_path, tokenizer__json=document(tokens=[added(261, "<a>")]), tokenizer_config__json=settings)
    texts, types = data(keys(tmp_path), "tokens", "token_type")
    assert texts[261:] == ["<a>", "<b>", "[PAD263]"]
    assert types[261:] == [CONTROL, USER_DEFINED, UNUSED]


def test_tokens_that_do_not_fit_the_model_are_refused(tmp_path: Path):
    write(tmp_path, tokenizer__json=document(tokens=[added(261, "<end>")]))
    with pytest.raises(MismatchError, match=r"token 261 .* vocabulary of 261") as caught:
        keys(tmp_path, size=261)
    assert "resize" in str(caught.value.hint)
    write(tmp_path, tokenizer__json=document(tokens=[added(261, "same"), added(262, "same")]))
    with pytest.raises(UnsupportedError, match="tokens 261 and 262 have the same text"):
        keys(tmp_path)


def test_spaces_inside_merges_are_written_as_the_alphabet_has_them(tmp_path: Path):
    whole = document()
    whole["model"]["vocab"] |= {"a b": 261}
    whole["model"]["merges"] = [["a", " b"], *map(list, MERGES)]
    assert keys(write(tmp_path, tokenizer__json=whole))["tokenizer.ggml.merges"].data[0] == "a Ġb"


def template(single: str, pair: str) -> dict[str, Any]:
    def pieces(text: str) -> list[dict[str, Any]]:
        return [
            {"Sequence": {"id": word[1], "type_id": 0}}
            if word[0] == "$"
            else {"SpecialToken": {"id": word, "type_id": 0}}
            for word in text.split()
        ]

    return {"type": "TemplateProcessing", "single": pieces(single), "pair": pieces(pair), "special_tokens": {}}


ROBERTA = {"type": "RobertaProcessing", "cls": ["<s>", 261], "sep": ["</s>", 262]}
FRAMES: dict[str, tuple[Any, dict[str, Any] | None]] = {
    "bytes": (BYTES, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<|eot|>"}),
    "bos": (template("<s> $A", "<s> $A <s> $B"), {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False}),
    "both": (
        template("<s> $A </s>", "<s> $A </s> <s> $B </s>"),
        {"bos_token": "<s>", "eos_token": {"content": "</s>"}},
    ),
    "another end": (
        template("<s> $A <|eot|>", "<s> $A <|eot|> $B <|eot|>"),
        {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": "<|eot|>"},
    ),
    "separator": (template("<s> $A", "<s> $A </s> <s> $B"), {"bos_token": "<s>", "eos_token": "</s>"}),
    "two separators": (
        template("$A", "$A </s> </s> $B"),
        {"sep_token": "</s>", "cls_token": "<s>", "add_bos_token": False},
    ),
    "encoder": (template("<s> $A </s>", "<s> $A </s> $B </s>"), {"cls_token": "<s>", "sep_token": "</s>"}),
    "unnamed": (template("<s> $A </s>", "<s> $A </s> <|eot|> $B </s>"), {"tokenizer_class": "PreTrainedTokenizerFast"}),
    "no settings": (template("<s> $A </s>", "<s> $A </s> $B </s>"), None),
    "roberta": (ROBERTA, {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<|eot|>"}),
    "roberta unnamed": (ROBERTA, {"cls_token": "<s>"}),
    "in a row": (
        {"type": "Sequence", "processors": [BYTES, template("<s> $A", "<s> $A <s> $B")]},
        {"bos_token": "<s>"},
    ),
    "flags": (None, {"bos_token": "<s>", "add_bos_token": True, "add_eos_token": False, "eos_token": "missing"}),
}


READ: dict[str, tuple[dict[str, int], dict[str, bool]]] = {
    "bytes": ({"bos": 261, "eos": 262, "pad": 263, "sep": 9}, {"bos": False, "eos": False}),
    "bos": ({"bos": 261, "eos": 262, "sep": 9, "pad": 7}, {"bos": True, "sep": False}),
    "both": ({"bos": 261, "eos": 262, "eot": 262, "sep": 9, "pad": 7}, {"bos": True, "eos": True, "sep": False}),
    "another end": (
        {"bos": 261, "eos": 263, "unk": 263, "cls": 261, "eot": 262, "sep": 9, "pad": 7},
        {"bos": True, "eos": True, "sep": False},
    ),
    "separator": ({"bos": 261, "eos": 262, "sep": 262, "pad": 7}, {"bos": True, "sep": True}),
    "two separators": ({"bos": 261, "eos": 262, "sep": 262, "cls": 261, "pad": 7}, {"bos": False, "sep": True}),
    "encoder": ({"bos": 261, "eos": 262, "sep": 262, "cls": 261, "pad": 7}, {"bos": True, "eos": True, "sep": False}),
    "unnamed": ({"bos": 261, "eos": 262, "cls": 261, "sep": 9, "pad": 7}, {"bos": True, "eos": True, "sep": False}),
    "no settings": ({"bos": 5, "sep": 9, "pad": 7}, {"bos": True, "eos": True, "sep": False}),
    "roberta": (
        {"bos": 261, "eos": 262, "sep": 262, "cls": 261, "mask": 263, "pad": 7},
        {"bos": True, "eos": True, "sep": True},
    ),
    "roberta unnamed": ({"bos": 261, "sep": 262, "cls": 261, "pad": 7}, {"bos": True, "eos": True, "sep": True}),
    "in a row": ({"bos": 261, "sep": 9, "pad": 7}, {"bos": True, "eos": False, "sep": False}),
    "flags": ({"bos": 261, "sep": 9, "pad": 7}, {"bos": True, "eos": False}),
}
"""Ids by role and what is added, as the reference converter reads the same files."""


@pytest.mark.parametrize("name", FRAMES)
def test_special_tokens_are_what_upstream_reads(name: str, tmp_path: Path):
    post_processor, settings = FRAMES[name]
    tokens = [added(261, "<s>", special=True), added(262, "</s>", special=True), added(263, "<|eot|>", special=True)]
    config = {"bos_token_id": 5, "eos_token_id": [1, 2], "pad_token_id": 7, "text_config": {"sep_token_id": 9}}
    write(tmp_path, tokenizer__json=document(tokens=tokens, post_processor=post_processor))
    if settings is not None:
        write(tmp_path, tokenizer_config__json=settings)
    found = read_specials(TokenizerFiles(tmp_path), config)
    assert READ[name] == (found.ids, found.add)


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (None, {}),
        ({"type": "Lowercase"}, {"lowercase": True}),
        ({"type": "BertNormalizer", "lowercase": False, "strip_accents": None}, {"lowercase": False}),
        (
            {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]},
            {"lowercase": True, "strip_accents": True},
        ),
    ],
)
def test_case_and_accents_are_kept(normalizer: Any, expected: dict[str, bool], tmp_path: Path):
    found = keys(write(tmp_path, tokenizer__json=document(normalizer=normalizer)))
    prefix = "tokenizer.ggml.normalizer."
    assert expected == {key.removeprefix(prefix): value.data for key, value in found.items() if key.startswith(prefix)}


def test_chat_templates_come_from_every_place(tmp_path: Path):
    def templates(settings: dict[str, Any], **files: Any) -> dict[str, Any]:
        folder = write(tmp_path / str(len(list(tmp_path.iterdir()))), tokenizer__json=document(), **files)
        write(folder, tokenizer_config__json={"a": 1} | settings)
        found = keys(folder)
        return {key.removeprefix("tokenizer.chat_"): value.data for key, value in found.items() if "chat_" in key}

    assert templates({"chat_template": "one"}, chat_template__jinja="other") == {"template": "one"}
    assert templates({}, chat_template__jinja="a\r\nb") == {"template": "a\nb"}
    assert templates({}, chat_template__json={"chat_template": "c"}) == {"template": "c"}
    named = [{"name": "default", "template": "d"}, {"name": "tool use", "template": "t"}, {"name": "x"}]
    expected = {"template.tool_use": "t", "templates": ["tool_use"], "template": "d"}
    assert expected == templates({"chat_template": named})
    write(tmp_path / "more" / "additional_chat_templates", rag__jinja="r")
    write(tmp_path / "more", tokenizer__json=document(), tokenizer_config__json={"a": 1}, chat_template__jinja="d")
    assert [value.data for key, value in keys(tmp_path / "more").items() if "chat_" in key] == ["r", ["rag"], "d"]


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, value: bytes | int | float) -> bytes:
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value % 2**64)
    return varint(number << 3 | 2) + varint(len(value)) + value


def protobuf(*pieces: tuple[str, float, int], model_type: int = 2, **normalizer: Any) -> bytes:
    """A tokenizer.model of these pieces."""
    body = b"".join(field(1, field(1, t.encode()) + field(2, s) + field(3, kind)) for t, s, kind in pieces)
    rules = field(2, normalizer.get("charsmap", b"")) + field(3, normalizer.get("prefix", 1))
    return (
        body + field(2, field(3, model_type) + field(40, 0)) + field(3, rules + field(4, normalizer.get("squeeze", 0)))
    )


PIECES = protobuf(
    ("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<0x0A>", 0.0, BYTE),
    ("▁a", -1.0, NORMAL), ("user", -2.0, 4),
)  # fmt: skip
LLAMA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "add_bos_token": True,
    "add_eos_token": False,
    "add_prefix_space": False,
}


def test_sentencepiece_with_added_tokens_and_padding(tmp_path: Path):
    declared = {"2": {"content": "</s>", "special": True}, "7": {"content": "▁▁", "special": False}}
    write(tmp_path, tokenizer__model=PIECES, added_tokens__json={"<new>": 6, "<far>": 90})
    write(tmp_path, tokenizer_config__json=LLAMA | {"added_tokens_decoder": declared, "chat_template": "t"})
    found = keys(tmp_path, Style.LLAMA, 9, bos_token_id=1, eos_token_id=2, pad_token_id=50)
    assert list(found) == [
        "tokenizer.ggml.add_space_prefix", "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
        "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token",
        "tokenizer.chat_template",
    ]  # fmt: skip
    assert data(found, "add_space_prefix", "model", "pre") == [False, "llama", "default"]
    texts, scores, types = data(found, "tokens", "scores", "token_type")
    assert texts == ["<unk>", "<s>", "</s>", "<0x0A>", "▁a", "user", "<new>", "  ", "[PAD8]"]
    assert scores == [0, 0, -1000, 0, -1, -2, -1000, -1000, -10000]
    assert types == [UNKNOWN, CONTROL, CONTROL, BYTE, NORMAL, NORMAL, USER_DEFINED, USER_DEFINED, UNUSED]
    assert data(found, "bos_token_id", "eos_token_id", "add_bos_token", "add_eos_token") == [1, 2, True, False]


@pytest.mark.parametrize(
    ("style", "size", "expected"),
    [
        (Style.LLAMA, 8, {}),
        (Style.LLAMA, 32016, {"eot_token_id": 32010}),  # Code Llama
        (Style.LLAMA, 49152, {"add_bos_token": False}),  # Granite's small models
        (Style.SPM, 49152, {}),
        (Style.GEMMA, 8, {"eot_token_id": 107, "add_space_prefix": False}),
        (Style.GEMMA2, 8, {"add_space_prefix": False}),
        (Style.PHI3, 8, {}),
    ],
)
def test_what_an_architecture_adds(style: Style, size: int, expected: dict[str, Any], tmp_path: Path):
    found = keys(write(tmp_path, tokenizer__model=PIECES), style, size)
    prefix = "tokenizer.ggml."
    common = {"model", "pre", "tokens", "scores", "token_type"}
    assert expected == {
        k.removeprefix(prefix): v.data for k, v in found.items() if k.removeprefix(prefix) not in common
    }
    assert size == len(found["tokenizer.ggml.tokens"].data)


def test_phi3_reads_the_added_tokens_of_tokenizer_json(tmp_path: Path):
    tokens = [added(6, "<|end|>", special=True), added(7, "<|x|>")]
    write(tmp_path, tokenizer__model=PIECES, tokenizer__json=document(tokens=tokens))
    texts, types = data(keys(tmp_path, Style.PHI3, 9), "tokens", "token_type")
    assert texts[6:] == ["<|end|>", "<|x|>", "[PAD8]"]
    assert types[6:] == [CONTROL, USER_DEFINED, UNUSED]
    settings = {"tokenizer_class": "GPT2Tokenizer"}  # Phi-4
    assert data(keys(write(tmp_path, tokenizer_config__json=settings), Style.PHI3), "model") == ["gpt2"]


def pieces_as_bpe(prefix: bool = True) -> dict[str, Any]:
    """A SentencePiece model as transformers writes it: BPE over characters, with bytes for the rest."""
    vocab = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "ab", "▁ab", "▁a"]
    marks = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": ["a b", "▁ ab", "▁ a", "▁a b"]}
    return document(
        None,
        [added(n, vocab[n], special=True) for n in range(3)] + [added(10, "▁▁"), added(11, "<|im_end|>")],
        normalizer={"type": "Sequence", "normalizers": [*marks, replaced]},
        decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        model=model | {"vocab": {token: number for number, token in enumerate(vocab)}},
    )


@pytest.mark.parametrize("style", [Style.LLAMA, Style.SPM, Style.BPE, Style.GEMMA2])
def test_pieces_without_their_model_file_score_by_their_merges(style: Style, tmp_path: Path):
    found = keys(write(tmp_path, tokenizer__json=pieces_as_bpe()), style, 13)
    texts, scores, types = data(found, "tokens", "scores", "token_type")
    by_text = dict(zip(texts, scores, strict=True))
    assert data(found, "model", "pre") == ["llama", "default"]
    assert (by_text["ab"], by_text["▁ab"], by_text["▁a"]) == (0.0, -1.0, -2.0)
    assert by_text["<s>"] < by_text["▁a"]  # an added token is never preferred over a merge
    assert [CONTROL, CONTROL, CONTROL, BYTE, *6 * [NORMAL], USER_DEFINED, CONTROL, UNUSED] == types
    assert texts[10] == "  "


def test_whether_a_space_goes_in_front_is_read_where_the_model_file_is_missing(tmp_path: Path):
    key = "tokenizer.ggml.add_space_prefix"
    assert key not in keys(write(tmp_path, tokenizer__json=pieces_as_bpe()), Style.LLAMA, 13)
    assert not keys(write(tmp_path, tokenizer__json=pieces_as_bpe(prefix=False)), Style.LLAMA, 13)[key].data
    write(tmp_path, tokenizer_config__json={"add_prefix_space": True})
    assert keys(tmp_path, Style.LLAMA, 13)[key].data  # the settings come first, as upstream has them


def wordpiece(**changes: Any) -> dict[str, Any]:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##able", "x", "▁"]
    model = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {token: number for number, token in enumerate(vocab)}}
    return document(
        {"type": "BertPreTokenizer"},
        [added(n, vocab[n], special=True) for n in range(4)],
        model=model,
        decoder={"type": "WordPiece", "prefix": "##"},
        normalizer={"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
        post_processor=template("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
        **changes,
    )


BERT = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}


@pytest.mark.parametrize("style", [Style.WPM, Style.NOMIC])
def test_wordpiece_marks_the_starts_of_words(style: Style, tmp_path: Path):
    write(tmp_path, tokenizer__json=wordpiece(), tokenizer_config__json=BERT)
    found = keys(tmp_path, style, 10, type_vocab_size=2)
    texts, types = data(found, "tokens", "token_type")
    assert texts == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁un", "able", "▁x", "▁▁", "▁[PAD8]", "▁[PAD9]"]
    assert [*4 * [CONTROL], *4 * [NORMAL], UNUSED, UNUSED] == types
    assert list(found)[:3] == ["tokenizer.ggml.token_type_count", "tokenizer.ggml.model", "tokenizer.ggml.pre"]
    assert data(
        found, "token_type_count", "model", "pre", "bos_token_id", "seperator_token_id", "normalizer.lowercase"
    ) == [2, "bert", "jina-v2-en", 2, 3, True]


def test_wordpiece_from_its_vocabulary_file(tmp_path: Path):
    vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##able\n"
    write(tmp_path, vocab__txt=vocab, tokenizer_config__json=BERT | {"tokenizer_class": "BertTokenizer"})
    found = keys(tmp_path, Style.WPM, 6, pad_token_id=0)
    assert [["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁un", "able"], [*4 * [CONTROL], NORMAL, NORMAL], 0] == data(
        found, "tokens", "token_type", "padding_token_id"
    )


def test_bpe_from_its_two_files(tmp_path: Path):
    vocab = document()["model"]["vocab"] | {"<s>": 261}
    merges = "#version: 0.2\n" + "\n".join(map(" ".join, MERGES)) + "\n\n"
    write(tmp_path, vocab__json=vocab, merges__txt=merges, added_tokens__json={"<x>": 262})
    write(tmp_path, tokenizer_config__json={"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>"})
    found = keys(tmp_path, size=264)
    assert data(found, "pre", "merges") == ["gpt-2", ["h e", "l l", "he ll", "hell o", "Ġ w"]]
    assert [x[261:] for x in data(found, "tokens", "token_type")] == [
        ["<s>", "<x>", "[PAD263]"],
        [CONTROL, USER_DEFINED, UNUSED],
    ]
    write(tmp_path, tokenizer_config__json={"tokenizer_class": "OwnTokenizer"})
    with pytest.raises(UnsupportedError, match="OwnTokenizer"):
        keys(tmp_path)


def unigram() -> dict[str, Any]:
    vocab = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁a", -1.5], ["b", -2], ["<mask>", 0.0]]
    marks = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return document(
        {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, marks]},
        [added(n, vocab[n][0], special=True) for n in (0, 1, 2, 3, 6)],
        model={"type": "Unigram", "unk_id": 3, "vocab": vocab},
        normalizer={"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "AAEC"}]},
    )


@pytest.mark.parametrize("style", [Style.UNIGRAM, Style.NOMIC])
def test_unigram_from_tokenizer_json(style: Style, tmp_path: Path):
    write(tmp_path, tokenizer__json=unigram(), tokenizer_config__json={"unk_token": "<unk>", "bos_token": "<s>"})
    found = keys(tmp_path, style, 8)
    texts, scores, types = data(found, "tokens", "scores", "token_type")
    assert texts == ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "<mask>", "[PAD7]"]
    assert scores == [0, 0, 0, 0, -1.5, -2, 0, -10000]
    assert types == [CONTROL, CONTROL, CONTROL, UNKNOWN, NORMAL, NORMAL, CONTROL, UNUSED]
    assert ["t5", "default", True, True, bytes(range(3)), 1] == data(
        found,
        "model",
        "pre",
        "add_space_prefix",
        "remove_extra_whitespaces",
        "precompiled_charsmap",
        "token_type_count",
    )


def test_unigram_from_its_model_file_gets_xlm_robertas_first_tokens(tmp_path: Path):
    pieces = (
        ("<unk>", 0.0, UNKNOWN),
        ("<s>", 0.0, CONTROL),
        ("</s>", 0.0, CONTROL),
        ("▁a", -1.5, NORMAL),
        ("b", -2.0, NORMAL),
    )
    model = protobuf(*pieces, model_type=1, charsmap=b"xyz", squeeze=1)
    write(tmp_path, **{"sentencepiece.bpe.model": model})
    found = keys(tmp_path, Style.UNIGRAM, 7, type_vocab_size=1)
    texts, types = data(found, "tokens", "token_type")
    assert texts == ["<s>", "<pad>", "</s>", "<unk>", "▁a", "b", "[PAD5]"]
    assert types == [CONTROL, CONTROL, CONTROL, UNKNOWN, NORMAL, NORMAL, UNUSED]
    assert data(found, "precompiled_charsmap", "remove_extra_whitespaces") == [b"xyz", True]
    write(tmp_path, **{"sentencepiece.bpe.model": protobuf(*pieces)})
    with pytest.raises(UnsupportedError, match="not a unigram model"):
        keys(tmp_path, Style.UNIGRAM, 7)


def test_roberta_is_a_bpe_with_segments(tmp_path: Path):
    tokens = [added(261, "<s>", special=True), added(262, "</s>", special=True)]
    write(tmp_path, tokenizer__json=document(tokens=tokens, post_processor=ROBERTA))
    write(tmp_path, tokenizer_config__json={"bos_token": "<s>", "eos_token": "</s>"})
    found = keys(tmp_path, Style.ROBERTA, type_vocab_size=1)
    assert data(found, "pre", "add_bos_token", "add_eos_token", "add_sep_token", "token_type_count") == [
        "roberta-bpe",
        True,
        True,
        True,
        1,
    ]


def bpe(vocab: Any, **model: Any) -> dict[str, Any]:
    return document(model={"type": "BPE", "vocab": vocab} | model)


@pytest.mark.parametrize(
    ("style", "files", "kind", "said"),
    [
        (Style.BPE, {}, NotFoundError, "no tokenizer"),
        (Style.LLAMA, {}, NotFoundError, "no tokenizer"),
        (Style.GEMMA, {}, NotFoundError, "no tokenizer.model"),
        (Style.UNIGRAM, {}, NotFoundError, "neither"),
        (Style.BPE, {"tekken.json": "{}"}, UnsupportedError, "tekken.json"),
        (Style.BPE, {"tokenizer.json": "{"}, FormatError, "not JSON"),
        (Style.BPE, {"tokenizer.json": "[]"}, FormatError, "an object should be here"),
        (Style.BPE, {"tokenizer.json": bpe(3)}, FormatError, "neither"),
        (Style.BPE, {"tokenizer.json": document(model={"vocab": {}})}, FormatError, "type"),
        (Style.BPE, {"tokenizer.json": bpe({"a": -1})}, FormatError, "not a token id"),
        (Style.BPE, {"tokenizer.json": bpe({"a": 10**9})}, FormatError, "not a token"),
        (Style.BPE, {"tokenizer.json": bpe({}, merges=["a"])}, FormatError, "two"),
        (Style.BPE, {"tokenizer.json": document(tokens=[{"id": 1}])}, FormatError, "no text"),
        (Style.BPE, {"tokenizer.json": document({"type": "Sequence"})}, FormatError, "without its pretokenizers"),
        (Style.WPM, {"tokenizer.json": document()}, UnsupportedError, "WordPiece one is needed"),
        (Style.UNIGRAM, {"tokenizer.json": document()}, UnsupportedError, "Unigram one is needed"),
        (Style.LLAMA, {"tokenizer.model": b"version https://git-lfs"}, FormatError, "SentencePiece"),
        (Style.LLAMA, {"tokenizer.model": PIECES[:-3]}, FormatError, "truncated"),
        (Style.LLAMA, {"tokenizer.model": field(1, field(1, b"\xff"))}, FormatError, "UTF-8"),
        (Style.LLAMA, {"tokenizer.model": field(1, field(2, float("nan")))}, FormatError, "score nan"),
        (Style.LLAMA, {"tokenizer.model": PIECES, "tokenizer_config.json": "[]"}, FormatError, "no object"),
        (
            Style.LLAMA, {"tokenizer.model": PIECES, "tokenizer_config.json": {"added_tokens_decoder": {"x": {}}}},
            FormatError, "not a token id",
        ),
    ],
)  # fmt: skip
def test_missing_and_broken_files_say_so(style: Style, files: dict[str, Any], kind: type, said: str, tmp_path: Path):
    write(tmp_path, **files)
    with pytest.raises(kind, match=said):
        keys(tmp_path, style)


@pytest.mark.parametrize(("make", "name"), [(document, "json"), (pieces_as_bpe, "json"), (lambda: PIECES, "model")])
def test_damaged_files_only_ever_raise_worded_errors(make: Callable[[], Any], name: str, tmp_path: Path):
    content = make()
    whole = content if isinstance(content, bytes) else json.dumps(content).encode()
    dice = random.Random(7)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(damaged))
            damaged[at : at + dice.randrange(3)] = dice.choice([b"", b"\x00", b"null", b"9", b"[", b'"', b"\xff\xff"])
        write(tmp_path, **{f"tokenizer.{name}": bytes(damaged)})
        with suppress(AdaptoolError):
            keys(tmp_path, Style.LLAMA)


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "model"])
@pytest.mark.parametrize(
    "value", [3, "x", [], {}, {"type": 3}, {"type": "Split", "pattern": 3}, [[]], {"type": "Sequence"}]
)
def test_parts_of_another_shape_only_ever_raise_worded_errors(part: str, value: Any, tmp_path: Path):
    write(
        tmp_path,
        tokenizer__json=document() | {part: value},
        tokenizer_config__json={"bos_token": 3, "chat_template": 4},
    )
    with suppress(AdaptoolError):
        keys(tmp_path, Style.LLAMA, bos_token_id="x", eos_token_id=True)
