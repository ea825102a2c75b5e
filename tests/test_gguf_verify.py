"""verify FILE.gguf: silent on faithful files whoever made them, and whatever is wrong with one is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import edit_json, numbers, write_json, write_tensors
from making_gguf import (
    HEADS,
    LAYERS,
    TOKENS,
    WIDTH,
    adapter,
    converted,
    converted_lora,
    merged_gguf,
    model,
)
from test_imatrix import write_gguf as write_imatrix
from test_schemas import check

from adaptool import api
from adaptool.adapters.base import open_base
from adaptool.archs.gguf.placed import inverse, rotary_pairs
from adaptool.archs.gguf.tables import architecture_keys
from adaptool.cli.main import main
from adaptool.errors import AdaptoolError
from adaptool.gguf.mixtures import Choice
from adaptool.gguf.quantised import Quantised
from adaptool.merging.options import MergeOptions
from adaptool.parity.gguf_metadata import check_metadata
from adaptool.parity.gguf_model import GgufModel, model_of
from adaptool.parity.gguf_report import GgufVerification
from adaptool.parity.gguf_verify import open_gguf_job
from adaptool.reports.json import to_json
from adaptool.reports.layout import plain
from adaptool.reports.verify_gguf_text import gguf_verification_report
from adaptool.tensors.dtypes import BF16, F16, F32, Array, widen
from adaptool.tensors.ggml.types import ggml_type
from adaptool.tensors.ggml.values import KeyValues, ValueType, array, boolean, f32, text, u32
from adaptool.tensors.gguf import open_gguf
from adaptool.tensors.gguf_writer import GgufPlan
from adaptool.tensors.store import TensorInfo

SMALL = 0.03
"""Spread of a LoRA's factors that makes its update some four per cent of the weights: lost in what Q4_K loses."""

TYPES = "f32,f16,bf16,q8_0,q6_k,q5_k_m,q4_k_m,q4_0,q5_1,q3_k_m,q2_k,iq4_xs,iq4_nl"
LABELS = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q6_K",
    "Q5_K_M",
    "Q4_K_M",
    "Q4_0",
    "Q5_1",
    "Q3_K_M",
    "Q2_K",
    "IQ4_XS",
    "IQ4_NL",
)

Tensors = dict[str, tuple[TensorInfo, Array]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, two adapters, their merge in every type, the base itself in a few."""
    folder = tmp_path_factory.mktemp("verify")
    base = model(folder / "base")
    lora = adapter(folder / "lora", spread=SMALL)
    adapter(folder / "other", spread=SMALL, extra=_factors(7000))
    merged_gguf(lora, base, folder / "merged", TYPES, safetensors=False)
    converted(base, folder / "plain", "q8_0,q4_k_m,q2_k")
    weights = imatrix(folder / "imatrix.gguf", folder / "merged" / "merged-Q8_0.gguf")
    merged_gguf(lora, base, folder / "weighted", "q4_k_m", imatrix=weights, safetensors=False)
    return folder


def _factors(seed: int) -> dict[str, Any]:
    """Other factors for the adapter's tensors."""
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (WIDTH // 2, WIDTH),
        "mlp.down_proj": (WIDTH, WIDTH),
    }
    return {
        f"base_model.model.model.layers.{layer}.{name}.lora_{part}.weight": (
            "F32", numbers("F32", size, seed + 10 * layer + number, SMALL)
        )
        for layer in range(LAYERS)
        for number, (name, (rows, columns)) in enumerate(shapes.items())
        for part, size in (("A", (4, columns)), ("B", (rows, 4)))
    }  # fmt: skip


def verified(gguf: Path, base: Path, *adapters: Any, **options: Any) -> GgufVerification:
    weighted = [item if isinstance(item, tuple) else (item, 1.0) for item in adapters]
    job = api.verify_gguf(gguf, base, weighted, **options)
    assert sum(job) == job.nbytes
    return job.report


def kinds(found: GgufVerification) -> list[str]:
    return [defect.kind for defect in found.defects]


def read(path: Path) -> tuple[dict[str, Any], Tensors]:
    opened = open_gguf(path)
    return dict(opened.keys), {name: (info, opened.read(name)) for name, info in opened.infos.items()}


def write(path: Path, keys: KeyValues, tensors: Tensors) -> Path:
    plan = GgufPlan(path.name, keys, tuple(info for info, _ in tensors.values()))
    parts = [plan.header]
    for _, values in tensors.values():
        data = np.ascontiguousarray(values).tobytes()
        parts += [data, b"\0" * (-len(data) % plan.alignment)]
    path.write_bytes(b"".join(parts))
    return path


# faithful files


@pytest.mark.parametrize("label", LABELS)
def test_a_merge_is_bit_for_bit_what_it_should_be(made, label):
    found = verified(made / "merged" / f"merged-{label}.gguf", made / "base", made / "lora")
    assert (found.verdict, found.defects, found.file_type) == ("bit-equal", (), label)
    assert found.sentence == f"all 21 tensors are bit for bit what llama-quantize writes of this model as {label}"


@pytest.mark.parametrize("label", ["Q8_0", "Q4_K_M", "Q2_K"])
def test_a_converted_model_needs_no_adapter(made, label):
    assert verified(made / "plain" / f"plain-{label}.gguf", made / "base").verdict == "bit-equal"


@pytest.mark.parametrize("kind", ["F16", "F32"])
def test_bases_of_other_types(tmp_path, kind):
    base, lora = model(tmp_path / "base", kind), adapter(tmp_path / "lora")
    out = merged_gguf(lora, base, tmp_path / "out", "q4_k_m,q8_0,f16,bf16", safetensors=False)
    assert {"bit-equal"} == {verified(path, base, lora).verdict for path in out.glob("*.gguf")}


def test_a_file_that_says_nothing_of_its_origin(made, tmp_path):
    keys, tensors = read(made / "merged" / "merged-Q4_K_M.gguf")
    bare = {name: value for name, value in keys.items() if not name.startswith(("adaptool.", "general.base"))}
    found = verified(write(tmp_path / "bare.gguf", bare, tensors), made / "base", made / "lora")
    assert (found.verdict, found.notes) == ("bit-equal", ())


def test_a_split_file(made, tmp_path):
    out = converted(made / "base", tmp_path / "split", "q8_0", split_nbytes=200_000)
    (first,) = out.glob("*-00001-of-*.gguf")
    assert verified(first, made / "base").verdict == "bit-equal"


def test_a_gguf_as_the_base(made, tmp_path):
    base = made / "plain" / "plain-Q8_0.gguf"
    out = merged_gguf(made / "lora", base, tmp_path / "out", "q4_k_m", safetensors=False)
    assert verified(out / "out-Q4_K_M.gguf", base, made / "lora").verdict == "bit-equal"


def test_a_head_stored_beside_the_embedding_it_shares(tmp_path):
    base = model(tmp_path / "base", tied=True)
    keys, tensors = read(converted(base, tmp_path / "x.gguf", "q8_0"))
    info, values = tensors["token_embd.weight"]
    tensors["output.weight"] = replace(info, name="output.weight"), values
    found = verified(write(tmp_path / "both.gguf", keys, tensors), base)
    assert (found.verdict, found.unexpected) == ("bit-equal", ())
    assert found.notes == ("output.weight is stored though the model shares it with token_embd.weight",)


@pytest.mark.parametrize("types", ["q8_0", "q4_k_m", "q2_k", "f16", "bf16"])
@pytest.mark.parametrize("dtype", [F16, F32])
def test_another_type_on_the_way_is_no_defect(made, tmp_path, types, dtype):
    for _ in api.merge(
        [(made / "lora", 1.0)], made / "base", tmp_path / "m", options=MergeOptions(dtype=dtype), rounding="safe"
    ):
        pass
    edit_json(tmp_path / "m" / "config.json", torch_dtype=dtype.torch_name)
    out = converted(tmp_path / "m", tmp_path / "x.gguf", types)
    found = verified(out, made / "base", made / "lora")
    assert found.ok, found.sentence


@pytest.mark.parametrize(("dtype", "words"), [(F16, "float16"), (BF16, "bfloat16")])
def test_a_float32_model_quantised_by_way_of_16_bits(tmp_path, dtype, words):
    base = model(tmp_path / "base", "F32")
    found = verified(converted(base, tmp_path / "x.gguf", "q4_k_m", dtype=dtype), base)
    assert (found.defects, found.notes[0]) == ((), f"converted by way of {words}")
    assert {"F32"} == {tensor.type for tensor in found.tensors if tensor.verdict != "bit-equal"}


def imatrix(path: Path, gguf: Path) -> Path:
    """Columns of very different weights."""
    rng = np.random.default_rng(5)
    measured = {
        name: ([np.exp(rng.normal(0, 1.5, info.shape[-1]))], [1])
        for name, info in open_gguf(gguf).infos.items()
        if len(info.shape) > 1 and "token_embd" not in name
    }
    return write_imatrix(path, measured)


@pytest.mark.parametrize(
    ("types", "exceptions"),
    [("q4_k_m", ()), ("q2_k", ()), ("q5_0", ()), ("iq4_xs", ()), ("q8_0", ("attn_q=iq2_xxs", "down=iq3_s"))],
)
def test_an_imatrix_moves_errors_and_not_weights(made, tmp_path, types, exceptions):
    base, lora, weights = made / "base", made / "lora", made / "imatrix.gguf"
    out = merged_gguf(lora, base, tmp_path / "out", types, imatrix=weights, tensor_types=exceptions, safetensors=False)
    (gguf,) = out.glob("*.gguf")
    unknown = verified(gguf, base, lora)
    assert (unknown.verdict, unknown.defects) == ("within the band", ())
    assert any("--imatrix" in note for note in unknown.notes)
    assert verified(gguf, base, lora, imatrix=weights).verdict == "bit-equal"
    for instead in ((lora, 2.0), (made / "other", 1.0)):
        assert verified(gguf, base, instead).verdict == "wrong"
    keys, tensors = read(gguf)
    stripped = {name: value for name, value in keys.items() if not name.startswith("quantize.")}
    assert verified(write(tmp_path / "x.gguf", stripped, tensors), base, lora).ok


# what became of the adapter


@pytest.mark.parametrize("label", ["F16", "Q8_0", "Q4_K_M", "Q2_K", "IQ4_XS"])
@pytest.mark.parametrize(
    ("weight", "kind", "words"),
    [
        (0.5, "applied twice", "its weight 0.5 ignored"),
        (-1.0, "sign flipped", "subtracted"),
        (0.4, "scaled", "its weight 0.4 ignored"),
    ],
)
def test_the_update_at_another_scale(made, label, weight, kind, words):
    found = verified(made / "merged" / f"merged-{label}.gguf", made / "base", (made / "lora", weight))
    assert [kind] == kinds(found)
    assert words in found.sentence
    assert found.defects[0].k == pytest.approx(1 / weight, rel=0.05)


@pytest.mark.parametrize("label", ["Q8_0", "Q4_K_M", "Q2_K"])
def test_the_adapter_was_not_applied(made, label):
    found = verified(made / "plain" / f"plain-{label}.gguf", made / "base", made / "lora")
    assert kinds(found) == ["not applied"]
    assert found.sentence == "the adapter was not applied: the tensors it changes are the base's"


def test_two_defects_at_once(tmp_path):
    base, lora = model(tmp_path / "base"), adapter(tmp_path / "lora", targets=("q_proj",))
    keys, tensors = read(converted(base, tmp_path / "x.gguf", "q8_0"))
    unpermuted(keys, tensors)
    found = verified(write(tmp_path / "y.gguf", keys, tensors), base, lora)
    assert found.sentence.startswith("the rows of attn_q in all layers are in the checkpoint's row order")
    assert found.sentence.endswith("and the adapter was not applied")


def test_the_adapter_was_applied_in_part(made, tmp_path):
    keys, tensors = read(made / "merged" / "merged-Q4_K_M.gguf")
    _, unmerged = read(made / "plain" / "plain-Q4_K_M.gguf")
    tensors["blk.1.attn_q.weight"] = unmerged["blk.1.attn_q.weight"]
    found = verified(write(tmp_path / "x.gguf", keys, tensors), made / "base", made / "lora")
    assert kinds(found) == ["partly applied"]
    assert found.sentence == "the adapter was applied only in part: not in attn_q in layer 1"


@pytest.mark.parametrize("label", ["Q8_0", "Q4_K_M", "Q2_K"])
def test_another_adapter(made, label):
    found = verified(made / "merged" / f"merged-{label}.gguf", made / "base", made / "other")
    assert kinds(found) == ["another adapter"]
    assert found.notes == ("the file says that lora was merged into it, which is none of the adapters given",)


@pytest.mark.parametrize("label", ["Q8_0", "Q4_K_M", "Q2_K"])
def test_one_of_two_adapters_was_left_out(made, label):
    found = verified(made / "merged" / f"merged-{label}.gguf", made / "base", made / "lora", made / "other")
    assert kinds(found) == ["an adapter left out"]
    assert found.sentence.endswith(": other")


def test_a_head_that_the_adapter_parts_from_the_embedding(tmp_path):
    base, rows = model(tmp_path / "base", tied=True), len(TOKENS)
    head = {
        "base_model.model.lm_head.lora_A.weight": ("F32", numbers("F32", (4, WIDTH), 1)),
        "base_model.model.lm_head.lora_B.weight": ("F32", numbers("F32", (rows, 4), 2)),
    }
    lora = adapter(tmp_path / "lora", targets=("q_proj",), extra=head, target_modules=["q_proj", "lm_head"])
    out = merged_gguf(lora, base, tmp_path / "out", "q8_0", safetensors=False) / "out-Q8_0.gguf"
    assert verified(out, base, lora).verdict == "bit-equal"
    keys, tensors = read(out)
    del tensors["output.weight"]
    found = verified(write(tmp_path / "x.gguf", keys, tensors), base, lora)
    assert kinds(found) == ["tensor missing"]
    assert "which this file has as one" in found.sentence


def test_a_merge_held_against_its_base_alone(made):
    found = verified(made / "merged" / "merged-Q4_K_M.gguf", made / "base")
    assert kinds(found) == ["differs"]
    assert found.notes == ("the file says that lora was merged into it, which is not given: say so with --adapter",)


def test_another_base(made, tmp_path):
    other = model(tmp_path / "other", changed=_shifted(made / "base"))
    found = verified(made / "plain" / "plain-Q8_0.gguf", other)
    assert found.defects[0].kind == "base differs"
    assert "made from another model" in found.sentence


def _shifted(base: Path) -> dict[str, Any]:
    store = open_base(base).store
    return {name: ("BF16", numbers("BF16", info.shape, 900 + number, 0.08)) for number, (name, info) in
            enumerate(store.infos.items()) if len(info.shape) > 1}  # fmt: skip


# what is wrong with the tensors

QUERIES = [f"blk.{layer}.attn_q.weight" for layer in range(LAYERS)]


def ordered(tensors: Tensors, name: str, order: Any) -> None:
    info, values = tensors[name]
    tensors[name] = info, values[order]


def unpermuted(keys: dict[str, Any], tensors: Tensors) -> None:
    for name in QUERIES:
        ordered(tensors, name, inverse(rotary_pairs(WIDTH, HEADS)))


def permuted_twice(keys: dict[str, Any], tensors: Tensors) -> None:
    for name in QUERIES:
        ordered(tensors, name, rotary_pairs(WIDTH, HEADS))


def permuted_as_two_heads(keys: dict[str, Any], tensors: Tensors) -> None:
    for name in QUERIES:
        ordered(tensors, name, inverse(rotary_pairs(WIDTH, HEADS))[rotary_pairs(WIDTH, HEADS // 2)])


def exchanged(keys: dict[str, Any], tensors: Tensors) -> None:
    swap(tensors, "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")


def layers_exchanged(keys: dict[str, Any], tensors: Tensors) -> None:
    swap(tensors, "blk.0.attn_v.weight", "blk.1.attn_v.weight")


def swap(tensors: Tensors, one: str, other: str) -> None:
    (first, values), (second, others) = tensors[one], tensors[other]
    tensors[one], tensors[other] = (replace(second, name=one), others), (replace(first, name=other), values)


def reversed_rows(keys: dict[str, Any], tensors: Tensors) -> None:
    ordered(tensors, "blk.1.ffn_up.weight", slice(None, None, -1))


def missing(keys: dict[str, Any], tensors: Tensors) -> None:
    del tensors["output.weight"]


def unexpected(keys: dict[str, Any], tensors: Tensors) -> None:
    info, values = tensors["output_norm.weight"]
    tensors["blk.0.attn_q.bias"] = replace(info, name="blk.0.attn_q.bias"), values


def smaller_vocabulary(keys: dict[str, Any], tensors: Tensors) -> None:
    info, values = tensors["output.weight"]
    tensors["output.weight"] = replace(info, shape=(info.shape[0] - 2, info.shape[1])), values[:-2]


def zeroed_block(keys: dict[str, Any], tensors: Tensors) -> None:
    info, values = tensors["blk.0.ffn_up.weight"]
    values[17, : info.row_nbytes // 2] = 0


def flipped_bit(keys: dict[str, Any], tensors: Tensors) -> None:
    values = tensors["blk.0.ffn_up.weight"][1]
    values.reshape(-1)[-3] ^= 2


def not_finite(keys: dict[str, Any], tensors: Tensors) -> None:
    info, values = tensors["blk.0.attn_norm.weight"]
    tensors["blk.0.attn_norm.weight"] = info, np.where(np.arange(WIDTH) == 5, np.float32(np.nan), values)


def norms_without_one(keys: dict[str, Any], tensors: Tensors) -> None:
    info, values = tensors["output_norm.weight"]
    tensors["output_norm.weight"] = info, values - np.float32(1)


def norms_doubled(keys: dict[str, Any], tensors: Tensors) -> None:
    info, values = tensors["output_norm.weight"]
    tensors["output_norm.weight"] = info, values * np.float32(2)


def more_heads(keys: dict[str, Any], tensors: Tensors) -> None:
    keys["llama.attention.head_count"] = u32(8)


def other_rope(keys: dict[str, Any], tensors: Tensors) -> None:
    keys["llama.rope.freq_base"] = f32(500000)


def stretched_rope(keys: dict[str, Any], tensors: Tensors) -> None:
    keys["llama.rope.scaling.type"], keys["llama.rope.scaling.factor"] = text("linear"), f32(4)


def no_eps(keys: dict[str, Any], tensors: Tensors) -> None:
    del keys["llama.attention.layer_norm_rms_epsilon"]


def no_kv_heads(keys: dict[str, Any], tensors: Tensors) -> None:
    del keys["llama.attention.head_count_kv"]


def other_architecture(keys: dict[str, Any], tensors: Tensors) -> None:
    keys["general.architecture"] = text("qwen2")


def other_pre(keys: dict[str, Any], tensors: Tensors) -> None:
    keys["tokenizer.ggml.pre"] = text("llama-bpe")


def other_token(keys: dict[str, Any], tensors: Tensors) -> None:
    tokens = keys["tokenizer.ggml.tokens"]
    keys["tokenizer.ggml.tokens"] = replace(tokens, data=[*tokens.data[:7], "x\x1b[31m", *tokens.data[8:]])


def fewer_tokens(keys: dict[str, Any], tensors: Tensors) -> None:
    tokens = keys["tokenizer.ggml.tokens"]
    keys["tokenizer.ggml.tokens"] = replace(tokens, data=tokens.data[:-1])


MUTATIONS: list[tuple[Callable[[dict[str, Any], Tensors], None], str, str]] = [
    (unpermuted, "row order", "the rows of attn_q in all layers are in the checkpoint's row order"),
    (permuted_twice, "row order", "the rows of attn_q in all layers are reordered twice"),
    (permuted_as_two_heads, "row order", "reordered for llama.cpp's rotary embedding as 2 heads, which they are not"),
    (exchanged, "another tensor", "exchanged: blk.0.ffn_gate.weight and blk.0.ffn_up.weight"),
    (layers_exchanged, "another tensor", "exchanged: blk.0.attn_v.weight and blk.1.attn_v.weight"),
    (reversed_rows, "rows elsewhere", "the rows of ffn_up in layer 1 are in another order"),
    (missing, "tensor missing", "1 tensor missing: output.weight"),
    (unexpected, "unexpected tensor", "1 tensor that the model does not have: blk.0.attn_q.bias"),
    (smaller_vocabulary, "shape differs", "output.weight is [260, 256] and must be [262, 256]: another vocabulary"),
    (zeroed_block, "some elements", "in blk.0.ffn_up.weight the first at row 17, column 0"),
    (flipped_bit, "some elements", "in blk.0.ffn_up.weight the first at row 255"),
    (not_finite, "not finite", "NaN or Inf in attn_norm in layer 0"),
    (norms_without_one, "norm shift", "the norms output_norm.weight are off by -1"),
    (norms_doubled, "weights scaled", "the weights of output_norm.weight are 2 times the model's"),
    (more_heads, "metadata", "attention.head_count is 8, and the config says 4"),
    (other_rope, "metadata", "rope.freq_base is 500000, and the config says 10000"),
    (stretched_rope, "metadata", "rope.scaling.factor is 4, and the config has no such setting"),
    (no_eps, "metadata", "attention.layer_norm_rms_epsilon is missing, without which llama.cpp does not load it"),
    (no_kv_heads, "metadata", "head_count_kv is missing, so llama.cpp takes 4, and the config says 2"),
    (other_architecture, "architecture", "the file is a qwen2 model for llama.cpp"),
    (other_pre, "tokenizer", "the pre-tokenizer is 'llama-bpe'"),
    (other_token, "tokenizer", "token 7 is 'x\\x1b[31m', and the model's is"),
    (fewer_tokens, "tokenizer", "261 tokens, and an embedding of 262 rows: llama.cpp does not load that"),
]


@pytest.mark.parametrize("label", ["F16", "Q4_K_M"])
@pytest.mark.parametrize(("mutate", "kind", "words"), MUTATIONS, ids=[mutate.__name__ for mutate, _, _ in MUTATIONS])
def test_what_is_wrong_is_named(made, tmp_path, label, mutate, kind, words):
    keys, tensors = read(made / "merged" / f"merged-{label}.gguf")
    mutate(keys, tensors)
    found = verified(write(tmp_path / "x.gguf", keys, tensors), made / "base", made / "lora")
    assert (found.verdict, found.defects[0].kind) == ("wrong", kind)
    assert words in found.sentence
    check("verify-gguf", to_json("verify-gguf", found))
    assert max(map(len, plain(gguf_verification_report(found, "x", 80, verbose=True)).splitlines())) <= 80


@pytest.mark.parametrize(("mutate", "kind", "words"), MUTATIONS, ids=[mutate.__name__ for mutate, _, _ in MUTATIONS])
def test_without_the_imatrix_it_is_named_too(made, tmp_path, mutate, kind, words):
    if mutate is flipped_bit:
        pytest.skip("what one bit changes is within what an imatrix may have chosen")
    keys, tensors = read(made / "weighted" / "weighted-Q4_K_M.gguf")
    mutate(keys, tensors)
    found = verified(write(tmp_path / "x.gguf", keys, tensors), made / "base", made / "lora")
    assert (found.verdict, found.defects[0].kind) == ("wrong", kind)
    assert words in found.sentence


ODD = (u32(3), text("x"), text(b"\xff"), f32(float("nan")), boolean(True), array(ValueType.UINT32, []),
       array(ValueType.STRING, ["a", b"\xfe"]), array(ValueType.FLOAT32, [float("inf")] * 3))  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=lambda value: f"{value.kind.name} {value.data!r:.12}")
def test_keys_of_any_type_are_only_compared(made, value):
    wanted, opened = model_of(open_base(made / "base")), open_gguf(made / "merged" / "merged-Q8_0.gguf")
    for name in opened.keys:
        found = check_metadata(wanted, {**opened.keys, name: value}, opened)
        assert all(isinstance(sentence, str) for sentence in (*(one.sentence for one in found.defects), *found.notes))


# other architectures: what their converters do, left undone


def small(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> GgufModel:
    """A model without a tokenizer, which is then not compared."""
    tensors = {
        name: ("BF16", numbers("BF16", shape, number, 0.08)) for number, (name, shape) in enumerate(shapes.items())
    }
    write_tensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", config)
    return model_of(open_base(folder))


def gguf_of(wanted: GgufModel, path: Path, kind: str) -> Path:
    """The model in a type, matrices alone; ``wanted`` may be another than it is verified against."""
    infos = wanted.converted.infos
    choices = {name: Choice(ggml_type(kind) if len(info.shape) > 1 else F32) for name, info in infos.items()}
    store = Quantised(wanted.converted, choices)
    keys = {"general.architecture": text(wanted.spec.name), **architecture_keys(wanted.spec, wanted.hparams)}
    return write(path, keys, {name: (info, store.read(name)) for name, info in store.infos.items()})


def verified_against(wanted: GgufModel, path: Path) -> GgufVerification:
    job = open_gguf_job(wanted, path)
    for _ in job:
        pass
    return job.report


def with_placed(wanted: GgufModel, change: Callable[[Any], Any]) -> GgufModel:
    """The model with its tensors laid otherwise."""
    other = replace(wanted)
    other.__dict__["placed"] = {name: change(placed) for name, placed in wanted.placed.items()}
    return other


BLOCK = {
    "input_layernorm": (64,), "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64), "post_attention_layernorm": (64,),
}  # fmt: skip
MLP = {"mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64), "mlp.down_proj": (64, 96)}
SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 40, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}  # fmt: skip


def decoder(folder: Path, architecture: str, model_type: str, layer: Mapping[str, Any], **settings: Any) -> GgufModel:
    shapes = {"model.embed_tokens.weight": (40, 64), "model.norm.weight": (64,)}
    shapes |= {f"model.layers.0.{name}{'' if '.bias' in name else '.weight'}": shape for name, shape in layer.items()}
    return small(folder, {"architectures": [architecture], "model_type": model_type} | SIZES | settings, shapes)


def gemma(folder: Path) -> GgufModel:
    return decoder(folder, "GemmaForCausalLM", "gemma", BLOCK | MLP)


def qwen2(folder: Path) -> GgufModel:
    return decoder(folder, "Qwen2ForCausalLM", "qwen2", BLOCK | MLP, tie_word_embeddings=True)


def mixtral(folder: Path) -> GgufModel:
    experts = {
        f"block_sparse_moe.experts.{number}.{name}": shape
        for number in range(12)
        for name, shape in (("w1", (96, 64)), ("w2", (64, 96)), ("w3", (96, 64)))
    }
    layer = BLOCK | {"block_sparse_moe.gate": (12, 64)} | experts
    return decoder(folder, "MixtralForCausalLM", "mixtral", layer, num_local_experts=12, num_experts_per_tok=2)


def gpt2(folder: Path) -> GgufModel:
    layer = {"ln_1.weight": (64,), "ln_1.bias": (64,), "attn.c_attn.weight": (64, 192), "attn.c_attn.bias": (192,),
             "attn.c_proj.weight": (64, 64), "attn.c_proj.bias": (64,), "ln_2.weight": (64,), "ln_2.bias": (64,),
             "mlp.c_fc.weight": (64, 256), "mlp.c_fc.bias": (256,), "mlp.c_proj.weight": (256, 64),
             "mlp.c_proj.bias": (64,)}  # fmt: skip
    shapes = {"wte.weight": (40, 64), "wpe.weight": (128, 64), "ln_f.weight": (64,), "ln_f.bias": (64,)}
    shapes |= {f"h.0.{name}": shape for name, shape in layer.items()}
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 128, "vocab_size": 40}
    return small(folder, {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"} | sizes, shapes)


def without_shift(placed):
    return replace(placed, shift=0.0)


def paired(placed):
    rotates = placed.name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight")
    return (
        replace(placed, order=rotary_pairs(placed.shape[0], 4 if "attn_q" in placed.name else 2)) if rotates else placed
    )


def alphabetical(placed):
    return replace(placed, sources=tuple(sorted(placed.sources)))


def as_stored(placed):
    return replace(placed, transposed=False) if placed.shape == (64, 64) else placed


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize(
    ("make", "change", "names", "words"),
    [
        (gemma, without_shift, 3, "off by -1: the 1 that a GGUF of gemma adds to them is missing"),
        (qwen2, paired, 2, "reordered for llama.cpp's rotary embedding as 4 heads, and a qwen2 model's are not"),
        (mixtral, alphabetical, 3, "are stacked in alphabetical order: expert 10 before expert 2"),
        (gpt2, as_stored, 1, "blk.0.attn_output.weight is transposed"),
    ],
)
def test_a_step_of_the_conversion_left_out(tmp_path, kind, make, change, names, words):
    wanted = make(tmp_path / "model")
    assert verified_against(wanted, gguf_of(wanted, tmp_path / "good.gguf", kind)).verdict == "bit-equal"
    found = verified_against(wanted, gguf_of(with_placed(wanted, change), tmp_path / "bad.gguf", kind))
    assert words in " | ".join(defect.sentence for defect in found.defects)
    assert names == sum(defect.tensors for defect in found.defects)


# the command


def run(*words: object) -> int:
    return main(["verify", *map(str, words)])


def test_the_command(made, capsys):
    merged, base, lora = made / "merged" / "merged-Q4_K_M.gguf", made / "base", made / "lora"
    assert run(merged, "--base", base, "--adapter", lora) == 0
    assert "bit for bit what llama-quantize writes" in capsys.readouterr().out
    assert run(merged, "--base", base, "--adapter", f"{lora}:0.5", "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    check("verify-gguf", printed)
    assert printed["schema"] == "adaptool/verify-gguf/1"
    assert printed["defects"][0]["kind"] == "applied twice"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{base}", "--base", "{base}"), "no --adapter given"),
        (("{base}", "--base", "{base}", "--adapter", "{lora}", "--imatrix", "x"), "--imatrix goes with a GGUF"),
        (("{plain}", "--base", "{base}", "--onto-nf4"), "--onto-nf4 and --double-quant go with --adapter"),
    ],
)
def test_what_does_not_go_together(made, capsys, words, message):
    places = {"base": made / "base", "lora": made / "lora", "plain": made / "plain" / "plain-Q8_0.gguf"}
    assert run(*(word.format(**places) for word in words)) == 2
    assert message in capsys.readouterr().err


def test_files_that_are_no_models(made, tmp_path):
    lora = converted_lora(made / "lora", made / "base", tmp_path / "lora.gguf")
    with pytest.raises(AdaptoolError, match="holds no model but a GGUF of the type 'adapter'"):
        verified(lora, made / "base", made / "lora")
    empty = write(tmp_path / "vocab.gguf", {"general.architecture": text("llama")}, {})
    with pytest.raises(AdaptoolError, match="holds no tensors"):
        verified(empty, made / "base")


def test_the_text(made):
    found = verified(made / "merged" / "merged-Q8_0.gguf", made / "base", (made / "lora", 0.5))
    lines = plain(gguf_verification_report(found, "x\x1b[2J.gguf", 80)).splitlines()
    assert lines[0] == "x\\x1b[2J.gguf  wrong"
    assert lines[2].strip() == found.sentence[:78].rsplit(" ", 1)[0] or found.sentence.startswith(lines[2].strip())
    assert max(map(len, lines)) <= 80


def test_workers_change_nothing(made):
    one, two = (
        verified(made / "merged" / "merged-Q4_K_M.gguf", made / "base", made / "other", workers=workers)
        for workers in (1, 3)
    )
    assert one == two


def test_values_are_read_as_the_type_says(made):
    keys, tensors = read(made / "merged" / "merged-BF16.gguf")
    assert {BF16, F32} == {info.dtype for info, _ in tensors.values()}
    assert np.isfinite(widen(tensors["token_embd.weight"][1], BF16)).all()
    assert keys["general.file_type"].data == 32
