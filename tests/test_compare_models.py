"""Two models compared: lined up whatever they are called and however they are stored, and the verdict on each pair."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from making import edit_json, llama, lora, merged, numbers, write_json, write_tensors
from making_gguf import converted, model, model_config, model_tensors

from adaptool.adapters.base import BaseModel, open_base
from adaptool.api import diff
from adaptool.cli.main import main
from adaptool.comparing.models import compare_models
from adaptool.comparing.models_config import settings_of
from adaptool.comparing.models_rank import difference_rank
from adaptool.parity.compare import Pair
from adaptool.rules.draft_pickle import torch_zip
from adaptool.tensors.blockwise import CODES
from adaptool.tensors.bnb import Bnb4bit
from adaptool.tensors.dtypes import BF16, DTYPES, dtype, narrow, widen
from adaptool.tensors.store import MemoryStore

SUMMED = 3e-6
"""Relative: squares are summed a few thousand at a time in float32."""

Q = "model.layers.0.self_attn.q_proj.weight"
Tensors = dict[str, tuple[str, np.ndarray]]


def read(folder: Path) -> Tensors:
    """Every tensor of a model folder, in its type."""
    store = open_base(folder).store
    return {name: (info.dtype.name, store.read(name).reshape(info.shape)) for name, info in store.infos.items()}


def cast(tensors: Tensors, kind: str) -> Tensors:
    """Every tensor rounded to one type."""
    return {name: (kind, narrow(widen(raw, dtype(old)), dtype(kind))) for name, (old, raw) in tensors.items()}


def values(tensors: Tensors, name: str) -> np.ndarray:
    kind, raw = tensors[name]
    return widen(raw, dtype(kind)).astype(np.float64)


def saved(folder: Path, tensors: Tensors, config: dict[str, object] | None = None) -> Path:
    """A model folder of these tensors."""
    write_tensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", model_config() if config is None else config)
    return folder


Change = Callable[[Path, Path], Path]
"""Makes the second model, from the first, in the second's folder; gives what to open."""


def copied(first: Path, out: Path) -> Path:
    return Path(shutil.copytree(first, out))


def linked(first: Path, out: Path) -> Path:
    """As the hub's cache holds a snapshot."""
    out.mkdir()
    for path in first.iterdir():
        (out / path.name).symlink_to(path)
    return out


def one_file(first: Path, out: Path) -> Path:
    out.mkdir()
    shutil.copy(first / "config.json", out)
    return Path(shutil.copy(first / "model.safetensors", out / "other.safetensors"))


def sharded(first: Path, out: Path) -> Path:
    return model(out, shards=3)


def reordered(first: Path, out: Path) -> Path:
    return saved(out, dict(reversed(read(first).items())))


def upcast(first: Path, out: Path) -> Path:
    return saved(out, cast(read(first), "F32"))


def pickled(first: Path, out: Path) -> Path:
    out.mkdir()
    shutil.copy(first / "config.json", out)
    arrays = {name: widen(raw, BF16) for name, (_, raw) in read(first).items()}
    (out / "pytorch_model.bin").write_bytes(torch_zip(arrays))
    return out


def reworded(first: Path, out: Path) -> Path:
    """config.json by another transformers."""
    copied(first, out)
    config = model_config(transformers_version="5.0.0", dtype="bfloat16", use_cache=True, pretraining_tp=1)
    del config["torch_dtype"], config["rope_theta"]
    write_json(out / "config.json", config | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}})
    return out


def without_body_prefix(first: Path, out: Path) -> Path:
    """Saved by the bare model's class, as AutoModel does."""
    names = {name: name.removeprefix("model.") for name in read(first)}
    return saved(out, {names[name]: value for name, value in read(first).items()})


def wrapped(first: Path, out: Path) -> Path:
    """Saved from under torch.compile."""
    return saved(out, {f"_orig_mod.{name}": value for name, value in read(first).items()})


def as_gguf(types: str) -> Change:
    return lambda first, out: converted(first, out.with_suffix(".gguf"), types)


SAME: dict[str, tuple[Change, str]] = {
    "copied": (copied, "identical"),
    "linked": (linked, "identical"),
    "one file": (one_file, "identical"),
    "sharded": (sharded, "re-saved"),
    "reordered": (reordered, "re-saved"),
    "upcast": (upcast, "re-saved"),
    "pickled": (pickled, "re-saved"),
    "reworded": (reworded, "re-saved"),
    "without the body's prefix": (without_body_prefix, "re-saved"),
    "wrapped": (wrapped, "re-saved"),
    "as a bfloat16 GGUF": (as_gguf("bf16"), "re-saved"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_values_are_the_same_model(name, tmp_path):
    first = model(tmp_path / "a")
    change, verdict = SAME[name]
    found = diff(first, change(first, tmp_path / "b"))
    assert (found.verdict, found.equal, found.level) == (verdict, True, "none"), found.because
    assert (found.tensors, found.relative) == ((), 0.0)
    assert found.tensors_same == len(read(first))


def edited(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """One tensor changed."""

    def make(first: Path, out: Path) -> Path:
        tensors = read(first)
        kind = tensors[name][0]
        return saved(out, tensors | {name: (kind, narrow(change(values(tensors, name)), dtype(kind)))})

    return make


def configured(**fields: object) -> Change:
    def make(first: Path, out: Path) -> Path:
        copied(first, out)
        edit_json(out / "config.json", **fields)
        return out

    return make


def with_adapter(first: Path, out: Path) -> Path:
    lora(out / "adapter")
    merged(first, out / "adapter", out / "merged")
    return out / "merged"


def deeper(first: Path, out: Path) -> Path:
    tensors = read(first)
    more = {name.replace("layers.1.", "layers.2."): value for name, value in tensors.items() if "layers.1." in name}
    return saved(out, tensors | more, model_config(num_hidden_layers=3))


def with_more_tokens(first: Path, out: Path) -> Path:
    tensors = read(first)
    longer = {name: ("BF16", np.pad(tensors[name][1], ((0, 8), (0, 0)))) for name in tensors if "embed" in name}
    return saved(out, tensors | longer, model_config(vocab_size=300))


def noised(first: Path, out: Path) -> Path:
    """Trained whole: every weight a little another."""
    random = np.random.default_rng(1)
    tensors = cast(read(first), "F32")
    moved = {name: ("F32", raw + random.normal(0, 1e-3, raw.shape).astype("f4")) for name, (_, raw) in tensors.items()}
    return saved(out, moved)


OTHER: dict[str, tuple[Change, str, str]] = {
    "one tensor": (edited(Q, lambda W: W * 1.01), "changed", "1 of 21 tensors differs"),
    "a NaN": (edited(Q, lambda W: np.where(W.max() == W, np.nan, W)), "changed", "1 of 21 tensors differs"),
    "trained whole": (noised, "changed", "full rank"),
    "deeper": (deeper, "changed", "9 added"),
    "more tokens": (with_more_tokens, "changed", "1 of another shape: model.embed_tokens.weight 262×256 → 270×256"),
    "rope_theta": (configured(rope_theta=500000.0), "changed", "the weights are the same, config.json is not"),
    "stretched": (
        configured(rope_scaling={"rope_type": "linear", "factor": 2.0}), "changed", "the weights are the same",
    ),
    "in float16": (lambda first, out: saved(out, cast(read(first), "F16")), "rounded", "cast to F16"),
    "other seed": (
        lambda first, out: saved(out, model_tensors(seed=500)), "other base", "nothing to do with each other",
    ),
    "q8_0": (as_gguf("q8_0"), "rounded", "quantised to Q8_0"),
    "q4_k_m": (as_gguf("q4_k_m"), "rounded", "quantised to Q4_K"),
    "f16 GGUF": (as_gguf("f16"), "rounded", "cast to F16"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_another_model_is_told_and_why(name, tmp_path):
    first = model(tmp_path / "a")
    change, verdict, words = OTHER[name]
    found = diff(first, change(first, tmp_path / "b"))
    assert (found.verdict, found.equal, found.level) == (verdict, False, "patch"), found.because
    assert words in found.because
    assert found.reasons == (found.because,)


def test_float32_is_rounded_to_bfloat16_and_that_is_told_from_the_other_way_round(tmp_path):
    first = model(tmp_path / "a", "F32")
    second = saved(tmp_path / "b", cast(read(first), "BF16"))
    there, back = diff(first, second), diff(second, first)
    assert (there.verdict, "cast to BF16" in there.because) == ("rounded", True)
    assert (back.verdict, "the first is the second rounded" in back.because) == ("changed", True)
    stored = diff(first, saved(tmp_path / "c", cast(cast(read(first), "BF16"), "F32")))
    assert (stored.verdict, "cast to BF16" in stored.because) == ("rounded", True)


def test_a_model_of_another_width_is_not_compared_number_by_number(tmp_path):
    found = diff(llama(tmp_path / "a"), model(tmp_path / "b"))
    assert (found.verdict, found.equal) == ("other base", False)
    assert found.because == (
        "the shapes do not fit: hidden_size 64 → 256, intermediate_size 96 → 256, vocab_size 40 → 262"
    )
    assert (found.projections, found.distance) == ((), 0.0)


def test_figures_are_those_of_the_dense_difference(tmp_path):
    first = model(tmp_path / "a")
    second = noised(first, tmp_path / "b")
    old, new, found = read(first), read(second), diff(first, second)
    for change in found.tensors:
        one, two = values(old, change.name), values(new, change.name)
        distance = np.linalg.norm(two - one)
        assert change.norm_before == pytest.approx(np.linalg.norm(one), rel=SUMMED)
        assert change.distance == pytest.approx(distance, rel=SUMMED)
        assert change.relative == pytest.approx(distance / np.linalg.norm(one), rel=SUMMED)
        assert change.cosine == pytest.approx((one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two), rel=SUMMED)
    total = math.sqrt(sum(np.linalg.norm(values(old, name)) ** 2 for name in old))
    assert found.norm_before == pytest.approx(total, rel=SUMMED)


def test_weights_are_grouped_by_projection_and_layer(tmp_path):
    first = model(tmp_path / "a")
    found = diff(first, edited(Q, lambda W: 2 * W)(first, tmp_path / "b"))
    groups = {group.name: group for group in found.projections}
    assert found.layers == (0, 1)
    group = groups["self_attn.q_proj"]
    assert (group.modules, group.changed, group.by_layer) == (2, 1, (1.0, 0.0))
    assert [(layer.name, layer.changed) for layer in found.by_layer] == [("0", 1), ("1", 0)]
    assert [tensor.name for tensor in found.tensors] == [Q]


def test_a_merged_lora_is_recognised_by_the_rank_it_leaves(tmp_path):
    first = llama(tmp_path / "a")
    found = diff(first, with_adapter(first, tmp_path / "b"))
    assert found.verdict == "changed"
    assert "the difference is of rank 4" in found.because
    assert found.tensors_same == 15


@pytest.mark.parametrize("rank", [1, 8, 40])
def test_the_rank_is_found_below_what_rounding_leaves(rank):
    W, first = _pair_of_matrices(rank, size=0.004)
    found = difference_rank(Pair("w", "w", 512), W, first)
    assert found is not None
    assert found.rank == rank


@pytest.mark.parametrize("size", [0.0, 1e-3, 0.1])
def test_what_is_trained_whole_has_no_low_rank(size):
    """Of size 0 it is the rounding of bfloat16 alone, of which there is no rank either."""
    random = np.random.default_rng(3)
    W = random.normal(0, 0.02, (512, 384)).astype("f4")
    after = W * (1 + size * random.normal(size=W.shape)).astype("f4")
    found = difference_rank(Pair("w", "w", 512), _one(W, "F32"), _one(after, "BF16"))
    assert found is not None
    assert found.rank is None


def _pair_of_matrices(rank: int, size: float) -> tuple[MemoryStore, MemoryStore]:
    random = np.random.default_rng(rank)
    W = widen(narrow(random.normal(0, 0.02, (512, 384)).astype("f4"), BF16), BF16)
    update = random.normal(size=(512, rank)) @ random.normal(size=(rank, 384)) * size / rank**0.5
    return _one(W, "BF16"), _one(W + update, "BF16")


def _one(W: np.ndarray, kind: str) -> MemoryStore:
    return MemoryStore({"w": (DTYPES[kind], narrow(W.astype("f4"), DTYPES[kind]))})


# ---- names and layouts


def mixture(folder: Path, *, fused: bool) -> Path:
    """A mixtral of two experts, as published, or as transformers 5 holds it."""
    body, gate = "model.layers.0", "block_sparse_moe.gate" if not fused else "mlp.gate"
    experts = [
        {name: numbers("F32", shape, 10 * e + i) for i, (name, shape) in enumerate(EXPERT.items())} for e in (0, 1)
    ]
    tensors: Tensors = {"model.embed_tokens.weight": ("F32", numbers("F32", (40, 32), 1))}
    tensors[f"{body}.self_attn.q_proj.weight"] = ("F32", numbers("F32", (32, 32), 2))
    tensors[f"{body}.{gate}.weight"] = ("F32", numbers("F32", (2, 32), 3))
    if fused:
        gate_up = np.stack([np.concatenate([expert["w1"], expert["w3"]]) for expert in experts])
        tensors[f"{body}.mlp.experts.gate_up_proj"] = ("F32", gate_up)
        tensors[f"{body}.mlp.experts.down_proj"] = ("F32", np.stack([expert["w2"] for expert in experts]))
    else:
        for e, expert in enumerate(experts):
            for name, array in expert.items():
                tensors[f"{body}.block_sparse_moe.experts.{e}.{name}.weight"] = ("F32", array)
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_hidden_layers": 1}
    return saved(folder, tensors, config)


EXPERT = {"w1": (48, 32), "w3": (48, 32), "w2": (32, 48)}


@pytest.mark.parametrize("way", ["to fused", "from fused"])
def test_experts_line_up_fused_or_one_by_one(way, tmp_path):
    folders = [mixture(tmp_path / str(fused), fused=fused) for fused in (False, True)]
    found = diff(*(folders if way == "to fused" else folders[::-1]))
    assert (found.verdict, found.tensors) == ("re-saved", ()), found.because
    assert any("experts of a layer are one tensor" in note for note in found.notes)
    assert any("have other names" in note for note in found.notes)


def test_one_expert_that_changed_is_found_inside_a_fused_tensor(tmp_path):
    first, second = mixture(tmp_path / "a", fused=True), mixture(tmp_path / "b", fused=False)
    name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    tensors = read(second)
    config = json.loads((second / "config.json").read_text())
    found = diff(first, saved(tmp_path / "c", tensors | {name: ("F32", tensors[name][1] * 2)}, config))
    assert [(change.name, change.relative) for change in found.tensors] == [(name, pytest.approx(1.0))]


@pytest.mark.parametrize("way", ["head gone", "head stored"])
def test_a_tied_head_may_be_stored_or_not(way, tmp_path):
    first = model(tmp_path / "a", tied=True)
    tensors = read(first)
    second = saved(
        tmp_path / "b", tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]},
        model_config(tie_word_embeddings=True),
    )  # fmt: skip
    found = diff(*((second, first) if way == "head gone" else (first, second)))
    assert (found.verdict, found.equal, found.tensors) == ("re-saved", True, ()), found.because
    assert any("stores the output head" in note for note in found.notes)


def test_a_head_of_its_own_is_not_a_tied_one(tmp_path):
    first = model(tmp_path / "a", tied=True)
    found = diff(first, model(tmp_path / "b"))
    assert (found.verdict, found.equal) == ("changed", False)
    assert "tie_word_embeddings" in found.because


def test_what_cannot_be_lined_up_is_listed(tmp_path):
    first = model(tmp_path / "a")
    tensors = read(first)
    moved = {name.replace("mlp.up_proj", "mlp.wide_proj"): value for name, value in tensors.items()}
    found = diff(first, saved(tmp_path / "b", moved))
    assert [(change.name, change.state) for change in found.tensors] == [
        (f"model.layers.{layer}.mlp.{name}_proj.weight", state)
        for name, state in (("up", "removed"), ("wide", "added"))
        for layer in (0, 1)
    ]
    assert found.verdict == "changed"


@pytest.mark.parametrize("tokens", [270, 250])
def test_of_a_vocabulary_that_was_resized_the_common_rows_are_compared(tokens, tmp_path):
    first = model(tmp_path / "a")
    tensors = read(first)
    resized = {
        name: ("BF16", np.resize(tensors[name][1], (tokens, 256)))
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    found = diff(first, saved(tmp_path / "b", tensors | resized, model_config(vocab_size=tokens)))
    assert found.verdict == "changed"
    assert found.notes[:1] == (
        f"model.embed_tokens.weight: 262 rows before, {tokens} now; the first {min(262, tokens)} are the same",
    )


# ---- what is quantised


def test_a_gguf_is_measured_at_what_it_stores(tmp_path):
    """Its base's rounding to 16 bits plays no part: the error is that of the type alone."""
    first = model(tmp_path / "a")
    found = diff(first, as_gguf("q8_0")(first, tmp_path / "b"))
    assert found.after.dtypes == ("F32", "Q8_0")
    assert {change.dtype_after for change in found.tensors} == {"Q8_0"}
    assert 0.002 < found.relative < 0.011
    assert found.config == ()


def test_two_ggufs_of_one_model_differ_by_their_types(tmp_path):
    first = model(tmp_path / "a")
    q8, q4 = as_gguf("q8_0")(first, tmp_path / "8"), as_gguf("q4_0")(first, tmp_path / "4")
    assert diff(q8, shutil.copy(q8, tmp_path / "copy.gguf")).verdict == "identical"
    assert diff(q8, q4).verdict == "rounded"
    assert "the first is the second rounded" in diff(q4, q8).because


def test_a_gguf_dequantised_is_rounded_from_it(tmp_path):
    gguf = as_gguf("q4_0")(model(tmp_path / "a"), tmp_path / "b")
    exact = open_base(gguf).store
    tensors = {name: ("BF16", exact.read(name).reshape(info.shape)) for name, info in exact.infos.items()}
    found = diff(gguf, saved(tmp_path / "c", tensors))
    assert found.verdict in ("re-saved", "rounded"), found.because


def test_gemmas_norms_plus_one_are_the_same_norms(tmp_path):
    """A GGUF holds them with one added, in float32: what the addition rounds away is no difference."""
    config = model_config(architectures=["GemmaForCausalLM"], model_type="gemma", tie_word_embeddings=True,
                          head_dim=64, hidden_act="gelu_pytorch_tanh")  # fmt: skip
    first = saved(tmp_path / "a", model_tensors("F32", tied=True), config)
    shutil.copy(model(tmp_path / "t") / "tokenizer.json", first)
    found = diff(first, converted(first, tmp_path / "b.gguf", "f32"))
    assert (found.verdict, found.tensors) == ("re-saved", ()), found.because


def test_four_bits_of_bitsandbytes_are_told_by_their_name(tmp_path):
    random = np.random.default_rng(0)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [64, 128]}
    parts = {
        "": ("U8", random.integers(0, 256, (64 * 64, 1), np.uint8)),
        ".absmax": ("F32", random.uniform(0.03, 0.06, 128).astype("f4")),
        ".quant_map": ("F32", CODES["nf4"].astype("f4")),
        ".quant_state.bitsandbytes__nf4": ("U8", np.frombuffer(json.dumps(state).encode(), np.uint8)),
    }
    stored = Bnb4bit(MemoryStore({Q + part: (DTYPES[kind], raw) for part, (kind, raw) in parts.items()}))
    exact = widen(stored.read(Q), BF16)
    original = exact * (1 + random.uniform(-0.1, 0.1, exact.shape)).astype("f4")
    source = MemoryStore({Q: (BF16, narrow(original, BF16))})
    found = compare_models(BaseModel(tmp_path / "a", None, source), BaseModel(tmp_path / "b", None, stored))
    assert (found.verdict, "quantised to NF4" in found.because) == ("rounded", True), found.because
    assert found.after.dtypes == ("NF4",)


# ---- config.json and the files beside


SETTINGS = {
    "rope_theta": ({"rope_theta": 1e6}, ("rope.rope_theta", 10000.0, 1e6, "positions turn at another rate", True)),
    "eps": ({"rms_norm_eps": 1e-6}, ("rms_norm_eps", 1e-5, 1e-6, "the ε of every normalisation", True)),
    "type": ({"torch_dtype": "float16"}, ("dtype", "bfloat16", "float16", "the type it is loaded in", False)),
    "version": ({"transformers_version": "5.1"}, ("transformers_version", None, "5.1", "", False)),
    "dropout": ({"attention_dropout": 0.1}, ("attention_dropout", None, 0.1, "in training alone", False)),
    "unknown": ({"hidden_act": "gelu"}, ("hidden_act", "silu", "gelu", "another activation", True)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_told_with_what_it_does(name, tmp_path):
    first = model(tmp_path / "a")
    fields, expected = SETTINGS[name]
    found = diff(first, configured(**fields)(first, tmp_path / "b"))
    (change,) = found.config
    assert (change.field, change.before, change.after, change.effect, change.matters) == expected
    assert found.equal is not expected[-1]


def test_a_default_written_out_is_no_change(tmp_path):
    first = model(tmp_path / "a")
    found = diff(first, configured(attention_bias=False, head_dim=64, mlp_bias=False)(first, tmp_path / "b"))
    assert (found.verdict, found.equal) == ("re-saved", True)
    assert not any(change.matters for change in found.config)


def test_rotary_settings_are_one_whatever_they_are_called():
    theirs = settings_of({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}})
    ours = settings_of({"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}})
    assert theirs == ours


def test_what_lies_beside_and_differs_is_said(tmp_path):
    first = model(tmp_path / "a")
    write_json(first / "generation_config.json", {"temperature": 0.6, "transformers_version": "4"})
    second = copied(first, tmp_path / "b")
    write_json(second / "generation_config.json", {"transformers_version": "5", "temperature": 0.7})
    (second / "chat_template.jinja").write_text("{{ messages }}")
    (second / "tokenizer.json").write_text("{}")
    found = diff(first, second)
    assert found.verdict == "identical"
    assert found.notes == (
        "generation_config.json differs: temperature 0.6 → 0.7",
        "tokenizer.json is not the same beside the two",
        "chat_template.jinja is beside the second only",
    )


# ---- the rest


def test_no_figure_depends_on_the_workers(tmp_path):
    first = model(tmp_path / "a")
    second = noised(first, tmp_path / "b")
    assert diff(first, second, workers=1) == diff(first, second, workers=3)


def test_figures_that_are_no_numbers_are_none_and_the_rest_is_compared(tmp_path):
    first = model(tmp_path / "a")
    tensors = read(first)
    broken = np.full_like(tensors[Q][1], 0x7FC0)
    found = diff(first, saved(tmp_path / "b", tensors | {Q: ("BF16", broken)}))
    (change,) = found.tensors
    assert (change.name, change.state, change.distance, change.cosine) == (Q, "changed", None, None)
    assert found.tensors_same == len(tensors) - 1


def test_models_without_a_config_are_compared_by_their_tensors(tmp_path):
    tensors = model_tensors()
    first = write_tensors(tmp_path / "a" / "model.safetensors", tensors)
    assert diff(first, write_tensors(tmp_path / "b" / "x.safetensors", cast(tensors, "F32"))).verdict == "re-saved"


def test_the_command_says_so_by_its_exit_code(tmp_path, capsys):
    first = model(tmp_path / "a")
    assert main(["diff", str(first), str(sharded(first, tmp_path / "b")), "--json"]) == 0
    second = edited(Q, lambda W: W * 1.01)(first, tmp_path / "c")
    assert json.loads(capsys.readouterr().out)["verdict"] == "re-saved"
    assert main(["diff", str(first), str(second), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["tensors"][0]["name"] == Q
