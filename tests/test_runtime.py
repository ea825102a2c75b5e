"""A GGUF run in llama.cpp: the distributions are its model's, a defect shows, and a bad file is an error in words."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

from adaptool.errors import FormatError, MismatchError, NotFoundError, UnsupportedError
from adaptool.parity.agreement import compare_distributions, compare_embeddings
from adaptool.parity.gguf_forward import PLAIN, bound_of, forward_gguf
from adaptool.parity.llama_cpp import HINT
from adaptool.parity.runtime import Runtime, open_runtime

HALF_CONTEXT = 2e-2
"""Nats: the runtime keeps keys and values in 16 bits, and weights this large make much of that."""

PROMPTS = ("the cat sat on the mat", "a dog, and the log!", "cats and dogs")
TEMPLATE = "{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %} ok"
HEADS, KV_HEADS, WIDTH, LAYERS, RANK = 4, 2, 64, 2, 4

needs_runtime = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs adaptool[runtime]: xllamacpp")


@dataclass(frozen=True)
class Tiny:
    """A tiny Llama: its folder, its model, and the GGUF of both."""

    folder: Path
    model: Any
    tokenizer: Any
    gguf: Path

    def log_probabilities(self, tokens: list[int]) -> np.ndarray:
        import torch

        with torch.no_grad():
            return torch.log_softmax(self.model(torch.tensor([tokens])).logits[0].double(), -1).float().numpy()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<eos>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(list(PROMPTS) * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=128, initializer_range=0.2,
        bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # so that what it says is text: only tokens of plain letters are ever best
        for token, number in tokenizer.get_vocab().items():
            model.lm_head.weight[number] *= token.strip("Ġ").isascii() and token.strip("Ġ").isalpha()
    model.save_pretrained(folder)
    return Tiny(folder, model, tokenizer, write_gguf(folder / "tiny.gguf", model, tokenizer))


def write_gguf(path: Path, model: Any, tokenizer: Any, *, template: str | None = None, defect: str = "") -> Path:
    """The model in F32, by the gguf package: adaptool's own conversion has no part in it."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_token_list(tokens if defect != "tokens" else [tokens[0], *tokens[:0:-1]])
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(template)
    for name, tensor in model.state_dict().items():
        if not (defect == "missing" and "0.mlp.up_proj" in name):
            writer.add_tensor(*gguf_tensor(name, tensor.float().numpy(), defect), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_tensor(name: str, values: np.ndarray, defect: str) -> tuple[str, np.ndarray]:
    """Name and values as llama.cpp wants them: rotary halves interleaved, head by head, in q and k."""
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
        ("model.layers", "blk"), ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"), ("self_attn.", "attn_"), ("mlp.", "ffn_"), ("_proj", ""),
    ):  # fmt: skip
        name = name.replace(ours, theirs)
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
    if heads and not (defect == "permutation" and heads == HEADS):
        rows, columns = values.shape
        values = values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return name, np.ascontiguousarray(values)


@pytest.fixture(scope="module")
def runtime(tiny: Tiny) -> Iterator[Runtime]:
    with open_runtime(tiny.gguf, threads=1) as opened:
        yield opened


@needs_runtime
@pytest.mark.parametrize("prompt", PROMPTS)
def test_distributions_are_the_models_over_the_whole_vocabulary(prompt: str, tiny: Tiny, runtime: Runtime):
    tokens = tiny.tokenizer(prompt)["input_ids"]
    found = runtime.log_probabilities(tokens)
    assert (found.dtype, found.shape) == (np.float32, (len(tokens), len(tiny.tokenizer)))
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(found, tiny.log_probabilities(tokens), atol=HALF_CONTEXT)


@needs_runtime
def test_a_text_longer_than_a_batch_is_one_text(tiny: Tiny, runtime: Runtime):
    tokens = [1 + number % 300 for number in range(120)]
    found = compare_distributions(tiny.log_probabilities(tokens), runtime.log_probabilities(tokens))
    assert (found.positions, found.top1_agreement) == (120, 1.0)
    assert found.max_kl < HALF_CONTEXT**2


@needs_runtime
@pytest.mark.parametrize("prompt", [*PROMPTS, "", "naïve café 東京 <eos> \n\n  x"])
def test_tokens_are_the_tokenizers(prompt: str, tiny: Tiny, runtime: Runtime):
    assert runtime.tokenize(prompt) == tiny.tokenizer(prompt)["input_ids"]


@needs_runtime
def test_generation_takes_the_best_token_each_time(tiny: Tiny, runtime: Runtime):
    tokens = tiny.tokenizer(PROMPTS[0])["input_ids"]
    for _ in range(6):
        tokens.append(int(tiny.log_probabilities(tokens)[-1].argmax()))
    assert runtime.generate(PROMPTS[0], 6) == tiny.tokenizer.decode(tokens)[len(PROMPTS[0]) :]
    with pytest.raises(UnsupportedError, match="no chat template"):
        runtime.generate([{"role": "user", "content": "hi"}], 4)


@needs_runtime
def test_a_prompt_goes_through_the_files_chat_template(tiny: Tiny, tmp_path: Path):
    gguf = write_gguf(tmp_path / "chat.gguf", tiny.model, tiny.tokenizer, template=TEMPLATE)
    with open_runtime(gguf, threads=1) as opened:
        asked = opened.generate("the cat", 4)
        assert (asked, asked) == (
            opened.generate([{"role": "user", "content": "the cat"}], 4),
            opened.generate("[user] the cat ok", 4, template=False).strip(),
        )


@needs_runtime
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_gguf_adapter_adds_its_update_at_its_scale(scale: float, tiny: Tiny, tmp_path: Path):
    import torch
    from transformers import LlamaForCausalLM

    random = np.random.default_rng(0)
    A, B = (random.normal(0, 0.3, shape).astype(np.float32) for shape in ((RANK, 96), (WIDTH, RANK)))
    writer = GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * RANK)
    writer.add_tensor("blk.1.ffn_down.weight.lora_a", A)
    writer.add_tensor("blk.1.ffn_down.weight.lora_b", B)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    adapted = LlamaForCausalLM.from_pretrained(tiny.folder)
    with torch.no_grad():
        adapted.model.layers[1].mlp.down_proj.weight += 2 * scale * torch.from_numpy(B @ A)
    tokens = tiny.tokenizer(PROMPTS[0])["input_ids"]
    expected = Tiny(tiny.folder, adapted, tiny.tokenizer, tiny.gguf).log_probabilities(tokens)
    with open_runtime(tiny.gguf, lora=[(tmp_path / "lora.gguf", scale)], threads=1) as opened:
        np.testing.assert_allclose(opened.log_probabilities(tokens), expected, atol=HALF_CONTEXT)
        assert opened.generate(PROMPTS[0], 1) == tiny.tokenizer.decode(int(expected[-1].argmax()))


@needs_runtime
def test_a_faithful_file_agrees_with_its_model(tiny: Tiny):
    found = forward_gguf(tiny.gguf, tiny.folder, PROMPTS, threads=1)
    assert (found.agrees, found.file_type, found.bound, found.tokenization) == (True, "F32", PLAIN, ())
    assert found.distributions is not None
    assert found.distributions.positions == sum(len(tiny.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS)
    assert found.distributions.mean_kl < 1e-5


@needs_runtime
def test_an_unpermuted_query_is_caught(tiny: Tiny, tmp_path: Path):
    gguf = write_gguf(tmp_path / "bad.gguf", tiny.model, tiny.tokenizer, defect="permutation")
    found = forward_gguf(gguf, tiny.folder, PROMPTS, threads=1)
    assert found.distributions is not None
    assert (found.agrees, found.tokenization) == (False, ())
    assert found.distributions.mean_kl > 10 * PLAIN.mean_kl


@needs_runtime
def test_tokens_in_another_order_are_a_finding_of_their_own(tiny: Tiny, tmp_path: Path):
    gguf = write_gguf(tmp_path / "bad.gguf", tiny.model, tiny.tokenizer, defect="tokens")
    found = forward_gguf(gguf, tiny.folder, PROMPTS, threads=1)
    assert found.distributions is not None
    assert found.distributions.mean_kl <= PLAIN.mean_kl  # both were fed the same ids
    assert [mismatch.text for mismatch in found.tokenization] == list(PROMPTS)
    assert (found.agrees, found.tokenization[0].position) == (False, 0)


@needs_runtime
@pytest.mark.parametrize(
    ("size", "reason"),
    [(0, "failed to read magic"), (4, "failed to read"), (2000, "failed to read"), (-1000, "not within the file")],
)
def test_a_truncated_file_is_an_error_with_the_runtimes_reason(size: int, reason: str, tiny: Tiny, tmp_path: Path):
    gguf = Path(shutil.copy(tiny.gguf, tmp_path))
    os.truncate(gguf, size if size >= 0 else gguf.stat().st_size + size)
    with pytest.raises(FormatError, match=reason), open_runtime(gguf, threads=1):
        pass


@needs_runtime
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"hello", "invalid magic"), (b"GGUF" + b"\xff" * 60, "does not load it")],
    ids=["text", "ones"],
)
def test_another_file_is_an_error(content: bytes, reason: str, tmp_path: Path):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(FormatError, match=reason), open_runtime(tmp_path / "x.gguf", threads=1):
        pass


@needs_runtime
def test_a_missing_tensor_is_named(tiny: Tiny, tmp_path: Path):
    gguf = write_gguf(tmp_path / "bad.gguf", tiny.model, tiny.tokenizer, defect="missing")
    with (
        pytest.raises(FormatError, match=r": tensor 'blk\.0\.ffn_up\.weight' not found"),
        open_runtime(gguf, threads=1),
    ):
        pass


@needs_runtime
def test_a_file_that_kills_the_runtime_does_not_kill_us(tiny: Tiny, tmp_path: Path):
    gguf = Path(shutil.copy(tiny.gguf, tmp_path))
    with open_runtime(gguf, threads=1) as opened:
        os.truncate(gguf, 1000)  # the weights are mapped: what lies behind the end cannot be read any more
        with pytest.raises(FormatError, match="died of it"):
            opened.log_probabilities([1, 2, 3])


@needs_runtime
def test_requests_it_cannot_serve_are_refused_and_it_goes_on(tiny: Tiny, runtime: Runtime):
    for tokens in ([], [1] * 513, [10**6]):
        with pytest.raises(UnsupportedError):
            runtime.log_probabilities(tokens)
    with pytest.raises(UnsupportedError, match="predicts tokens"):
        runtime.embedding("cat")
    assert runtime.tokenize("cat") == tiny.tokenizer("cat")["input_ids"]


@needs_runtime
def test_a_missing_file_or_adapter_is_named(tiny: Tiny, tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"no\.gguf"), open_runtime(tmp_path / "no.gguf"):
        pass
    with pytest.raises(NotFoundError, match=r"no\.gguf"), open_runtime(tiny.gguf, lora=[(tmp_path / "no.gguf", 1.0)]):
        pass
    with pytest.raises(FormatError, match="as an adapter"), open_runtime(tiny.gguf, lora=[(tiny.gguf, 1.0)]):
        pass


def test_without_the_extra_the_hint_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("adaptool.parity.runtime.find_spec", lambda _: None)
    with pytest.raises(UnsupportedError) as caught, open_runtime(tmp_path / "x.gguf"):
        pass
    assert caught.value.hint == HINT


def test_agreement_by_hand():
    reference = np.log(np.array([[0.7, 0.2, 0.1], [0.4, 0.38, 0.22], [0.1, 0.1, 0.8]], np.float32))
    candidate = np.log(np.array([[0.7, 0.2, 0.1], [0.38, 0.4, 0.22], [0.5, 0.1, 0.4]], np.float32))
    found = compare_distributions(reference, candidate, [0, 1, -1])
    divergence = [0.0, 0.4 * np.log(0.4 / 0.38) + 0.38 * np.log(0.38 / 0.4), 0.1 * np.log(0.2) + 0.8 * np.log(2)]
    assert (found.positions, found.unclear, found.top1_agreement) == (3, 1, 0.5)  # the second is too close to call
    assert found.mean_kl == pytest.approx(np.mean(divergence), abs=1e-6)
    assert found.max_kl == pytest.approx(max(divergence), abs=1e-6)
    assert found.perplexity_ratio == pytest.approx(np.sqrt(0.38 / 0.4), abs=1e-6)


def test_agreement_where_nothing_is_clear_or_known():
    even = np.log(np.full((1, 4), 0.25, np.float32))
    found = compare_distributions(even, even)
    assert (found.unclear, found.top1_agreement, found.mean_kl, found.perplexity_ratio) == (1, None, 0.0, None)


def test_a_token_the_reference_rules_out_adds_nothing():
    reference = np.array([[0.0, -np.inf]], np.float32)
    assert compare_distributions(reference, np.log(np.array([[0.5, 0.5]], np.float32))).mean_kl == pytest.approx(
        np.log(2), abs=1e-6
    )


def test_other_shapes_are_a_mismatch():
    with pytest.raises(MismatchError):
        compare_distributions(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))
    with pytest.raises(MismatchError):
        compare_embeddings([np.zeros(3, np.float32)], [np.zeros(4, np.float32)])


def test_embeddings_by_hand():
    found = compare_embeddings(
        [np.array([1.0, 0.0], np.float32), np.array([3.0, 4.0], np.float32)],
        [np.array([1.0, 0.0], np.float32), np.array([4.0, 3.0], np.float32)],
    )
    assert (found.texts, found.min_cosine, found.max_abs) == (2, pytest.approx(0.96), 1.0)


def test_the_fewer_the_bits_the_looser_the_bound():
    kls = [bound_of(label).mean_kl for label in ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q2_K", "IQ1_S")]
    assert kls == sorted(kls)
