"""The files a Hugging Face folder keeps its tokenizer in, read under limits and checked where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adaptool.errors import FormatError, NotFoundError
from adaptool.tensors.files import open_file
from adaptool.tensors.jsons import parse_json
from adaptool.tokenizers.fast import AddedToken, FastTokenizer, added_token, ids, parse_fast
from adaptool.tokenizers.sentencepiece import SentencePieceModel, parse_sentencepiece

MAX_TOKENIZER = 256 << 20
"""Bytes of tokenizer.json or tokenizer.model: the largest published ones have about 40 MB."""

MAX_TEXT = 32 << 20
"""Bytes of any other file: vocabularies and merges in text, settings, templates."""

MAX_TEMPLATES = 100


@dataclass(frozen=True)
class TokenizerFiles:
    """A folder's tokenizer files, each read when it is first asked for."""

    folder: Path

    @cached_property
    def fast(self) -> FastTokenizer | None:
        """``tokenizer.json``."""
        data = self.data("tokenizer.json", MAX_TOKENIZER)
        return (
            None
            if data is None
            else parse_fast(parse_json(data, self.name("tokenizer.json")), self.name("tokenizer.json"))
        )

    @cached_property
    def settings(self) -> Mapping[str, Any] | None:
        """``tokenizer_config.json``."""
        return self.mapping("tokenizer_config.json")

    @cached_property
    def sentencepiece(self) -> SentencePieceModel | None:
        """``tokenizer.model``."""
        return self.sentencepiece_file("tokenizer.model")

    @cached_property
    def added_ids(self) -> Mapping[str, int]:
        """``added_tokens.json``: texts and ids."""
        return ids(self.mapping("added_tokens.json") or {}, self.name("added_tokens.json"))

    @cached_property
    def declared(self) -> Mapping[int, AddedToken]:
        """``added_tokens_decoder`` of tokenizer_config.json: tokens by id, in the file's order."""
        where = f"{self.name('tokenizer_config.json')}: added_tokens_decoder"
        entries = (self.settings or {}).get("added_tokens_decoder") or {}
        if not isinstance(entries, Mapping):
            raise FormatError(f"{where} is not an object")
        tokens = {}
        for key, entry in entries.items():
            if not key.isascii() or not key.isdigit() or len(key) > 9:
                raise FormatError(f"{where}: {key!r} is not a token id")
            tokens[int(key)] = added_token(entry, f"{where}[{key}]", int(key))
        return tokens

    def setting(self, key: str, kind: type | tuple[type, ...]) -> Any:
        """A value of tokenizer_config.json if it is of that type, else None."""
        value = (self.settings or {}).get(key)
        return value if isinstance(value, kind) else None

    def sentencepiece_file(self, name: str) -> SentencePieceModel | None:
        """A SentencePiece model by its file name; None where there is none."""
        data = self.data(name, MAX_TOKENIZER)
        return None if data is None else parse_sentencepiece(data, self.name(name))

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        """A small JSON file that must hold an object; None where there is none."""
        if (data := self.data(name, MAX_TEXT)) is None:
            return None
        value = parse_json(data, self.name(name))
        if not isinstance(value, dict):
            raise FormatError(f"{self.name(name)}: holds no object")
        return value

    def text(self, name: str) -> str | None:
        """A UTF-8 text file with its line ends made ``\\n``; None where there is none."""
        if (data := self.data(name, MAX_TEXT)) is None:
            return None
        try:
            return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.name(name)}: not UTF-8 (byte {error.start})") from None

    def data(self, name: str, limit: int) -> bytes | None:
        """A file's bytes; None where there is no such file."""
        try:
            file = open_file(self.folder / name)
        except NotFoundError:
            return None
        try:
            return file.read_all(limit)
        finally:
            file.close()

    def templates(self) -> list[str]:
        """The names of the files in ``additional_chat_templates/``, sorted."""
        names = sorted(path.name for path in (self.folder / "additional_chat_templates").glob("*.jinja"))
        if len(names) > MAX_TEMPLATES:
            raise FormatError(f"{self.name('additional_chat_templates')}: {len(names)} chat templates")
        return names

    def name(self, name: str) -> str:
        """How an error calls a file of this folder."""
        return str(self.folder / name)
