"""llama.cpp through the C functions that the ``xllamacpp`` wheel exports: tokens in, whole distributions out.

The wheel's Python face gives log-probabilities as JSON, one prefix at a time (0.6 s a position for 49 k tokens); the
C functions under it give the runtime's own logits. Parameter structs grow with every release, so none is described
here: the defaults are taken as opaque bytes, larger than any release's, and handed back with the context's size set,
which has stood first since 2024. What that leaves at its default is what people run, a context in 16 bits included.
Used by ``runtime_process`` alone, since llama.cpp ends the process where an assertion of its own fails.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from adaptool.errors import AdaptoolError, FormatError, NotFoundError, UnsupportedError
from adaptool.tensors.dtypes import Floats

HINT = "install it with: pip install 'adaptool[runtime]'"
ERROR_LEVEL = 4
"""GGML_LOG_LEVEL_ERROR."""
HEAD_DEFAULTS = (512, 2048, 512)
"""n_ctx, n_batch, n_ubatch: the first fields of the context's defaults, checked before they are set."""
BATCH = 64
"""Tokens run together: beyond it speed grows little, and the logits of a batch weigh 4 bytes × vocabulary each."""

Pooling = Literal["none", "mean", "cls", "last"]
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "cls", "last")
"""By the runtime's numbers."""

Address = ctypes.c_void_p


class _Parameters(ctypes.Structure):
    """A parameter struct of any release, passed by value; what a release does not know lies behind its end."""

    _fields_ = [("words", ctypes.c_uint32 * 256)]


class _Batch(ctypes.Structure):
    """llama_batch, unchanged since 2023."""

    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        *((name, ctypes.c_void_p) for name in ("embd", "pos", "n_seq_id", "seq_id", "logits")),
    ]


_PLACES = re.compile(r"^(?:[a-z_\d]+: |error loading model: )+")
"""Where in llama.cpp an error came from, as its lines begin."""

_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

_I32, _BOOL, _TEXT = ctypes.c_int32, ctypes.c_bool, ctypes.c_char_p
_FLOATS, _TOKENS = ctypes.POINTER(ctypes.c_float), ctypes.POINTER(ctypes.c_int32)
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "llama_log_set": (None, (_LOG, Address)),
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (_Parameters, ()),
    "llama_context_default_params": (_Parameters, ()),
    "llama_model_load_from_file": (Address, (_TEXT, _Parameters)),
    "llama_init_from_model": (Address, (Address, _Parameters)),
    "llama_model_get_vocab": (Address, (Address,)),
    "llama_vocab_n_tokens": (_I32, (Address,)),
    "llama_model_meta_val_str": (_I32, (Address, _TEXT, _TEXT, ctypes.c_size_t)),
    "llama_model_chat_template": (_TEXT, (Address, _TEXT)),
    "llama_model_n_embd": (_I32, (Address,)),
    "llama_model_has_encoder": (_BOOL, (Address,)),
    "llama_set_n_threads": (None, (Address, _I32, _I32)),
    "llama_set_embeddings": (None, (Address, _BOOL)),
    "llama_pooling_type": (ctypes.c_int, (Address,)),
    "llama_get_memory": (Address, (Address,)),
    "llama_memory_clear": (None, (Address, _BOOL)),
    "llama_tokenize": (_I32, (Address, _TEXT, _I32, _TOKENS, _I32, _BOOL, _BOOL)),
    "llama_batch_get_one": (_Batch, (_TOKENS, _I32)),
    "llama_decode": (_I32, (Address, _Batch)),
    "llama_encode": (_I32, (Address, _Batch)),
    "llama_get_logits_ith": (_FLOATS, (Address, _I32)),
    "llama_get_embeddings_seq": (_FLOATS, (Address, _I32)),
    "llama_get_embeddings_ith": (_FLOATS, (Address, _I32)),
    "llama_adapter_lora_init": (Address, (Address, _TEXT)),
    "llama_set_adapters_lora": (_I32, (Address, ctypes.POINTER(Address), ctypes.c_size_t, _FLOATS)),
}


class Library:
    """The wheel's functions with their types, and what it logged as errors."""

    def __init__(self) -> None:
        try:
            path = importlib.import_module("xllamacpp.xllamacpp").__file__
        except ImportError as error:
            raise UnsupportedError(f"running a GGUF needs xllamacpp: {error}", hint=HINT) from error
        self.functions = ctypes.CDLL(path)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self.functions, name, None)
            if function is None:
                raise UnsupportedError(f"this build of xllamacpp does not export {name}", hint=HINT)
            function.restype, function.argtypes = result, arguments
        self.errors: list[str] = []
        self._listener = _LOG(self._listen)  # kept: the runtime calls it as long as it lives
        self.functions.llama_log_set(self._listener, None)
        self.functions.llama_backend_init()

    def _listen(self, level: int, text: bytes, _: object) -> None:
        if level == ERROR_LEVEL:
            self.errors.append(text.decode("utf-8", "replace").strip())

    def reason(self) -> str:
        """The most telling of the errors since the last call: the deepest one, without its place in the code."""
        named = [_PLACES.sub("", text) for text in self.errors]
        self.errors.clear()
        told = [text for text in named if "failed to load model" not in text]
        return (told or named or ["no reason given"])[0]


class Model:
    """A loaded file with a context to run it in; the process ends with it, so nothing is freed."""

    def __init__(self, gguf: Path, lora: Sequence[tuple[Path, float]], context: int, threads: int) -> None:
        self.gguf, self.context = gguf, context
        self.library = Library()
        self._c = self.library.functions
        self._model = self._c.llama_model_load_from_file(bytes(gguf), self._c.llama_model_default_params())
        if not self._model:
            raise FormatError(f"{gguf}: llama.cpp does not load it: {self.library.reason()}")
        self._vocabulary = self._c.llama_model_get_vocab(self._model)
        self.vocabulary = int(self._c.llama_vocab_n_tokens(self._vocabulary))
        self.architecture = self.metadata("general.architecture") or "unknown"
        if self._c.llama_model_has_encoder(self._model):
            raise UnsupportedError(f"{gguf}: {self.architecture} has an encoder and a decoder: it is not run here")
        self.encoder = self.metadata(f"{self.architecture}.attention.causal") == "false"
        self._context = self._open_context()
        self._c.llama_set_n_threads(self._context, threads, threads)
        self._adapt(lora)

    def _open_context(self) -> int:
        parameters = self._c.llama_context_default_params()
        if tuple(parameters.words[:3]) != HEAD_DEFAULTS:
            raise UnsupportedError("this release of xllamacpp has another layout of its parameters", hint=HINT)
        batch = self.context if self.encoder else min(BATCH, self.context)
        parameters.words[:3] = (self.context, batch, batch)
        context = self._c.llama_init_from_model(self._model, parameters)
        if not context:
            raise FormatError(f"{self.gguf}: llama.cpp loads it and cannot run it: {self.library.reason()}")
        return int(context)

    def _adapt(self, lora: Sequence[tuple[Path, float]]) -> None:
        if not lora:
            return
        adapters = (Address * len(lora))()
        for number, (path, _) in enumerate(lora):
            if not path.is_file():
                raise NotFoundError(f"{path}: there is no such file")
            adapters[number] = self._c.llama_adapter_lora_init(self._model, bytes(path))
            if not adapters[number]:
                raise FormatError(f"{path}: llama.cpp does not load it as an adapter: {self.library.reason()}")
        scales = (ctypes.c_float * len(lora))(*(scale for _, scale in lora))
        if self._c.llama_set_adapters_lora(self._context, adapters, len(lora), scales):
            raise FormatError(f"{self.gguf}: llama.cpp does not take its adapters: {self.library.reason()}")

    def metadata(self, key: str) -> str | None:
        """A scalar of the file's metadata, as text."""
        text = ctypes.create_string_buffer(256)
        found = self._c.llama_model_meta_val_str(self._model, key.encode(), text, len(text))
        return text.value.decode("utf-8", "replace") if found >= 0 else None

    @property
    def chat_template(self) -> str | None:
        """The file's own; None where it has none."""
        text: bytes | None = self._c.llama_model_chat_template(self._model, None)
        return text.decode("utf-8", "replace") if text else None

    @property
    def pooling(self) -> Pooling:
        """How the file says to make one vector of a text's positions."""
        number = self._c.llama_pooling_type(self._context)
        if not 0 <= number < len(POOLINGS):
            raise UnsupportedError(f"{self.gguf}: it pools by ranking: it has no embedding")
        return POOLINGS[number]

    def tokenize(self, text: str, add_special: bool) -> list[int]:
        """Token ids; special tokens written out in the text are themselves, as in Hugging Face's tokenizers."""
        raw = text.encode()
        tokens = (ctypes.c_int32 * (len(raw) + 8))()
        found = self._c.llama_tokenize(self._vocabulary, raw, len(raw), tokens, len(tokens), add_special, True)
        if found < 0:
            raise FormatError(f"{self.gguf}: its tokenizer gives more tokens than the text has bytes")
        return list(tokens[:found])

    def log_probabilities(self, tokens: Sequence[int]) -> Floats:
        """float32 (positions, vocabulary): after each token, the log-softmax over every token that may follow."""
        if self.encoder:
            raise UnsupportedError(f"{self.gguf}: {self.architecture} is an encoder: it predicts no next token")
        result = np.empty((len(tokens), self.vocabulary), np.float32)
        self._restart(tokens)
        for start in range(0, len(tokens), BATCH):
            self._run(self._c.llama_decode, tokens[start : start + BATCH])
            for number, row in enumerate(result[start : start + BATCH]):
                logits = self._c.llama_get_logits_ith(self._context, number)
                row[:] = _log_softmax(np.ctypeslib.as_array(logits, (self.vocabulary,)))
        return result

    def embedding(self, tokens: Sequence[int]) -> Floats:
        """float32, not normalised: (width,) as the file says to pool, else (positions, width)."""
        if not self.encoder:
            raise UnsupportedError(f"{self.gguf}: {self.architecture} predicts tokens: it is not run for embeddings")
        self._restart(tokens)
        self._c.llama_set_embeddings(self._context, True)
        self._run(self._c.llama_encode, tokens)
        width = int(self._c.llama_model_n_embd(self._model))
        if self.pooling != "none":
            return np.ctypeslib.as_array(self._c.llama_get_embeddings_seq(self._context, 0), (width,)).copy()
        rows = (self._c.llama_get_embeddings_ith(self._context, number) for number in range(len(tokens)))
        return np.stack([np.ctypeslib.as_array(row, (width,)) for row in rows])

    def _restart(self, tokens: Sequence[int]) -> None:
        if not 0 < len(tokens) <= self.context:
            raise UnsupportedError(f"{len(tokens)} tokens: this context takes 1 to {self.context}")
        if not all(0 <= token < self.vocabulary for token in tokens):
            raise UnsupportedError(f"{self.gguf}: a token outside its vocabulary of {self.vocabulary}")
        memory = self._c.llama_get_memory(self._context)
        if memory:
            self._c.llama_memory_clear(memory, True)

    def _run(self, function: object, tokens: Sequence[int]) -> None:
        assert callable(function)
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        wanted = (ctypes.c_int8 * len(tokens))(*[1] * len(tokens))
        batch = self._c.llama_batch_get_one(array, len(tokens))
        batch.logits = ctypes.addressof(wanted)
        if code := function(self._context, batch):
            raise AdaptoolError(f"{self.gguf}: llama.cpp failed at a token ({code}): {self.library.reason()}")


def _log_softmax(logits: Floats) -> Floats:
    values = logits.astype(np.float64)
    values -= values.max()
    return values - np.log(np.exp(values).sum())
