"""The vocabulary and special tokens of a GGUF, checked: what rebuilding a tokenizer starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adaptool.errors import FormatError, NotFoundError, UnsupportedError
from adaptool.tensors.ggml.values import KeyValues, ValueType
from adaptool.tokenizers.bpe import SPACE
from adaptool.tokenizers.fast import MAX_TOKENS
from adaptool.tokenizers.specials import ADD_KEYS, ID_KEYS
from adaptool.tokenizers.tokens import TokenType

DEFAULT_IDS: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}
"""What the runtime takes where a file does not say, by tokenizer model."""

LEGACY_IDS = {"cls": "tokenizer.ggml.cls_token_id"}


@dataclass(frozen=True)
class Rows:
    """A GGUF's ``tokenizer.*`` keys: texts, types and scores by id, and the tokens with a role."""

    keys: KeyValues

    @cached_property
    def model(self) -> str:
        """``tokenizer.ggml.model``: gpt2, llama, bert, t5, …"""
        if not isinstance(name := self.find("tokenizer.ggml.model", ValueType.STRING), str):
            raise NotFoundError("the GGUF has no tokenizer", hint="take a file that has tokenizer.ggml.model")
        return name

    @cached_property
    def texts(self) -> list[str]:
        """The tokens; FormatError for one that is not UTF-8."""
        items = self.array("tokenizer.ggml.tokens", ValueType.STRING)
        if items is None:
            raise NotFoundError("the GGUF has no vocabulary (tokenizer.ggml.tokens)")
        if len(items) > MAX_TOKENS:
            raise FormatError(f"tokenizer.ggml.tokens: {len(items)} tokens")
        for number, item in enumerate(items):
            if not isinstance(item, str):
                raise FormatError(f"tokenizer.ggml.tokens: token {number} is not UTF-8")
        return [item or f"[EMPTY_{number}]" for number, item in enumerate(items)]  # so does the runtime

    @cached_property
    def types(self) -> list[int]:
        """The types; all normal where the file has none."""
        items = self.array("tokenizer.ggml.token_type", ValueType.INT32)
        return self._aligned("token_type", items) if items is not None else [int(TokenType.NORMAL)] * len(self.texts)

    @cached_property
    def scores(self) -> list[float]:
        """The scores; all zero where the file has none."""
        items = self.array("tokenizer.ggml.scores", ValueType.FLOAT32)
        return (
            [float(item) for item in self._aligned("scores", items)] if items is not None else [0.0] * len(self.texts)
        )

    @cached_property
    def merges(self) -> list[tuple[str, str]]:
        """The merges that the vocabulary can make, the first of equal ones only."""
        known = set(self.texts)
        pairs: dict[tuple[str, str], None] = {}
        for line in self.array("tokenizer.ggml.merges", ValueType.STRING) or []:
            cut = line.find(" ", 1) if isinstance(line, str) else -1
            left, right = (line[:cut], line[cut + 1 :]) if cut > 0 else ("", "")
            if left in known and right in known and left + right in known:
                pairs[left, right] = None
        return list(pairs)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Ids by role: those of the file, else those the runtime assumes, if they are in the vocabulary."""
        found = dict(DEFAULT_IDS.get(self.model, {}))
        for role, key in {**ID_KEYS, **LEGACY_IDS}.items():
            number = self.find(key, ValueType.UINT32)
            if number is None:
                continue
            if number < len(self.texts):
                found[role] = number
        return {role: number for role, number in found.items() if number < len(self.texts)}

    def vocab(self) -> dict[str, int]:
        """Token to id, without the ids that only pad the embedding."""
        kept = [number for number in range(len(self.texts)) if not self.is_padding(number)]
        vocab = {self.texts[number]: number for number in kept}
        if len(vocab) < len(kept):
            raise UnsupportedError("two tokens of the GGUF have the same text, which tokenizer.json cannot hold")
        return vocab

    def is_padding(self, number: int) -> bool:
        """Whether an id only pads: an unused ``[PADn]``, as converters write them."""
        return self.types[number] == TokenType.UNUSED and self.texts[number].removeprefix(SPACE).startswith("[PAD")

    def text(self, role: str) -> str | None:
        """The token of a role."""
        return self.texts[self.ids[role]] if role in self.ids else None

    def flag(self, role: str) -> bool | None:
        """Whether the token of a role is added by itself, None where the file does not say."""
        return self.find(ADD_KEYS[role], ValueType.BOOL)

    def find(self, key: str, kind: ValueType) -> Any:
        """A value of that type; None where there is none, FormatError for another type."""
        value = self.keys.get(key)
        if value is None:
            return None
        if value.kind is not kind:
            raise FormatError(f"{key}: a {value.kind.name} where a {kind.name} should be")
        return value.data

    def array(self, key: str, element: ValueType) -> list[Any] | None:
        """A list of that element type; None where there is none."""
        value = self.keys.get(key)
        if value is None:
            return None
        if value.kind is not ValueType.ARRAY or value.element is not element:
            raise FormatError(f"{key}: not a list of {element.name}")
        return list(value.data)

    def _aligned(self, name: str, items: list[Any]) -> list[Any]:
        if len(items) < len(self.texts):
            raise FormatError(f"tokenizer.ggml.{name}: {len(items)} entries for {len(self.texts)} tokens")
        return items[: len(self.texts)]
