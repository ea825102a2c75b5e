"""The tokens with a role (bos, eos, …), whether they are added by themselves, the chat templates and the text's case.

The reference converter's rules, since every runtime reads the result by them: a role's token comes from
tokenizer_config.json and its id from tokenizer.json's added tokens, else from config.json; whether it is added comes
from tokenizer.json's post-processor, else from tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptool.errors import FormatError
from adaptool.tensors.ggml.values import Value, ValueType, array, boolean, u32
from adaptool.tokenizers.fast import FastTokenizer, children, whole
from adaptool.tokenizers.files import TokenizerFiles
from adaptool.tokenizers.frame import Frame
from adaptool.tokenizers.templates import chat_templates

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

ID_KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",  # the file format's own spelling
    "pad": "tokenizer.ggml.padding_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
}
"""The roles that a GGUF has a key for."""

ADD_KEYS = {role: f"tokenizer.ggml.add_{role}_token" for role in ("bos", "eos", "sep")}


@dataclass(frozen=True, slots=True)
class Specials:
    """Ids by role, what is added by itself, the chat templates' keys, and what happens to the text's case."""

    ids: Mapping[str, int]
    add: Mapping[str, bool]
    templates: Mapping[str, Value]
    normalizer: Mapping[str, bool]

    def keys(self, merges: Sequence[str] = ()) -> dict[str, Value]:
        """All of it as GGUF keys, after the ``merges``, in the order the reference converter writes them."""
        keys = {"tokenizer.ggml.merges": array(ValueType.STRING, merges)} if merges else {}
        keys |= {ID_KEYS[role]: u32(number) for role, number in self.ids.items() if role in ID_KEYS}
        keys |= {ADD_KEYS[role]: boolean(flag) for role, flag in self.add.items() if role in ADD_KEYS}
        keys |= self.templates
        return keys | {f"tokenizer.ggml.normalizer.{name}": boolean(flag) for name, flag in self.normalizer.items()}


def read_specials(
    files: TokenizerFiles,
    config: Mapping[str, Any],
    *,
    vocab_size: int | None = None,
    roles: Sequence[str] = ROLES,
) -> Specials:
    """What the folder says of its special tokens; ids of ``vocab_size`` and above are passed over."""
    fast, settings = files.fast, files.settings or {}
    frame = Frame(dict(settings), list(roles))
    if fast is not None:
        frame.read(fast.post_processor)
    ids: dict[str, int] = {}
    added = {token.content: token.id for token in reversed(fast.added)} if fast else {}
    for role in frame.roles if settings else ():
        if isinstance(flag := frame.settings.get(f"add_{role}_token"), bool):
            frame.add.setdefault(role, flag)
        if (token := token_text(frame.settings.get(f"{role}_token"))) in added:
            _assign(ids, role, added[token], vocab_size)
    for role in frame.roles:
        if (number := _configured(config, f"{role}_token_id")) is not None:
            _assign(ids, role, number, vocab_size)
    return Specials(ids, frame.add, chat_templates(files), normalizer_flags(fast))


def token_text(entry: Any) -> str | None:
    """A special token of a settings file: a text, or an object with its ``content``."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else None


def normalizer_flags(fast: FastTokenizer | None) -> dict[str, bool]:
    """Whether text is lower-cased and accents are stripped, where the normaliser says."""
    flags: dict[str, bool] = {}
    for part in children(fast.normalizer if fast else None, "normalizers"):
        match part.get("type"):
            case "Lowercase":
                flags["lowercase"] = True
            case "StripAccents":
                flags["strip_accents"] = True
            case "BertNormalizer":
                flags |= {
                    name: part[name] for name in ("lowercase", "strip_accents") if isinstance(part.get(name), bool)
                }
    return {name: flags[name] for name in ("lowercase", "strip_accents") if name in flags}


def _assign(ids: dict[str, int], role: str, number: int, vocab_size: int | None) -> None:
    """The first id a role gets stays; one outside the vocabulary is none."""
    if vocab_size is None or number < vocab_size:
        ids.setdefault(role, number)


def _configured(config: Mapping[str, Any], key: str) -> int | None:
    """A token id of config.json, or of its ``text_config``; a list of them (several ends) is not one id."""
    value = config.get(key)
    if value is None and isinstance(nested := config.get("text_config"), Mapping):
        value = nested.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    if value < 0:
        raise FormatError(f"config.json: {key} is {value}", hint="remove it: no token has a negative id")
    return whole(value, f"config.json: {key}")
