"""GGUFs as files: what is written where, that it is the same however it is made, and whole or not there at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import edit_json, numbers, tree, write_tensors
from making_gguf import (
    LAYERS,
    TOKENS,
    WIDTH,
    adapter,
    contents,
    converted,
    merged_gguf,
    metadata,
    model,
    model_tensors,
    write_tokenizer,
)

from adaptool import api
from adaptool.errors import AdaptoolError, DiskError, FormatError, MismatchError, UnsupportedError, UsageError
from adaptool.merging.options import MergeOptions
from adaptool.tensors.dtypes import dtype
from adaptool.tensors.ggml import kernels
from adaptool.tensors.ggml.quantize import Backend
from adaptool.writing.publish import LOCK_NAME, partial_path

TYPES = "q4_k_m,q8_0,f16"
CRASHES = 8
"""Moments at which a conversion is killed, spread over the system calls it makes."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model nobody may write into."""
    return model(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of it."""
    return adapter(tmp_path_factory.mktemp("lora") / "lora")


@pytest.fixture(scope="module")
def q4(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as one file."""
    return converted(base, tmp_path_factory.mktemp("q4") / "model.gguf")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_one_type_is_the_file_itself(q4: Path):
    assert files(q4.parent) == {"model.gguf"}
    keys = metadata(q4)
    assert (keys["general.architecture"], keys["general.file_type"], keys["tokenizer.ggml.pre"]) == (
        "llama",
        15,
        "gpt-2",
    )
    assert {kind for kind, _, _ in contents(q4).values()} == {0, 12, 14}  # F32, Q4_K, Q6_K


def test_several_types_are_a_folder_of_what_single_runs_write(base: Path, q4: Path, tmp_path: Path):
    out = converted(base, tmp_path / "out", TYPES)
    assert files(out) == {"adaptool.json", "out-F16.gguf", "out-Q4_K_M.gguf", "out-Q8_0.gguf"}
    assert (out / "out-Q4_K_M.gguf").read_bytes() == q4.read_bytes()
    for kind in ("Q8_0", "F16"):
        alone = converted(base, tmp_path / f"{kind}.gguf", kind.lower())
        assert (out / f"out-{kind}.gguf").read_bytes() == alone.read_bytes()
    manifest = json.loads((out / "adaptool.json").read_text())
    assert [(record["type"], record["files"]) for record in manifest["gguf"]] == [
        (kind, [f"out-{kind}.gguf"]) for kind in ("Q4_K_M", "Q8_0", "F16")
    ]
    assert {file["name"]: file["size"] for file in manifest["files"]} == {
        path.name: path.stat().st_size for path in out.glob("*.gguf")
    }


@pytest.mark.parametrize("limit", [1, 150_000, 10**9])
def test_splits_hold_the_tensors_of_one_file(limit: int, base: Path, q4: Path, tmp_path: Path):
    out = converted(base, tmp_path / "out", split_nbytes=limit)
    parts = sorted(out.glob("*.gguf"))
    count = len(parts)
    assert [path.name for path in parts] == (
        ["out-Q4_K_M.gguf"]
        if count == 1
        else [f"out-Q4_K_M-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]
    )
    assert contents(*parts) == contents(q4)
    assert list(contents(*parts)) == list(contents(q4))
    for path in parts:
        held = contents(path)
        assert len(held) == 1 or sum(len(data) for _, _, data in held.values()) <= limit
    if count > 1:
        told = [metadata(path) for path in parts]
        assert [(keys["split.no"], keys["split.count"], keys["split.tensors.count"]) for keys in told] == [
            (number, count, len(contents(q4))) for number in range(count)
        ]
        assert {name for name in told[0] if not name.startswith(("split.", "GGUF."))} == {
            name for name in metadata(q4) if not name.startswith("GGUF.")
        }


def test_llama_cpp_reads_a_split_as_it_reads_one_file(base: Path, q4: Path, tmp_path: Path):
    pytest.importorskip("xllamacpp")
    from adaptool.parity.runtime import open_runtime

    out = converted(base, tmp_path / "out", split_nbytes=200_000)
    first = min(out.glob("*.gguf"))
    assert first.name.endswith("-of-00003.gguf")
    with open_runtime(q4, threads=1) as whole, open_runtime(first, threads=1) as split:
        tokens = whole.tokenize("the cat")
        assert len(tokens) == 3
        np.testing.assert_array_equal(whole.log_probabilities(tokens), split.log_probabilities(tokens))


def test_a_merge_gives_the_same_gguf_with_its_safetensors_and_without(base: Path, lora: Path, tmp_path: Path):
    whole = merged_gguf(lora, base, tmp_path / "a" / "out", TYPES)
    alone = merged_gguf(lora, base, tmp_path / "b" / "out", TYPES, safetensors=False)
    assert files(alone) == {"adaptool.json", "out-F16.gguf", "out-Q4_K_M.gguf", "out-Q8_0.gguf"}
    assert files(whole) == files(alone) | {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for path in alone.glob("*.gguf"):
        assert path.read_bytes() == (whole / path.name).read_bytes()


def test_a_merge_gives_the_tensors_of_its_merged_folder(base: Path, lora: Path, tmp_path: Path):
    out = merged_gguf(lora, base, tmp_path / "out", TYPES)
    again = converted(out, tmp_path / "again", TYPES)
    for kind in ("Q4_K_M", "Q8_0", "F16"):
        assert contents(out / f"out-{kind}.gguf") == contents(again / f"again-{kind}.gguf")
    keys = metadata(out / "out-Q8_0.gguf")
    assert (keys["adaptool.adapter.count"], keys["adaptool.adapter.0.name"]) == (1, "lora")


@pytest.mark.parametrize("how", ["workers", "no kernels", "no kernels, no ggml"])
def test_bytes_depend_on_the_input_alone(
    how: str, base: Path, lora: Path, q4: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expected = tree(merged_gguf(lora, base, tmp_path / "a" / "out", TYPES, workers=1))
    if how != "workers":
        without(monkeypatch, "kernels", *(["libggml"] if how.endswith("ggml") else []))
    assert expected == tree(merged_gguf(lora, base, tmp_path / "b" / "out", TYPES, workers=4))
    assert q4.read_bytes() == converted(base, tmp_path / "q4.gguf", workers=3).read_bytes()


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A machine where nothing was built, or ggml is not installed."""
    from adaptool.tensors import kernels as arithmetic
    from adaptool.tensors.ggml import quantize

    if "kernels" in names:
        for module in (kernels, quantize):
            monkeypatch.setattr(module, "library", lambda: None)
        monkeypatch.setattr("adaptool.gguf.quantised.library", lambda: None)
        monkeypatch.setattr(arithmetic, "library", lambda: None)
        monkeypatch.setitem(quantize._FINDERS, Backend.KERNELS, lambda *_: None)
    if "libggml" in names:
        pytest.importorskip("libgguf")
        monkeypatch.setitem(quantize._FINDERS, Backend.LIBGGML, lambda *_: None)


@pytest.mark.parametrize("kind", ["F16", "F32"])
def test_a_base_of_another_type(kind: str, lora: Path, tmp_path: Path):
    base = model(tmp_path / "base", kind)
    out = converted(base, tmp_path / "out", "f16,f32,bf16,q8_0")
    saved = {name: array for name, (_, array) in model_tensors(kind).items()}
    for target, number in (("F32", 0), (kind, {"F16": 1, "F32": 0}[kind])):
        held = contents(out / f"out-{target}.gguf")
        expected = saved["lm_head.weight"].astype({0: "<f4", 1: "<f2"}[number])
        assert held["output.weight"] == (number, expected.shape[::-1], expected.tobytes())
    whole = merged_gguf(lora, base, tmp_path / "m", "q4")
    assert contents(whole / "m-Q4_K_M.gguf") == contents(converted(whole, tmp_path / "m.gguf"))


def test_shards_and_pickles_give_the_same_file(base: Path, q4: Path, tmp_path: Path):
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    sharded = model(tmp_path / "base", shards=3)
    assert converted(sharded, tmp_path / "sharded.gguf").read_bytes() == q4.read_bytes()
    pickled = tmp_path / "pickled" / "base"
    shutil.copytree(base, pickled)
    torch.save(load_file(base / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert converted(pickled, tmp_path / "pickled.gguf").read_bytes() == q4.read_bytes()


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_weights_are_rounded_to_dtype_first(kind: str, lora: Path, tmp_path: Path):
    base = model(tmp_path / "base", "F32")
    first = merged_gguf(lora, base, tmp_path / "a" / "out", "q8_0", dtype=dtype(kind))
    plain = converted(first, tmp_path / "plain.gguf", "q8_0")
    assert contents(first / "out-Q8_0.gguf") == contents(plain)
    alone = merged_gguf(lora, base, tmp_path / "b" / "out", "q8_0", dtype=dtype(kind), safetensors=False)
    assert (alone / "out-Q8_0.gguf").read_bytes() == (first / "out-Q8_0.gguf").read_bytes()
    direct = converted(base, tmp_path / "direct.gguf", "f32", dtype=dtype(kind))
    saved = numbers("F32", (len(TOKENS), WIDTH), 0, 0.08)
    if kind == "bfloat16":
        bits = saved.view(np.uint32)
        rounded = (((bits >> 16) & 1) + 0x7FFF + bits >> 16).astype(np.uint32) << 16
        saved = rounded.view(np.float32)
    else:
        saved = saved.astype(kind).astype(np.float32)
    assert contents(direct)["token_embd.weight"][2] == saved.tobytes()


def resized(folder: Path, rows: int) -> Path:
    """An adapter trained after the vocabulary grew: whole embeddings in its file."""
    grown = {
        f"base_model.model.{name}": ("BF16", numbers("BF16", (rows, WIDTH), seed))
        for seed, name in enumerate(("model.embed_tokens.weight", "lm_head.weight"))
    }
    adapter(folder, extra=grown)
    write_tokenizer(folder, rows - 1)
    return folder


def test_a_grown_vocabulary_is_padded_to_the_embedding(base: Path, tmp_path: Path):
    rows = len(TOKENS) + 7
    out = merged_gguf(resized(tmp_path / "lora", rows), base, tmp_path / "out", "f32")
    path = out / "out-F32.gguf"
    keys, tensors = metadata(path), contents(path)
    assert tensors["token_embd.weight"][1] == tensors["output.weight"][1] == (WIDTH, rows)
    assert (len(keys["tokenizer.ggml.tokens"]), keys["llama.vocab_size"]) == (rows, rows)
    assert keys["tokenizer.ggml.tokens"][-2:] == ["<extra_5>", f"[PAD{rows - 1}]"]


def test_a_tied_model_has_one_embedding_and_an_untied_one_two(tmp_path: Path):
    base = model(tmp_path / "base", tied=True)
    assert "output.weight" not in contents(converted(base, tmp_path / "tied.gguf", "bf16"))
    head = {
        "base_model.model.lm_head.lora_A.weight": ("F32", numbers("F32", (4, WIDTH), 1, 0.2)),
        "base_model.model.lm_head.lora_B.weight": ("F32", numbers("F32", (len(TOKENS), 4), 2, 0.2)),
    }
    lora = adapter(tmp_path / "lora", extra=head, target_modules=["q_proj", "k_proj", "down_proj", "lm_head"])
    out = merged_gguf(lora, base, tmp_path / "out", "bf16")
    tensors = contents(out / "out-BF16.gguf")
    assert tensors["token_embd.weight"] == contents(tmp_path / "tied.gguf")["token_embd.weight"]
    assert tensors["output.weight"] != tensors["token_embd.weight"]
    assert tensors == contents(converted(out, tmp_path / "again.gguf", "bf16"))


def test_dora_is_merged(base: Path, tmp_path: Path):
    magnitudes = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_magnitude_vector": (
            "F32",
            numbers("F32", (WIDTH,), layer, 0.1) + 1,
        )
        for layer in range(LAYERS)
    }
    lora = adapter(tmp_path / "lora", targets=["q_proj"], extra=magnitudes, use_dora=True)
    out = merged_gguf(lora, base, tmp_path / "out", "bf16")
    plain = contents(converted(base, tmp_path / "plain.gguf", "bf16"))
    tensors = contents(out / "out-BF16.gguf")
    changed = {name for name in plain if plain[name] != tensors[name]}
    assert changed == {f"blk.{layer}.attn_q.weight" for layer in range(LAYERS)}
    assert tensors == contents(converted(out, tmp_path / "again.gguf", "bf16"))


NF4 = [
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302,
    0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
]  # fmt: skip


def four_bits(folder: Path) -> Path:
    """The model as bitsandbytes saves it in 4 bits: random codes, real shapes."""
    tensors = model_tensors()
    for name, (_, array) in list(tensors.items()):
        if "_proj" not in name:
            continue
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(array.shape)}
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        codes = np.random.default_rng(array.size).integers(0, 256, (array.size // 2, 1)).astype(np.uint8)
        tensors |= {
            name: ("U8", codes),
            f"{name}.absmax": ("F32", np.abs(numbers("F32", (array.size // 64,), 5, 0.1))),
            f"{name}.quant_map": ("F32", np.float32(NF4)),
            f"{name}.quant_state.bitsandbytes__nf4": ("U8", text),
        }
    model(folder)
    write_tensors(folder / "model.safetensors", tensors)
    how = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    edit_json(folder / "config.json", quantization_config=how)
    return folder


def test_a_4_bit_base(lora: Path, tmp_path: Path):
    base = four_bits(tmp_path / "base")
    whole = merged_gguf(lora, base, tmp_path / "a" / "out", "bf16,q8_0")
    alone = merged_gguf(lora, base, tmp_path / "b" / "out", "bf16,q8_0", safetensors=False)
    for kind in ("BF16", "Q8_0"):
        assert (alone / f"out-{kind}.gguf").read_bytes() == (whole / f"out-{kind}.gguf").read_bytes()
        again = converted(whole, tmp_path / f"{kind}.gguf", kind)
        assert contents(again) == contents(whole / f"out-{kind}.gguf")


def test_a_gguf_is_a_model_too(base: Path, tmp_path: Path):
    plain = converted(base, tmp_path / "plain.gguf", "bf16")
    assert contents(converted(plain, tmp_path / "again.gguf", "bf16")) == contents(plain)
    assert contents(converted(plain, tmp_path / "q4.gguf")) == contents(converted(base, tmp_path / "base.gguf"))


def test_a_merge_onto_a_gguf_is_that_onto_its_model(base: Path, lora: Path, tmp_path: Path):
    plain = converted(base, tmp_path / "plain.gguf", "bf16")
    onto = merged_gguf(lora, plain, tmp_path / "a" / "out", "q8_0", safetensors=False)
    expected = merged_gguf(lora, base, tmp_path / "b" / "out", "q8_0", safetensors=False)
    assert contents(onto / "out-Q8_0.gguf") == contents(expected / "out-Q8_0.gguf")


def test_tensor_types_and_an_imatrix_take_effect(base: Path, q4: Path, tmp_path: Path):
    measured = imatrix(tmp_path / "imatrix.gguf", seed=1)
    weighed = contents(converted(base, tmp_path / "w.gguf", imatrix=measured, tensor_types=["ffn_down=q8_0"]))
    plain = contents(q4)
    changed = {name for name in plain if plain[name] != weighed[name]}
    down = {f"blk.{layer}.ffn_down.weight" for layer in range(LAYERS)}
    assert {weighed[name][0] for name in down} == {8}
    assert changed == down | {f"blk.{layer}.attn_q.weight" for layer in range(LAYERS)}


def imatrix(path: Path, *, seed: int, columns: int = WIDTH) -> Path:
    """What llama-imatrix would have measured of attn_q."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for layer in range(LAYERS):
        sums = np.random.default_rng(seed + layer).uniform(0, 9, (1, columns)).astype(np.float32)
        writer.add_tensor(f"blk.{layer}.attn_q.weight.in_sum2", sums)
        writer.add_tensor(f"blk.{layer}.attn_q.weight.counts", np.float32([[3]]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_another_models_imatrix_is_refused_before_anything_is_written(base: Path, tmp_path: Path):
    measured = imatrix(tmp_path / "imatrix.gguf", seed=1, columns=128)
    with pytest.raises(MismatchError, match="attn_q"):
        converted(base, tmp_path / "out.gguf", imatrix=measured)
    assert files(tmp_path) == {"imatrix.gguf"}


CLASSIFIER = {
    "base_model.model.score.weight": ("BF16", numbers("BF16", (3, WIDTH), 9)),
}
"""A trained classification head."""


@pytest.mark.parametrize("safetensors", [True, False])
def test_a_task_head_is_refused_by_name(safetensors: bool, base: Path, tmp_path: Path):
    lora = adapter(tmp_path / "lora", extra=CLASSIFIER, task_type="SEQ_CLS", modules_to_save=["score"])
    with pytest.raises(UnsupportedError, match="LlamaForSequenceClassification") as caught:
        merged_gguf(lora, base, tmp_path / "out", safetensors=safetensors)
    assert "LlamaForCausalLM" in str(caught.value.hint)
    assert {path.name for path in tmp_path.iterdir()} == {"lora"}


REFUSED: dict[str, tuple[Callable[[Path], object], type[AdaptoolError], str]] = {
    "another architecture": (
        lambda base: edit_json(base / "config.json", architectures=["MambaForCausalLM"]),
        UnsupportedError,
        "MambaForCausalLM",
    ),
    "no architecture": (
        lambda base: edit_json(base / "config.json", architectures=None),
        UnsupportedError,
        "names no architecture",
    ),
    "no config": (lambda base: (base / "config.json").unlink(), UnsupportedError, "no config.json"),
    "no tokenizer": (lambda base: (base / "tokenizer.json").unlink(), AdaptoolError, "tokenizer"),
    "a tokenizer of nothing": (
        lambda base: (base / "tokenizer.json").write_text('{"version": "1.0"}'),
        AdaptoolError,
        r"tokenizer\.json",
    ),
    "a broken tokenizer": (
        lambda base: (base / "tokenizer.json").write_text('{"version": '),
        FormatError,
        r"tokenizer\.json",
    ),
    "a tokenizer in Latin-1": (
        lambda base: (base / "tokenizer.json").write_bytes(b'{"version": "\xe9"}'),
        FormatError,
        r"tokenizer\.json",
    ),
    "an unknown pre-tokenizer": (
        lambda base: edit_json(base / "tokenizer.json", pre_tokenizer={"type": "Whitespace"}),
        UnsupportedError,
        "splits text so",
    ),
    "more tokens than rows": (lambda base: write_tokenizer(base, len(TOKENS) + 1), MismatchError, "<extra_0>"),
    "another model's config, deeper": (
        lambda base: edit_json(base / "config.json", num_hidden_layers=LAYERS + 1),
        MismatchError,
        f"layer {LAYERS} has no tensors",
    ),
    "another model's config, shallower": (
        lambda base: edit_json(base / "config.json", num_hidden_layers=LAYERS - 1),
        AdaptoolError,
        r"layers\.1\.",
    ),
    "another model's config, wider": (
        lambda base: edit_json(base / "config.json", hidden_size=2 * WIDTH),
        MismatchError,
        "a width of 512",
    ),
    "a tensor too many": (
        lambda base: write_tensors(
            base / "model.safetensors", model_tensors() | {"model.layers.0.extra.weight": ("F32", np.ones(3, "f4"))}
        ),
        UnsupportedError,
        r"model\.layers\.0\.extra\.weight",
    ),
    "weights of no known type": (
        lambda base: write_tensors(
            base / "model.safetensors",
            model_tensors() | {"model.norm.weight": ("U8", np.ones(WIDTH, np.uint8))},
        ),
        UnsupportedError,
        r"model\.norm\.weight",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_before_anything_is_written(name: str, base: Path, tmp_path: Path):
    damage, kind, words = REFUSED[name]
    shutil.copytree(base, tmp_path / "base")
    damage(tmp_path / "base")
    with pytest.raises(kind, match=words) as caught:
        converted(tmp_path / "base", tmp_path / "out.gguf")
    assert "\n" not in caught.value.message
    assert {path.name for path in tmp_path.iterdir()} == {"base"}


NAN, INF, LARGE = 0x7FC0, 0x7F80, 0x7F7F
BAD = [
    ("model.layers.1.mlp.up_proj.weight", NAN, "q4", r"blk\.1\.ffn_up\.weight holds NaN or Inf"),
    ("model.layers.1.self_attn.q_proj.weight", INF, "q8_0", r"blk\.1\.attn_q\.weight holds NaN or Inf"),
    ("model.norm.weight", NAN, "q4", r"output_norm\.weight holds NaN or Inf"),
    ("model.embed_tokens.weight", NAN, "f16", r"token_embd\.weight holds NaN or Inf$"),
    ("lm_head.weight", INF, "f32", r"output\.weight holds NaN or Inf$"),
    ("lm_head.weight", LARGE, "f16", r"output\.weight does not fit float16"),
]


@pytest.mark.parametrize(("name", "bits", "kind", "words"), BAD)
@pytest.mark.parametrize("kernels_built", [True, False])
def test_what_is_no_number_is_named_and_never_published(
    name: str, bits: int, kind: str, words: str, kernels_built: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if not kernels_built:
        without(monkeypatch, "kernels")
    array = model_tensors()[name][1].copy()
    array.flat[-1] = bits
    base = model(tmp_path / "base", changed={name: ("BF16", array)})
    with pytest.raises(FormatError, match=words) as caught:
        converted(base, tmp_path / "out.gguf", kind)
    assert "out.gguf.partial" in str(caught.value.hint)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out.gguf.partial"}


def test_a_number_that_bfloat16_holds_is_quantised(tmp_path: Path):
    array = model_tensors()["lm_head.weight"][1].copy()
    array.flat[-1] = LARGE
    base = model(tmp_path / "base", changed={"lm_head.weight": ("BF16", array)})
    assert contents(converted(base, tmp_path / "out.gguf", "q8_0"))


def test_a_dry_run_writes_nothing_anywhere(base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    gguf = converted(base, tmp_path / "model.gguf", "bf16")
    before = files(tmp_path)
    job = api.convert(base, tmp_path / "out", api.gguf_options(TYPES))
    job.check(dry=True)
    assert job.estimate.files == ("out-Q4_K_M.gguf", "out-Q8_0.gguf", "out-F16.gguf")
    for source in (base, gguf):
        exporting = MergeOptions(exports=(merged_exports(),))
        job = api.merge([(lora, 1.0)], source, tmp_path / "out", options=exporting)
        job.check(dry=True)
        assert "out-Q4_K_M.gguf" in job.estimate.files
    del job
    assert files(tmp_path) == before
    assert list(place.iterdir()) == []


def merged_exports() -> Any:
    from adaptool.gguf.merged import gguf_export

    return gguf_export(api.gguf_options("q4"))


def test_without_a_temporary_folder_it_is_said(base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    converted(base, tmp_path / "out.gguf")  # needs none
    with pytest.raises(DiskError, match="temporary folder") as caught:
        merged_gguf(lora, base, tmp_path / "out")
    assert "TMPDIR" in str(caught.value.hint)
    assert files(tmp_path) == {"out.gguf"}


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, "gguf", "threadpoolctl"])
"""A child is forked from a process that has imported what it needs, so that starting one costs milliseconds."""


def in_child(target: Callable[..., None], *args: object) -> int:
    """Run a function in a process of its own; its exit code, negative for a signal."""
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


def killed_at_event(base: Path, out: Path, types: str, number: int, count: Path | None) -> None:
    """Convert, and die at the ``number``-th thing the interpreter asks of the system about OUT."""
    seen = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        imports = re.search(r"__pycache__|\.py\b", str(args[:1]))  # what is compiled on a first run only
        if event.startswith(("open", "os.", "shutil.", "ctypes.dl", "fcntl")) and not imports:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    job = api.convert(base, out, api.gguf_options(types), workers=2, overwrite=True)
    sys.addaudithook(watch)
    for _ in job:
        pass
    if count is not None:
        count.write_text(str(seen))


@pytest.mark.parametrize("types", ["q4", TYPES])
def test_killed_at_any_system_call(types: str, base: Path, tmp_path: Path):
    single, count = types == "q4", tmp_path / "count"
    out, old = (tmp_path / name for name in (("out.gguf", "old.gguf") if single else ("out", "old")))
    converted(base, old, "q8_0" if single else "q8_0,q4_0")
    new = converted(base, tmp_path / "fresh" / out.name, types)

    def state(path: Path) -> object:
        return path.read_bytes() if path.is_file() else tree(path)

    def lay_old() -> None:
        for path in (out, partial_path(out)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (shutil.copytree if old.is_dir() else shutil.copy)(old, out)

    before, after = state(old), state(new)
    lay_old()
    assert in_child(killed_at_event, base, out, types, 0, count) == 0
    events = int(count.read_text())
    for number in sorted({*random.Random(0).sample(range(1, events), CRASHES), *range(events - 8, events)}):
        lay_old()
        assert in_child(killed_at_event, base, out, types, number, None) == -signal.SIGKILL
        assert state(out) in (before, after), f"event {number} of {events}"
        converted(base, out, types, resume=True, overwrite=True)
        assert state(out) == after, f"event {number} of {events}"
        assert {path.name for path in tmp_path.iterdir()} == {out.name, old.name, "fresh", "count"}


def interrupted(base: Path, out: Path, types: str = "q4", steps: int = 8, **options: Any) -> None:
    """A conversion that stops after some pieces, as if killed there."""
    how = {name: options.pop(name) for name in ("dtype",) if name in options}
    run = iter(api.convert(base, out, api.gguf_options(types, **options), workers=1, **how))
    for _ in range(steps + 1):
        next(run)
    run.close()


def resumed(base: Path, out: Path, types: str = "q4", **options: Any) -> int:
    """Go on; how many pieces were there already."""
    how = {name: options.pop(name) for name in ("dtype",) if name in options}
    job = api.convert(base, out, api.gguf_options(types, **options), workers=2, resume=True, **how)
    for _ in job:
        pass
    return job.report.resumed_pieces


@pytest.mark.parametrize("types", ["q4", TYPES])
def test_finished_pieces_are_not_done_again(types: str, base: Path, tmp_path: Path):
    interrupted(base, tmp_path / "model", types) if "," in types else interrupted(base, tmp_path / "model.gguf")
    out = tmp_path / ("model" if "," in types else "model.gguf")
    assert resumed(base, out, types) == 8
    fresh = converted(base, tmp_path / "fresh" / out.name, types)
    assert (tree(out) == tree(fresh)) if out.is_dir() else (out.read_bytes() == fresh.read_bytes())


def test_what_no_header_tells_is_not_resumed_into_another(tmp_path: Path):
    """The types before quantising, an imatrix that was measured again, rotary settings: all begin anew."""
    base, out = model(tmp_path / "base", "F32"), tmp_path / "out.gguf"
    interrupted(base, out, "q8_0")
    assert resumed(base, out, "q8_0", dtype=dtype("bfloat16")) == 0
    assert out.read_bytes() == converted(base, tmp_path / "a.gguf", "q8_0", dtype=dtype("bfloat16")).read_bytes()
    measured, out = imatrix(tmp_path / "imatrix.gguf", seed=1), tmp_path / "b.gguf"
    interrupted(base, out, imatrix=measured)
    imatrix(measured, seed=7)
    os.utime(measured, ns=(1, 1))
    assert resumed(base, out, imatrix=measured) == 0
    assert out.read_bytes() == converted(base, tmp_path / "c.gguf", imatrix=measured).read_bytes()
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 64, "rope_theta": 10000.0}
    edit_json(base / "config.json", rope_scaling=rope)
    out = tmp_path / "d.gguf"
    interrupted(base, out)
    edit_json(base / "config.json", rope_scaling=rope | {"factor": 2.0})
    assert resumed(base, out) == 0
    assert out.read_bytes() == converted(base, tmp_path / "e.gguf").read_bytes()


def test_a_merge_is_not_resumed_with_another_dtype(lora: Path, tmp_path: Path):
    base, out = model(tmp_path / "base", "F32"), tmp_path / "out"
    options = MergeOptions(exports=(merged_exports(),), safetensors=False, workers=1)
    run = iter(api.merge([(lora, 1.0)], base, out, options=options))
    for _ in range(6):
        next(run)
    run.close()
    merged_gguf(lora, base, out, resume=True, safetensors=False, dtype=dtype("float16"))
    expected = merged_gguf(lora, base, tmp_path / "fresh" / "out", safetensors=False, dtype=dtype("float16"))
    assert tree(out) == tree(expected)


@pytest.mark.parametrize(("safetensors", "steps"), [(True, 5), (True, 30), (False, 5), (False, 18)])
def test_an_interrupted_merge_goes_on(safetensors: bool, steps: int, base: Path, lora: Path, tmp_path: Path):
    out = tmp_path / "out"
    options = MergeOptions(exports=(merged_exports(),), safetensors=safetensors, workers=1)
    run = iter(api.merge([(lora, 1.0)], base, out, options=options))
    for _ in range(steps):
        next(run)
    run.close()
    assert not out.exists()
    merged_gguf(lora, base, out, resume=True, safetensors=safetensors)
    fresh = merged_gguf(lora, base, tmp_path / "fresh" / "out", safetensors=safetensors)
    manifests = [json.loads((folder / "adaptool.json").read_text()) for folder in (out, fresh)]
    if not safetensors:  # the rows that this run checked: those of the one before are not remembered
        assert manifests[0].pop("checked")["sampled_rows"] <= manifests[1].pop("checked")["sampled_rows"]
    assert manifests[0] == manifests[1]
    assert tree(out) | {"adaptool.json": b""} == tree(fresh) | {"adaptool.json": b""}


def limited(base: Path, out: Path, limit: int) -> None:
    """A disk that takes no file larger than ``limit``."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        converted(base, out)
    except DiskError:
        sys.exit(7)


@pytest.mark.parametrize("limit", [0, 1000, 300_000])
def test_a_file_that_may_not_grow(limit: int, base: Path, q4: Path, tmp_path: Path):
    out = tmp_path / "out.gguf"
    assert in_child(limited, base, out, limit) == 7
    assert not out.exists()
    resumed(base, out)
    assert files(tmp_path) == {"out.gguf"}
    assert out.read_bytes() == q4.read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 900 kB, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_is_survived(base: Path, small_disk: Path, q4: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DiskError, match="GB free"):
        converted(base, small_disk / "out.gguf")
    assert list(small_disk.iterdir()) == []
    monkeypatch.setattr("adaptool.writing.job.require_space", lambda *_: None)
    (small_disk / "ballast").write_bytes(bytes(500_000))
    with pytest.raises(DiskError, match="No space left") as caught:
        converted(base, small_disk / "out.gguf", workers=1)
    assert "--resume" in str(caught.value.hint)
    assert not (small_disk / "out.gguf").exists()
    (small_disk / "ballast").unlink()
    assert resumed(base, small_disk / "out.gguf") > 0
    assert (small_disk / "out.gguf").read_bytes() == q4.read_bytes()


def test_two_runs_at_once(base: Path, q4: Path, tmp_path: Path):
    first = iter(api.convert(base, tmp_path / "out.gguf", api.gguf_options("q4"), workers=1))
    for _ in range(3):
        next(first)
    with pytest.raises(DiskError, match="another adaptool is writing"):
        converted(base, tmp_path / "out.gguf")
    for _ in first:
        pass
    assert (tmp_path / "out.gguf").read_bytes() == q4.read_bytes()
    assert files(tmp_path) == {"out.gguf"}


def test_a_source_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path):
    base, out = model(tmp_path / "base"), tmp_path / "out.gguf"
    run = iter(api.convert(base, out, api.gguf_options("q4"), workers=1))
    next(run)
    os.truncate(base / "model.safetensors", 100_000)
    with pytest.raises(AdaptoolError):
        list(run)
    assert not out.exists()


def test_a_lost_write_is_found_before_publishing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from adaptool.tensors import writer

    write = writer._write
    monkeypatch.setattr(writer, "_write", lambda fd, data, at: write(fd, data, at) if at else None)
    with pytest.raises(FormatError):
        converted(base, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def own(path: Path, base: Path) -> None:
    converted(base, path, "q8_0")


def foreign(path: Path, base: Path) -> None:
    path.write_bytes(b"GGUF of somebody")


def link(path: Path, base: Path) -> None:
    path.symlink_to(converted(base, path.with_name("target.gguf"), "q8_0"))


def dangling(path: Path, base: Path) -> None:
    path.symlink_to(path.with_name("nowhere.gguf"))


def folder(path: Path, base: Path) -> None:
    path.mkdir()


def lent(path: Path, base: Path) -> None:
    """A folder of somebody else's where OUT would be prepared."""
    partial_path(path).mkdir()
    (partial_path(path) / "thesis.txt").write_text("do not lose")


def lent_by_link(path: Path, base: Path) -> None:
    """The same behind a link, with a lock in it."""
    elsewhere = path.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / LOCK_NAME).touch()
    (elsewhere / "thesis.txt").write_text("do not lose")
    partial_path(path).symlink_to(elsewhere)


def a_file(path: Path, base: Path) -> None:
    partial_path(path).write_text("do not lose")


IN_THE_WAY = [
    (own, False, "already exists"),
    (own, True, None),
    (foreign, False, "already exists"),
    (foreign, True, "was not written by adaptool"),
    (link, False, "already exists"),
    (link, True, "was not written by adaptool"),
    (dangling, False, "already exists"),
    (dangling, True, "was not written by adaptool"),
    (folder, False, "is a folder"),
    (folder, True, "is a folder"),
    (lent, False, "is in the way"),
    (lent, True, "is in the way"),
    (lent_by_link, True, "is in the way"),
    (a_file, True, "is in the way"),
]


@pytest.mark.parametrize(("put", "overwrite", "words"), IN_THE_WAY)
def test_what_is_in_the_way_of_a_file(
    put: Callable[[Path, Path], None], overwrite: bool, words: str | None, base: Path, q4: Path, tmp_path: Path
):
    out = tmp_path / "out.gguf"
    put(out, base)
    before = tree(tmp_path)
    if words is None:
        assert converted(base, out, overwrite=overwrite).read_bytes() == q4.read_bytes()
        return
    with pytest.raises(UsageError, match=words):
        converted(base, out, overwrite=overwrite)
    assert tree(tmp_path) == before


def test_a_folder_of_ggufs_is_overwritten_if_it_is_all_adaptools(base: Path, tmp_path: Path):
    out = converted(base, tmp_path / "out", "q4,q8_0")
    with pytest.raises(UsageError, match="already exists"):
        converted(base, out, "q4,f16")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="no adaptool manifest lists"):
        converted(base, out, "q4,f16", overwrite=True)
    (out / "notes.txt").unlink()
    assert files(converted(base, out, "q4,f16", overwrite=True)) == {
        "adaptool.json", "out-F16.gguf", "out-Q4_K_M.gguf",
    }  # fmt: skip


def test_an_output_that_is_an_input_is_refused(base: Path, lora: Path, tmp_path: Path):
    gguf = converted(base, tmp_path / "model.gguf", "bf16")
    before = tree(tmp_path)
    for source, out in ((base, base / "out.gguf"), (gguf, gguf)):
        with pytest.raises(UsageError, match="is, contains or lies in the input"):
            converted(source, out, overwrite=True)
    with pytest.raises(UsageError, match="is, contains or lies in the input"):
        converted(gguf, tmp_path, "q4,q8_0", overwrite=True)
    with pytest.raises(UsageError, match="is, contains or lies in the input"):
        merged_gguf(lora, gguf, tmp_path, overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(base: Path, tmp_path: Path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with pytest.raises(DiskError, match="Permission denied"):
        converted(base, tmp_path / "locked" / "out.gguf")
