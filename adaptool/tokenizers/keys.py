"""A Hugging Face folder's tokenizer as GGUF keys: the same keys, in the same order, as the reference converter's."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from adaptool.errors import NotFoundError, UnsupportedError, UsageError
from adaptool.tensors.ggml.values import Value, ValueType, array, boolean, text, u32
from adaptool.tokenizers import bert, bpe, spm
from adaptool.tokenizers.files import TokenizerFiles
from adaptool.tokenizers.frame import adds_nothing
from adaptool.tokenizers.pretokenizer import check_name, recognise
from adaptool.tokenizers.specials import ROLES, Specials, read_specials
from adaptool.tokenizers.tokens import Vocabulary

ADD_BOS = "tokenizer.ggml.add_bos_token"
ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"

CODE_LLAMA_VOCABULARY = 32016
CODE_LLAMA_ROLES = ("prefix", "suffix", "middle", "eot")
CODE_LLAMA_EOT = 32010
GRANITE_CODE_VOCABULARY = 49152
GEMMA_ROLES = ("prefix", "suffix", "middle", "fsep", "eot")
GEMMA_EOT = 107


class Style(StrEnum):
    """How an architecture's folders keep their tokenizer, which is what its converter tries and in which order."""

    LLAMA = "llama"
    """SentencePiece, else a tokenizer.json made of one, else byte-level BPE (Llama, Mistral, Granite, SmolLM)."""
    BPE = "bpe"
    """Byte-level BPE (GPT-2, GPT-NeoX, Falcon, StarCoder2, OLMo 2, Qwen MoE)."""
    SPM = "spm"
    """SentencePiece, else byte-level BPE (Qwen 2 and 3)."""
    GEMMA = "gemma"
    """SentencePiece without a space in front, and CodeGemma's end of turn."""
    GEMMA2 = "gemma2"
    """SentencePiece without a space in front (Gemma 2 and 3)."""
    PHI3 = "phi3"
    """SentencePiece with Phi-3's added tokens, else byte-level BPE (Phi-4)."""
    WPM = "wpm"
    """WordPiece (BERT, DistilBERT)."""
    ROBERTA = "roberta"
    """Byte-level BPE in an encoder."""
    UNIGRAM = "unigram"
    """SentencePiece's unigram model (XLM-RoBERTa)."""
    NOMIC = "nomic"
    """WordPiece or unigram, by its tokenizer.json (Nomic BERT)."""


def tokenizer_keys(
    folder: Path,
    *,
    vocab_size: int,
    style: Style,
    pre: str | None = None,
    config: Mapping[str, Any],
) -> dict[str, Value]:
    """The ``tokenizer.*`` keys for the tokenizer in ``folder``, in the order to write them.

    ``vocab_size`` is the number of rows of the model's embedding; ``config`` is the parsed config.json; ``pre`` forces
    llama.cpp's pre-tokenizer instead of recognising it. Raises UnsupportedError for a tokenizer that llama.cpp does not
    have, MismatchError for tokens without a row, NotFoundError and FormatError for missing and broken files.
    """
    if pre is not None:
        check_name(pre)
    keys = _Folder(TokenizerFiles(folder), vocab_size, config, pre).keys(Style(style))
    if pre is not None and keys["tokenizer.ggml.pre"].data != pre:
        raise UsageError(f"{folder}: a SentencePiece tokenizer has no pre-tokenizer to force to {pre!r}")
    return keys


class _Folder:
    """One conversion: the files, and what is asked of them."""

    def __init__(self, files: TokenizerFiles, vocab_size: int, config: Mapping[str, Any], pre: str | None) -> None:
        self.files, self.vocab_size, self.config, self.pre = files, vocab_size, config, pre

    def keys(self, style: Style) -> dict[str, Value]:
        match style:
            case Style.LLAMA:
                return self.llama()
            case Style.SPM:
                return self.spm() if self.files.sentencepiece else self.bpe()
            case Style.GEMMA:
                return self.gemma() | {ADD_SPACE_PREFIX: boolean(False)}
            case Style.GEMMA2:
                return self.spm() | {ADD_SPACE_PREFIX: boolean(False)}
            case Style.PHI3:
                return self.phi3()
            case Style.WPM:
                return self.wordpiece()
            case Style.ROBERTA:
                return self.bpe() | self.type_count()
            case Style.UNIGRAM:
                return self.unigram(mask=False)
            case Style.NOMIC:
                is_unigram = self.files.fast is not None and self.files.fast.kind == "Unigram"
                return self.unigram(mask=True) if is_unigram else self.wordpiece()
        return self.bpe()

    def llama(self) -> dict[str, Value]:
        prefix = self.files.setting("add_prefix_space", bool)
        keys = {} if prefix is None else {ADD_SPACE_PREFIX: boolean(prefix)}
        has_pieces = self.files.sentencepiece is not None or spm.is_sentencepiece(self.files.fast)
        found = self.spm() if has_pieces else self.bpe()
        keys |= {key: value for key, value in found.items() if key not in keys}
        size = self.config.get("vocab_size", 32000)
        if size == CODE_LLAMA_VOCABULARY:
            keys |= self.specials(None, CODE_LLAMA_ROLES, CODE_LLAMA_EOT).keys()
        if size == GRANITE_CODE_VOCABULARY:
            keys |= {ADD_BOS: boolean(False)}
        return keys

    def gemma(self) -> dict[str, Value]:
        more = self.specials(None, GEMMA_ROLES, GEMMA_EOT)
        return self.spm() | Specials(more.ids, more.add, {}, more.normalizer).keys()

    def phi3(self) -> dict[str, Value]:
        if (
            self.files.setting("tokenizer_class", str) in ("GPT2Tokenizer", "GPT2TokenizerFast")
            or not self.files.sentencepiece
        ):
            return self.bpe() if not spm.is_sentencepiece(self.files.fast) else self.spm()
        return self.pieces(spm.from_phi3(self.files, self.vocab_size))

    def bpe(self) -> dict[str, Value]:
        if self.files.fast is not None and spm.is_sentencepiece(self.files.fast):
            return self.spm()
        if self.files.fast is None and (self.files.folder / "tekken.json").is_file():
            raise UnsupportedError(
                f"{self.files.folder}: only Mistral's own tekken.json is there",
                hint="take the folder that has tokenizer.json too: mistral-common is needed to read the other",
            )
        vocabulary = bpe.vocabulary(self.files, self.vocab_size)
        pre = self.pre or recognise(self.files)
        if not (merges := bpe.merges(self.files)):
            raise NotFoundError(
                f"{self.files.folder}: a byte-level BPE without its merges", hint="is merges.txt missing?"
            )
        return _head("gpt2", pre) | vocabulary.keys() | self.specials(None).keys(merges)

    def spm(self) -> dict[str, Value]:
        if self.files.sentencepiece is not None or self.files.fast is None:
            return self.pieces(spm.from_model(self.files, self.vocab_size))
        keys = self.pieces(spm.from_fast(self.files, self.vocab_size))
        return keys if spm.has_prefix(self.files.fast) else keys | {ADD_SPACE_PREFIX: boolean(False)}

    def pieces(self, vocabulary: Vocabulary) -> dict[str, Value]:
        keys = _head("llama", "default") | vocabulary.keys() | self.specials(len(vocabulary.texts)).keys()
        if ADD_BOS not in keys and self.files.fast and adds_nothing(self.files.fast.post_processor):
            keys[ADD_BOS] = boolean(False)  # the runtime puts a BOS before SentencePiece's tokens unless told
        return keys

    def wordpiece(self) -> dict[str, Value]:
        if self.files.fast is not None and self.files.fast.kind != "WordPiece":
            raise UnsupportedError(
                f"{self.files.fast.where}: a {self.files.fast.kind} model where a WordPiece one is needed"
            )
        vocabulary = bert.wordpiece(self.files, self.vocab_size)
        head = self.type_count() | _head("bert", self.pre or recognise(self.files))
        return head | vocabulary.keys() | self.specials(len(vocabulary.texts)).keys()

    def unigram(self, *, mask: bool) -> dict[str, Value]:
        model = bert.unigram(self.files, self.vocab_size, mask=mask)
        keys = _head("t5", "default") | model.vocabulary.keys()
        keys |= {ADD_SPACE_PREFIX: boolean(model.add_prefix)} | self.type_count()
        keys["tokenizer.ggml.remove_extra_whitespaces"] = boolean(model.remove_whitespaces)
        if model.precompiled_charsmap:
            keys["tokenizer.ggml.precompiled_charsmap"] = array(ValueType.UINT8, model.precompiled_charsmap)
        return keys | self.specials(len(model.vocabulary.texts)).keys()

    def type_count(self) -> dict[str, Value]:
        """How many segments a text may have: two for BERT's pairs of sentences."""
        count = self.config.get("type_vocab_size", 1)
        return {"tokenizer.ggml.token_type_count": u32(count if isinstance(count, int) else 1)}

    def specials(self, size: int | None, roles: tuple[str, ...] = ROLES, eot: int | None = None) -> Specials:
        """The special tokens; ``eot`` is the end of a turn where the files name none."""
        found = read_specials(self.files, self.config, vocab_size=size, roles=roles)
        if eot is None or "eot" in found.ids:
            return found
        return Specials({**found.ids, "eot": eot}, found.add, found.templates, found.normalizer)


def _head(model: str, pre: str) -> dict[str, Value]:
    return {"tokenizer.ggml.model": text(model), "tokenizer.ggml.pre": text(pre)}
