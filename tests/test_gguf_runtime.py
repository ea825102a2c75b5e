"""A tiny model of every GGUF table, converted and run in llama.cpp: text cut alike, distributions alike."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from adaptool import api
from adaptool.parity.gguf_forward import forward_gguf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gguf_models import cases  # noqa: E402
from gguf_tokenizers import SENTENCEPIECE  # noqa: E402

from adaptool.parity.reference import TransformersReference  # noqa: E402

pytestmark = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs adaptool[runtime]: xllamacpp")

CASES = dict(cases())
TYPES = ("F16", "Q8_0", "Q4_K_M")
ROUGH = ("llama-2", "mixtral", "qwen2", "gemma-3", "phi-3", "gpt-2", "falcon-7b", "bert")
"""Of all that are written in four bits, those that are run: one per way of laying out a layer."""
TEXTS = (
    "The quick brown fox isn't 12345 years old, is it?",
    "def f(x):\n\treturn x**2  # naïve café\n\n\n    done",
    "Привет 你好 日本語 😀👍🏽 ١٢٣ é ﬁ I'LL WE'VE camelCase HTTPServer 3.14 20,000   end  ",
)
"""Neither decomposed letters, which llama.cpp does not compose, nor a space in front, which transformers 5 takes for
the one that SentencePiece adds."""

MEAN_KL = {"F16": 1e-4, "Q8_0": 0.015, "Q4_K_M": 0.8}
"""Nats. Measured: at most 1e-5, 6e-3 and 0.32; a defect costs several."""
EXPERTS_KL = {"F16": 2e-3, "Q8_0": 0.06, "Q4_K_M": 1.2}
"""A token near the border between two experts goes to the other one: 3e-4, 0.03 and 0.6."""
TOP1 = {"F16": 0.99, "Q8_0": 0.97, "Q4_K_M": 0.4}
"""Four bits of random numbers lose much: measured from 0.53."""
MIN_COSINE = {"F16": 0.9999, "Q8_0": 0.999, "Q4_K_M": 0.95}
"""Of embeddings. Measured: 1.0, 0.9997 and 0.973."""
CLEAR = 20
"""Positions that must say something about top-1, lest agreement mean nothing."""


class Remembered(TransformersReference):
    """A reference that runs a prompt once, however many files are compared with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._outputs: dict[tuple[Any, ...], Any] = {}

    def _run(self, kind: str, tokens: Sequence[int]) -> Any:
        key = (kind, *tokens)
        if key not in self._outputs:
            self._outputs[key] = super()._run(kind, tokens)
        return self._outputs[key]


@dataclass(frozen=True)
class Converted:
    """A model's GGUF per type, the model for comparison, and whether it chooses experts."""

    ggufs: dict[str, Path]
    reference: Remembered
    experts: bool


@pytest.fixture(scope="module", params=CASES)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converted]:
    """A case, made and converted for its tests and deleted after them."""
    torch.set_num_threads(1)  # models this small only wait for more
    model = CASES[request.param]
    if not hasattr(transformers, model.model):
        pytest.skip(f"this transformers has no {model.model}")
    if model.tokenizer in SENTENCEPIECE and find_spec("sentencepiece") is None:
        pytest.skip("the tokenizer is trained by sentencepiece, which is not installed")
    folder = tmp_path_factory.mktemp("model")
    source, out = folder / "source", folder / "gguf"
    source.mkdir()
    model.save(source)
    for _ in api.convert(source, out, api.gguf_options(",".join(TYPES)), workers=1):
        pass
    ggufs = {kind: next(out.glob(f"*-{kind}.gguf")) for kind in TYPES}
    yield Converted(ggufs, Remembered(source), "num_experts_per_tok" in model.config)
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_llama_cpp_answers_like_transformers(kind: str, converted: Converted):
    check(converted, kind)


@pytest.mark.parametrize("converted", ROUGH, indirect=True)
def test_four_bits_answer_roughly_like_transformers(converted: Converted):
    check(converted, "Q4_K_M")


def check(converted: Converted, kind: str) -> None:
    found = forward_gguf(converted.ggufs[kind], converted.reference, TEXTS, threads=1)
    assert found.file_type == kind
    assert found.tokenization == ()
    if found.embeddings is not None:
        assert found.embeddings.min_cosine >= MIN_COSINE[kind]
        return
    assert found.distributions is not None
    assert found.distributions.mean_kl <= (EXPERTS_KL if converted.experts else MEAN_KL)[kind]
    assert found.distributions.top1_agreement is not None
    assert found.distributions.top1_agreement >= TOP1[kind]
    assert found.distributions.positions - found.distributions.unclear >= CLEAR
