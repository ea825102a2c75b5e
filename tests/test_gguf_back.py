"""GGUF → model folder: what a checkpoint was converted from is what comes back, and a GGUF is a base like any other."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf as reference
import numpy as np
import pytest
import torch
import transformers
from making import lora, numbers, refusal_of, tree
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from adaptool import api
from adaptool.adapters.base import open_base
from adaptool.archs.gguf.decoders import llama3_factors
from adaptool.archs.gguf.hparams import Hparams
from adaptool.archs.gguf.placing import place
from adaptool.archs.gguf.tables import architecture_keys, hparams_of, spec_for
from adaptool.cli.main import main
from adaptool.errors import UnsupportedError, UsageError
from adaptool.gguf.back import default_dtype, model_folder
from adaptool.gguf.back_job import BackJob
from adaptool.gguf.converted import Converted
from adaptool.gguf.dequantized import Dequantized
from adaptool.gguf.job import WriteOptions
from adaptool.gguf.metadata import Metadata
from adaptool.gguf.origins import Origin
from adaptool.gguf.rope_back import LLAMA3_FACTORS, rope_settings
from adaptool.merging.options import MergeOptions
from adaptool.tensors.dtypes import BF16, F16, F32, Array, DType, narrow, widen
from adaptool.tensors.ggml.types import GGMLType, ggml_type
from adaptool.tensors.ggml.values import Value, ValueType, array, f32, text, u32
from adaptool.tensors.gguf import open_gguf
from adaptool.tensors.gguf_writer import plan_gguf
from adaptool.tensors.store import MemoryStore, Store
from adaptool.tensors.views import View
from adaptool.tensors.writer import PieceWriter, pieces_of

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
RMS = {"rms_norm_eps": 3e-5}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GPT2 = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "layer_norm_epsilon": 3e-5}
FALCON = {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **NO_TOKENS}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0],
    "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0],
    "original_max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Case:
    """A tiny model of transformers; ``lost`` are the tensors a GGUF has no place for."""

    config_class: str
    settings: Mapping[str, Any]
    lost: frozenset[str] = frozenset()
    kind: Any = torch.bfloat16
    loads_as: str | None = None
    """The model type it comes back as, where that is another's that is the same."""


CASES = {
    "llama": Case("LlamaConfig", {**GROUPED, **RMS, "rope_parameters": {"rope_type": "default", "rope_theta": 2e4}}),
    "llama-biased": Case(
        "LlamaConfig",
        {**GROUPED, "tie_word_embeddings": True, "head_dim": 32, "attention_bias": True, "mlp_bias": True},
    ),
    "llama-f16": Case("LlamaConfig", GROUPED, kind=torch.float16),
    "llama-f32": Case("LlamaConfig", GROUPED, kind=torch.float32),
    "llama-3.2": Case("LlamaConfig", {**GROUPED, "head_dim": 64, "rope_parameters": LLAMA3}),
    "llama-linear": Case(
        "LlamaConfig", {**GROUPED, "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}
    ),
    "llama-yarn": Case(
        "LlamaConfig",
        {
            **GROUPED,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "rope_theta": 10000.0,
            },
        },
    ),
    "mistral": Case("MistralConfig", {**GROUPED, "head_dim": 32, "sliding_window": None}, loads_as="llama"),
    "mixtral": Case("MixtralConfig", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": Case("Qwen2Config", {**GROUPED, **RMS, "tie_word_embeddings": True}),
    "qwen2-moe": Case(
        "Qwen2MoeConfig", {**GROUPED, **EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 64}
    ),
    "qwen3": Case("Qwen3Config", {**GROUPED, **RMS, "head_dim": 32}),
    "qwen3-moe": Case(
        "Qwen3MoeConfig", {**GROUPED, **EXPERTS, "head_dim": 32, "num_experts": 4, "norm_topk_prob": True}
    ),
    "gemma": Case("GemmaConfig", {**GROUPED, **RMS, "head_dim": 32}),
    "gemma2": Case("Gemma2Config", {**GROUPED, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
    "gemma3": Case("Gemma3TextConfig", {**GROUPED, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
    "phi2": Case("PhiConfig", {**SIZES, "partial_rotary_factor": 0.5, "layer_norm_eps": 3e-5}),
    "phi3": Case("Phi3Config", {**GROUPED, **RMS}),
    "phi3-long": Case("Phi3Config", {**GROUPED, "rope_parameters": LONGROPE, "original_max_position_embeddings": 64}),
    "gpt2": Case("GPT2Config", {**GPT2, **NO_TOKENS}),
    "gpt-neox": Case("GPTNeoXConfig", {**SIZES, "rotary_pct": 0.5, "layer_norm_eps": 3e-5}),
    "starcoder2": Case("Starcoder2Config", {**GROUPED, "norm_epsilon": 3e-5}),
    "smollm3": Case("SmolLM3Config", {**GROUPED, "num_hidden_layers": 4}),
    "granite": Case(
        "GraniteConfig",
        {
            **GROUPED,
            "attention_multiplier": 0.125,
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 3.0,
        },
    ),
    "olmo2": Case("Olmo2Config", {**GROUPED, **RMS}),
    "cohere": Case("CohereConfig", {**GROUPED, "logit_scale": 0.25}),
    "falcon-7b": Case("FalconConfig", {**FALCON, "layer_norm_epsilon": 3e-5}),
    "falcon-40b": Case("FalconConfig", {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon-11b": Case(
        "FalconConfig", {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}
    ),
    "bert": Case("BertConfig", SIZES, frozenset({"pooler.dense.weight", "pooler.dense.bias"})),
}
UNTOLD = {
    *("_name_or_path", "transformers_version", "architectures", "use_cache", "torch_dtype"),
    *("n_inner", "multi_query", "num_kv_heads", "num_ln_in_parallel_attn"),  # what the class assumes, spelt out
}
"""Settings that may differ between two configs of the same model."""


def auto(case: Case) -> type:
    return AutoModel if case.config_class == "BertConfig" else AutoModelForCausalLM


def made(case: Case, folder: Path) -> Path:
    """The case's model with every parameter random, saved by transformers."""
    torch.manual_seed(7)
    model = auto(case).from_config(getattr(transformers, case.config_class)(**case.settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
        # a norm's weight keeps its last bits when one is added to it
        parameter.data += 0.25 * (parameter.ndim == 1)
    model.to(case.kind).save_pretrained(folder)
    return folder


def as_gguf(folder: Path, path: Path, kind: str | None = None, more: Mapping[str, Value] | None = None) -> Path:
    """The GGUF of a checkpoint, its matrices quantised by gguf's NumPy where ``kind`` is given."""
    base = open_base(folder)
    spec = spec_for(base.config, str(folder))
    hparams = hparams_of(spec, base.config or {})
    placed = place(spec, {name: info.shape for name, info in base.store.infos.items()}, hparams)
    store: Store = Converted(base.store, placed, spec.extras(hparams))
    if kind is not None:
        store = quantised(store, kind)
    keys = {"general.architecture": text(spec.name), **architecture_keys(spec, hparams), **(more or {})}
    plans = plan_gguf(path.stem, keys, store)
    writer = PieceWriter(store, path.parent, plans)
    for piece in pieces_of(store, plans):
        writer.write(piece)
    writer.close()
    return path


def quantised(store: Store, kind: str) -> Store:
    chosen = ggml_type(kind)
    tensors: dict[str, tuple[DType, Array]] = {}
    for name, info in store.infos.items():
        if len(info.shape) > 1 and not name.endswith("_norm.weight"):
            tensors[name] = chosen, rows_as(store.array(name).reshape(info.rows, -1), chosen)
        else:
            tensors[name] = info.dtype, store.read(name).reshape(info.shape)
    shapes = {name: info.shape for name, info in store.infos.items()}
    return Shaped(tensors, shapes)


class Shaped(MemoryStore):
    """Quantised rows in memory, with the shapes of what they stand for."""

    def __init__(self, tensors: Mapping[str, tuple[DType, Array]], shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(tensors)
        object.__setattr__(self, "shapes", shapes)

    @property
    def infos(self) -> Any:
        from adaptool.tensors.store import TensorInfo

        return {name: TensorInfo(name, kind, self.shapes[name]) for name, (kind, _) in self.tensors.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        info, start, stop = self.span(name, start, stop)
        rows = self.tensors[name][1].reshape(info.rows, -1)[start:stop]
        if out is not None:
            np.copyto(out, rows)
        return rows


def rows_as(values: Array, kind: DType) -> Array:
    assert isinstance(kind, GGMLType)
    return reference.quants.quantize(values.astype(np.float32), reference.GGMLQuantizationType(kind.id))


def rounded_trip(values: torch.Tensor, kind: str) -> torch.Tensor:
    """A matrix quantised, dequantised and rounded to bfloat16."""
    number = reference.GGMLQuantizationType(ggml_type(kind).id)
    raw = reference.quants.quantize(values.float().numpy(), number)
    return torch.from_numpy(reference.quants.dequantize(raw, number)).bfloat16()


def back(path: Path, out: Path, **how: Any) -> Path:
    for _ in api.convert_back(path, out, **how):
        pass
    return out


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_comes_back_bit_for_bit(name: str, tmp_path: Path):
    case = CASES[name]
    folder = made(case, tmp_path / "model")
    path = as_gguf(folder, tmp_path / "model.gguf")
    out = back(path, tmp_path / "back")

    theirs, ours = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert set(theirs) - set(ours) == case.lost
    assert set(ours) <= set(theirs)
    assert {name: tensor.dtype for name, tensor in ours.items()} == dict.fromkeys(ours, case.kind)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []

    assert [name for name in case.lost if not any(name in note for note in model_folder(path).notes)] == []

    models = [auto(case).from_pretrained(place, dtype=case.kind).eval() for place in (folder, out)]
    first, second = (model.config.to_dict() for model in models)
    if case.loads_as is None:
        different = {key for key in first if first[key] != second.get(key)} - UNTOLD
        assert different <= ({"rope_parameters"} if "type" in (second.get("rope_parameters") or {}) else set())
    else:
        assert second["model_type"] == case.loads_as

    tokens = torch.arange(1, 60)[None]
    with torch.no_grad():
        assert torch.equal(*(model(tokens)[0] for model in models))


@pytest.mark.parametrize("kind", ["q8_0", "q4_1"])
@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt-neox", "phi3", "qwen2-moe"])
def test_quantised_rows_come_back_as_their_dequantised_values(name: str, kind: str, tmp_path: Path):
    folder = made(CASES[name], tmp_path / "model")
    out = back(as_gguf(folder, tmp_path / "model.gguf", kind), tmp_path / "back")
    theirs, ours = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert ours.keys() == theirs.keys()
    expected = {name: rounded_trip(tensor, kind) if tensor.ndim > 1 else tensor for name, tensor in theirs.items()}
    assert [name for name in ours if not torch.equal(ours[name], expected[name])] == []


def test_quantised_columns_come_back_where_the_checkpoint_is_transposed(tmp_path: Path):
    folder = made(CASES["gpt2"], tmp_path / "model")
    found = model_folder(as_gguf(folder, tmp_path / "model.gguf", "q8_0")).store
    theirs = load_file(folder / "model.safetensors")
    for name in ("transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_proj.weight"):
        expected = rounded_trip(theirs[name].T.contiguous(), "q8_0").T
        parts = [found.read(name, start, stop) for start, stop in found.spans(name, 3000)]
        assert len(parts) > 1
        assert np.array_equal(np.concatenate(parts), expected.contiguous().view(torch.int16).numpy().view(np.uint16))


@pytest.mark.parametrize("name", ["llama", "llama-biased", "mixtral", "gpt-neox", "gpt2", "falcon-40b", "gemma"])
def test_any_rows_can_be_asked_for(name: str, tmp_path: Path):
    found = model_folder(as_gguf(made(CASES[name], tmp_path / "m"), tmp_path / "m.gguf", "q8_0")).store
    draw = np.random.default_rng(1)
    for tensor, info in found.infos.items():
        whole = found.read(tensor)
        for nbytes in (1, 700, 1 << 30):
            spans = list(found.spans(tensor, nbytes))
            assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
            assert spans[-1][1] == info.rows
            assert np.array_equal(np.concatenate([found.read(tensor, *span) for span in spans]), whole)
        start, stop = sorted(int(row) for row in draw.integers(0, info.rows + 1, 2))
        out = np.empty((stop - start, info.columns), info.dtype.storage)
        assert found.read(tensor, start, stop, out) is out
        assert np.array_equal(out, whole[start:stop])
    again = pickle.loads(pickle.dumps(found))
    assert again.read(tensor).tobytes() == whole.tobytes()


@dataclass(frozen=True, eq=False)
class Counting(View):
    """What is read of ``source``, in rows."""

    source: Store
    rows: list[int] = field(default_factory=list)

    def read(self, name: str, start: int = 0, stop: int | None = None, out: Array | None = None) -> Array:
        self.rows.append((self.source[name].rows if stop is None else stop) - start)
        return self.source.read(name, start, stop, out)


@pytest.mark.parametrize("nbytes", [1 << 10, 5000, 1 << 20])
def test_a_permuted_tensor_is_read_once_and_head_by_head(nbytes: int):
    heads, width, columns = 6, 16, 32
    order = np.arange(heads * width).reshape(heads, width // 2, 2).swapaxes(1, 2).reshape(-1)
    raw = np.arange(heads * width * columns, dtype=np.float32).reshape(-1, columns)
    source = Counting(MemoryStore({"q": (F32, raw)}))
    store = Dequantized(source, {"q": Origin(raw.shape, ("q",), 0, order)}, F32)
    rows = np.concatenate([store.read("q", *span) for span in store.spans("q", nbytes)])
    assert np.array_equal(rows, raw[order])
    assert sum(source.rows) == heads * width


def test_several_tensors_make_one():
    parts = {"a": numbers("F32", (4, 8), 1), "b": numbers("F32", (6, 8), 2)}
    source = MemoryStore({name: (F32, values) for name, values in parts.items()})
    order = np.array([9, 0, 1, 2, 5, 4, 3, 8, 7, 6])
    store = Dequantized(source, {"w": Origin((10, 8), ("a", "b"), 0, order)}, F32)
    expected = np.concatenate(list(parts.values()))[order]
    assert np.array_equal(store.read("w"), expected)
    assert np.array_equal(store.read("w", 2, 9), expected[2:9])


def test_bytes_that_need_no_change_are_left_to_the_kernel(tmp_path: Path):
    path = as_gguf(made(CASES["mixtral"], tmp_path / "m"), tmp_path / "m.gguf")
    found = model_folder(path).store
    copied = {name for name in found if found.extent(name) is not None}
    assert "model.layers.1.block_sparse_moe.experts.3.w2.weight" in copied
    assert "model.layers.1.self_attn.o_proj.weight" in copied
    assert "model.layers.1.self_attn.q_proj.weight" not in copied
    for name in copied:
        extent = found.extent(name)
        assert extent is not None
        assert path.read_bytes()[extent.offset :][: extent.length] == found.read(name).tobytes()
    assert found.files == {path}
    assert model_folder(path, F16).store.extent("model.layers.1.self_attn.o_proj.weight") is None


# Which type.


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("bf16", "f32"), BF16),
        (("f16", "f32"), F16),
        (("q4_k", "f16", "f32"), F16),
        (("q4_k", "f32"), BF16),
        (("f32",), F32),
    ],
)
def test_the_type_follows_the_file(kinds: tuple[str, ...], expected: DType):
    chosen = [ggml_type(kind) for kind in kinds]
    tensors = {f"w{n}": (kind, np.zeros((2, 256), kind.storage)) for n, kind in enumerate(chosen)}
    norm = {"norm": (F32, np.zeros(999999, np.float32))}
    assert default_dtype(MemoryStore(tensors | norm)) == expected


@pytest.mark.parametrize("target", [BF16, F16, F32])
def test_a_type_that_is_asked_for_is_rounded_to_once(target: DType, tmp_path: Path):
    path = as_gguf(made(CASES["llama-f32"], tmp_path / "m"), tmp_path / "m.gguf", "q8_0")
    exact, found = model_folder(path, F32), model_folder(path, target)
    assert found.config["torch_dtype"] == target.torch_name
    for name in found.store:
        assert np.array_equal(found.store.read(name), narrow(widen(exact.store.read(name), F32), target))


# Rotary settings.


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_settings_are_found_from_their_factors(factor: float, head_dim: int):
    rope = {**LLAMA3, "factor": factor}
    assert scaling_of(rope, head_dim) == {name: value for name, value in rope.items() if name != "rope_theta"}


def test_other_llama3_settings_give_the_same_factors():
    rope = {**LLAMA3, "low_freq_factor": 2.0, "high_freq_factor": 6.0, "original_max_position_embeddings": 4096}
    found = {**scaling_of(rope, 128), "rope_theta": rope["rope_theta"]}
    assert factors_of(found, 128) == pytest.approx(factors_of(rope, 128), rel=1e-3)


def factors_of(rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    config = {"head_dim": head_dim, "hidden_size": head_dim, "num_attention_heads": 1, "rope_parameters": rope}
    return llama3_factors(Hparams(config, {}))[LLAMA3_FACTORS]


def scaling_of(rope: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    keys = {"general.architecture": text("llama"), "llama.rope.freq_base": f32(rope["rope_theta"])}
    return rope_settings(Metadata(Path("m.gguf"), keys), head_dim, {LLAMA3_FACTORS: factors_of(rope, head_dim)})[
        "rope_scaling"
    ]


def test_factors_that_no_setting_gives_are_refused(tmp_path: Path):
    folder = made(CASES["llama-3.2"], tmp_path / "m")
    base = open_base(folder)
    spec = spec_for(base.config, "m")
    hparams = hparams_of(spec, base.config or {})
    placed = place(spec, {name: info.shape for name, info in base.store.infos.items()}, hparams)
    odd = {LLAMA3_FACTORS: np.linspace(1, 9, 32, dtype=np.float32)[::-1].copy()}
    store = Converted(base.store, placed, odd)
    keys = {"general.architecture": text(spec.name), **architecture_keys(spec, hparams)}
    plans = plan_gguf("m", keys, store)
    writer = PieceWriter(store, tmp_path, plans)
    for piece in pieces_of(store, plans):
        writer.write(piece)
    writer.close()
    with pytest.raises(UnsupportedError, match="no settings for"):
        model_folder(tmp_path / "m.gguf")


# The folder.

BYTES = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
TOKENS = [*BYTES, *(chr(256 + n) for n in range(256 - len(BYTES))), "Ġa", "<|end|>", "<|eot|>", "<|pad|>"]
TOKENIZER: dict[str, Value] = {
    "tokenizer.ggml.model": text("gpt2"),
    "tokenizer.ggml.pre": text("gpt-2"),
    "tokenizer.ggml.tokens": array(ValueType.STRING, TOKENS),
    "tokenizer.ggml.token_type": array(ValueType.INT32, [1] * 257 + [3] * 3),
    "tokenizer.ggml.merges": array(ValueType.STRING, ["Ġ a"]),
    "tokenizer.ggml.bos_token_id": u32(257),
    "tokenizer.ggml.eos_token_id": u32(257),
    "tokenizer.ggml.eot_token_id": u32(258),
    "tokenizer.ggml.padding_token_id": u32(259),
    "tokenizer.chat_template": text("{% for m in messages %}{{ m.content }}<|eot|>{% endfor %}"),
    "general.name": text("A tiny\nmodel"),
    "general.license": text("apache-2.0"),
    "general.base_model.count": u32(1),
    "general.base_model.0.repo_url": text("https://huggingface.co/org/tiny"),
    "general.sampling.temp": f32(0.6),
    "general.sampling.top_k": Value(ValueType.INT32, 20),
}


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A GGUF with a tokenizer, a template, recommended sampling and a licence."""
    case = Case("LlamaConfig", {**GROUPED, "vocab_size": len(TOKENS), "tie_word_embeddings": True})
    return as_gguf(made(case, tmp_path / "hf"), tmp_path / "tiny.gguf", "q8_0", TOKENIZER)


def test_what_lies_beside_the_weights_comes_back(spoken: Path, tmp_path: Path):
    out = back(spoken, tmp_path / "out")
    assert json.loads((out / "generation_config.json").read_text()) == {
        "bos_token_id": 257,
        "do_sample": True,
        "eos_token_id": [257, 258],
        "pad_token_id": 259,
        "temperature": 0.6,
        "top_k": 20,
    }
    assert (out / "README.md").read_text().startswith('---\nlicense: apache-2.0\nbase_model:\n- "org/tiny"\n')
    assert "# A tiny model\n" in (out / "README.md").read_text()
    config = json.loads((out / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (257, 257, 259)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer("b a<|eot|>").input_ids == [TOKENS.index("b"), 256, 258]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "hi<|eot|>"
    manifest = json.loads((out / "adaptool.json").read_text())
    assert (manifest["kind"], manifest["base"]["name"]) == ("converted", "tiny.gguf")
    assert {file["name"] for file in manifest["files"]} | {"adaptool.json"} == set(tree(out))


def test_a_tokenizer_that_cannot_be_rebuilt_is_noted(tmp_path: Path):
    folder = made(CASES["llama"], tmp_path / "m")
    strange = api.convert_back(
        as_gguf(folder, tmp_path / "a.gguf", more={"tokenizer.ggml.model": text("rwkv")}), tmp_path / "out"
    )
    assert ["rwkv" in note for note in strange.notes] == [True]
    without = api.convert_back(as_gguf(folder, tmp_path / "b.gguf"), tmp_path / "out")
    assert ["holds no tokenizer" in note for note in without.notes] == [True]


def test_an_interrupted_conversion_is_gone_on_with(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = tree(back(spoken, tmp_path / "whole"))
    out = tmp_path / "out"
    running = iter(api.convert_back(spoken, out, workers=1))
    for _ in range(6):
        next(running)
    running.close()
    assert not out.exists()
    job = api.convert_back(spoken, out, resume=True)
    for _ in job:
        pass
    assert job.report.resumed_pieces == 5
    assert tree(out) == whole
    assert isinstance(refusal_of(lambda: back(spoken, out)), UsageError)
    assert tree(back(spoken, out, overwrite=True)) == whole


def test_large_models_are_written_in_parts(spoken: Path, tmp_path: Path):
    job = BackJob(spoken, tmp_path / "out", WriteOptions(2), shard_size=100_000)
    assert list(job.estimate.files) == sorted(job.estimate.files)
    for _ in job:
        pass
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert set(index["weight_map"]) == set(job.folder.store)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_only_a_gguf_is_taken_back(tmp_path: Path):
    folder = made(CASES["llama"], tmp_path / "m")
    with pytest.raises(UsageError, match="not a GGUF"):
        api.convert_back(folder / "model.safetensors", tmp_path / "out")
    with pytest.raises(UsageError, match="not a GGUF"):
        api.convert_back(folder, tmp_path / "out")


def test_the_command_writes_a_folder(spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    code = main(["convert", str(spoken), "--to-safetensors", "--out", str(out), "--dtype", "float16"])
    assert (code, capsys.readouterr().out) == (0, f"{out}\n")
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "float16"


# A base.


def run(job: Any) -> Any:
    for _ in job:
        pass
    return job.report


def test_merging_onto_a_gguf_is_merging_onto_what_it_stands_for(spoken: Path, tmp_path: Path):
    adapter = lora(tmp_path / "adapter")
    folder = back(spoken, tmp_path / "folder")
    onto_gguf = api.merge([(adapter, 1.0)], spoken, tmp_path / "one", options=MergeOptions())
    report = run(onto_gguf)
    run(api.merge([(adapter, 1.0)], folder, tmp_path / "other", options=MergeOptions()))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert report.changed == 4
    assert any("GGUF" in note for note in report.notes)
    beside = {name: content for name, content in tree(tmp_path / "one").items() if name.startswith("token")}
    assert beside == {name: content for name, content in tree(folder).items() if name.startswith("token")}
    assert "license: apache-2.0" in (tmp_path / "one" / "README.md").read_text()
    assert run(api.verify(tmp_path / "other", spoken, [(adapter, 1.0)])).ok


def test_an_adapter_is_inspected_against_a_gguf(spoken: Path, tmp_path: Path):
    found = api.inspect(lora(tmp_path / "adapter"), spoken)
    assert found.coverage is not None


def test_what_a_gguf_lays_out_goes_when_it_is_closed(spoken: Path):
    base = open_base(spoken)
    folder = base.folder
    assert (folder.name, (folder / "tokenizer.json").is_file()) == ("tiny", True)
    assert base.folder == folder
    del base
    assert not folder.exists()


def test_a_gguf_among_other_files_is_named(spoken: Path, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    spoken.rename(tmp_path / "folder" / "tiny.gguf")
    refused = refusal_of(lambda: open_base(tmp_path / "folder"))
    assert refused is not None
    assert refused.hint == "name a file: tiny.gguf"


def test_a_gguf_is_requantised_with_its_own_tokenizer(spoken: Path, tmp_path: Path):
    options = api.gguf_options("q4_0")
    run(api.convert(spoken, tmp_path / "small.gguf", options))
    before, after = open_gguf(spoken), open_gguf(tmp_path / "small.gguf")
    assert after.infos.keys() == before.infos.keys()
    kept = ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "padding_token_id")
    same = [f"tokenizer.ggml.{name}" for name in kept] + [key for key in before.keys if key.startswith("llama.")]
    assert {key: after.keys[key].data for key in same} == {key: before.keys[key].data for key in same}
