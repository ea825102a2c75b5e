"""The model a GGUF was made from, run by transformers in float32 on the CPU (extra ``[parity]``)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adaptool.errors import NotFoundError, UnsupportedError, UsageError
from adaptool.tensors.dtypes import Floats


class Reference(Protocol):
    """What a GGUF is compared with."""

    vocabulary: int
    """How many tokens it gives a probability."""

    def tokenize(self, text: str) -> list[int] | None:
        """Token ids, special ones included; None where it has no tokenizer."""

    def log_probabilities(self, tokens: Sequence[int]) -> Floats:
        """float32 (positions, vocabulary)."""

    def hidden_states(self, tokens: Sequence[int]) -> Floats:
        """float32 (positions, width): the last layer's, which embeddings are pooled from."""


class TransformersReference:
    """A Hugging Face folder as the reference; the model is loaded when first run."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise NotFoundError(f"{folder}: no config.json, so transformers cannot run it")
        self.folder = folder
        self._torch, self._transformers = _libraries()
        self._config = self._transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        self.vocabulary = int(self._config.get_text_config().vocab_size)
        self._tokenizer = self._open_tokenizer()
        self._models: dict[str, Any] = {}

    def tokenize(self, text: str) -> list[int] | None:
        """The folder's own tokenizer; None where it has none that loads."""
        return None if self._tokenizer is None else [int(token) for token in self._tokenizer(text)["input_ids"]]

    def log_probabilities(self, tokens: Sequence[int]) -> Floats:
        """float32 (positions, vocabulary), normalised in float64."""
        logits = self._run("AutoModelForCausalLM", tokens).logits[0]
        found: Floats = self._torch.log_softmax(logits.double(), -1).float().numpy()
        return found

    def hidden_states(self, tokens: Sequence[int]) -> Floats:
        """float32 (positions, width)."""
        found: Floats = np.asarray(self._run("AutoModel", tokens).last_hidden_state[0].float().numpy())
        return found

    def _run(self, kind: str, tokens: Sequence[int]) -> Any:
        with self._torch.no_grad():
            return self._model(kind)(input_ids=self._torch.tensor([list(tokens)]))

    def _model(self, kind: str) -> Any:
        if kind not in self._models:
            opener = getattr(self._transformers, kind)
            try:
                model = opener.from_pretrained(self.folder, dtype=self._torch.float32, local_files_only=True)
            except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
                raise UnsupportedError(f"{self.folder}: transformers cannot load it: {error}") from error
            self._models[kind] = model.eval()
        return self._models[kind]

    def _open_tokenizer(self) -> Any:
        try:
            return self._transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError):
            return None


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UsageError(
            f"the reference is run by transformers, which needs {error.name}",
            hint='install it with: pip install "adaptool[parity]"',
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|torch")
    return torch, transformers
