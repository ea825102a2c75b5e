"""Adapters that do not add up: every tensor is consumed or named, and nothing but a worded error comes out."""

from __future__ import annotations

import numpy as np
import pytest
from making import SHAPES, llama, lora, merged, numbers, refusal_of, write_tensors

from adaptool.api import merge
from adaptool.errors import AdaptoolError, FormatError, MismatchError, UnsupportedError
from adaptool.tensors.dtypes import DTYPES

PREFIX = "base_model.model."
Q = f"{PREFIX}model.layers.0.self_attn.q_proj"
EMBED = f"{PREFIX}model.embed_tokens"


@pytest.fixture
def base(tmp_path):
    return llama(tmp_path / "base")


def f32(*shape: int, seed: int = 7):
    return "F32", numbers("F32", shape, seed)


def refused(tmp_path, base, match: str, kind: type[AdaptoolError] = MismatchError, **adapter: object) -> AdaptoolError:
    with pytest.raises(kind, match=match) as error:
        merge([(lora(tmp_path / "adapter", **adapter), 1.0)], base, tmp_path / "out")
    assert error.value.exit_code == 3
    assert not (tmp_path / "out.partial").exists()
    return error.value


LEFT_OVER = {
    "a module the base lacks": {f"{PREFIX}model.layers.9.self_attn.q_proj.lora_A.weight": f32(4, 64),
                                f"{PREFIX}model.layers.9.self_attn.q_proj.lora_B.weight": f32(64, 4)},
    "a part nobody knows": {f"{Q}.lora_C.weight": f32(4, 64)},
    "another tuner's part": {f"{Q}.lokr_w1": f32(4, 4)},
    "a full tensor the base lacks": {f"{PREFIX}model.layers.0.self_attn.extra.weight": f32(4, 4)},
    "a magnitude without DoRA": {f"{Q}.lora_magnitude_vector": f32(64)},
    "a diagonal without KaSA": {f"{Q}.lora_diag": f32(4)},
    "VeLoRA's buffer without VeLoRA": {f"{Q}.lora_velora_embed": f32(4)},
    "a bias nobody has": {f"{Q}.lora_B.bias": f32(64)},
    "a key without PEFT's prefix": {"model.layers.0.self_attn.q_proj.lora_A.weight": f32(4, 64)},
    "a key with a dataset's prefix": {f"module.{Q}.lora_A.weight": f32(4, 64)},
    "the adapter's name in the key": {f"{Q}.lora_A.default.weight": f32(4, 64)},
    "an empty key": {"": f32(1)},
    "only the prefix": {PREFIX: f32(1)},
    "a buffer of the tuner": {"base_model.vera_A": f32(4, 64)},
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OVER)
def test_what_nothing_accounts_for_is_named(name, base, tmp_path):
    error = refused(tmp_path, base, "", extra=LEFT_OVER[name])
    key = next(iter(LEFT_OVER[name]))
    assert key.removeprefix(PREFIX).partition(".lora_A")[0].removesuffix(".lora_B.bias") in error.message


@pytest.mark.parametrize(("alone", "missing"), [("lora_A.weight", "lora_B.weight"), ("lora_B.weight", "lora_A.weight")])
def test_half_a_pair_is_named(base, tmp_path, alone, missing):
    key = f"{PREFIX}model.layers.0.mlp.up_proj.{alone}"
    shape = (4, 64) if alone == "lora_A.weight" else (96, 4)
    assert missing in refused(tmp_path, base, "mlp.up_proj", extra={key: f32(*shape)}).message


def test_a_rank_the_config_does_not_declare(base, tmp_path):
    error = refused(
        tmp_path, base, "has rank 6", extra={f"{Q}.lora_A.weight": f32(6, 64), f"{Q}.lora_B.weight": f32(64, 6)}
    )
    assert "rank_pattern" in error.hint
    assert "declares 4" in error.message


def test_factors_of_two_ranks(base, tmp_path):
    refused(tmp_path, base, "rank", extra={f"{Q}.lora_B.weight": f32(64, 6)})


def test_factors_the_wrong_way_round(base, tmp_path):
    swapped = {f"{Q}.lora_A.weight": f32(64, 4), f"{Q}.lora_B.weight": f32(4, 64)}
    refused(tmp_path, base, "q_proj", extra=swapped)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
@pytest.mark.parametrize("kind", ["F32", "F16", "F64", "BF16"])
def test_not_a_number_anywhere(base, tmp_path, value, part, kind):
    array = numbers(kind, (4, 64) if part == "lora_A" else (64, 4), 1)
    if kind == "BF16":
        array[2, 3] = np.array([value], np.float32).view(np.uint32)[0] >> 16
    else:
        array[2, 3] = value
    error = refused(tmp_path, base, "NaN or Inf", FormatError, extra={f"{Q}.{part}.weight": (kind, array)})
    assert f"{Q}.{part}.weight" in error.message


def test_a_merge_that_overflows_is_caught_by_safe_rounding(tmp_path):
    base = llama(tmp_path / "base", kind="F16")
    adapter = lora(tmp_path / "adapter", lora_alpha=1e9)
    with pytest.raises(MismatchError, match="NaN or Inf"):
        for _ in merge([(adapter, 1.0)], base, tmp_path / "out", rounding="safe", ignore=["CFG206", "VAL"]):
            pass
    assert not (tmp_path / "out").exists()


def test_another_models_adapter(base, tmp_path):
    error = refused(
        tmp_path,
        base,
        "such module",
        extra={
            f"{PREFIX}transformer.h.0.attn.c_attn.lora_A.weight": f32(4, 64),
            f"{PREFIX}transformer.h.0.attn.c_attn.lora_B.weight": f32(192, 4),
        },
    )
    assert "the base it was trained on" in error.hint


def test_a_base_of_another_width(tmp_path):
    base = tmp_path / "base"
    write_tensors(
        base / "model.safetensors",
        {f"model.layers.{i}.{n}.weight": f32(2 * r, 2 * c) for i in range(2) for n, (r, c) in SHAPES.items()},
    )
    error = refused(tmp_path, base, "update is")
    assert "[128, 128]" in error.message


@pytest.mark.parametrize("kind", ["I64", "I32", "BOOL", "U8", "C64", "F8_E4M3", "F8_E8M0", "F4", "F6_E2M3"])
@pytest.mark.parametrize("key", [f"{Q}.lora_A.weight", f"{PREFIX}model.norm.weight", f"{EMBED}.lora_embedding_A"])
def test_factors_of_a_type_that_holds_no_weights(base, tmp_path, kind, key):
    """Merged where the type holds numbers, refused in words where not."""
    shape = {f"{Q}.lora_A.weight": (4, 64), f"{PREFIX}model.norm.weight": (64,), f"{EMBED}.lora_embedding_A": (4, 40)}[
        key
    ]
    size = DTYPES[kind].bits * int(np.prod(shape)) // 8
    adapter = tmp_path / "adapter"
    lora(adapter, extra={f"{EMBED}.lora_embedding_B": f32(64, 4)} if "embedding" in key else None)
    add_raw(adapter, key, kind, shape, bytes(range(32, 96)) * (size // 64) + bytes(size % 64))
    error = refusal_of(lambda: merged(base, adapter, tmp_path / "out"))
    assert (error is None) == (tmp_path / "out").exists()


def add_raw(adapter, key, kind, shape, data):
    """Add a tensor of any type to an adapter's file."""
    import json
    import struct

    from making import entry, pack

    path = adapter / "adapter_model.safetensors"
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    old = header.pop(key, None)
    if old is not None:
        start, stop = old["data_offsets"]
        body = body[:start] + body[stop:]
        for other in header.values():
            if "data_offsets" in other and other["data_offsets"][0] >= stop:
                other["data_offsets"] = [offset - (stop - start) for offset in other["data_offsets"]]
    header[key] = entry(kind, shape, len(body), len(body) + len(data))
    path.write_bytes(pack(header, body + data))


KEYS = {
    f"{Q}.lora_A.weight": {},
    f"{Q}.lora_B.weight": {},
    f"{Q}.lora_magnitude_vector": {"use_dora": True, "target_modules": ["q_proj"]},
    f"{Q}.lora_diag": {"kasa_config": {}},
    f"{Q}.base_layer.weight": {},
    f"{Q}.base_layer.bias": {},
    f"{PREFIX}model.norm.weight": {"modules_to_save": ["norm"]},
    f"{EMBED}.weight": {"modules_to_save": ["embed_tokens"]},
    f"{PREFIX}lm_head.weight": {"modules_to_save": ["lm_head"]},
    f"{EMBED}.token_adapter.trainable_tokens_delta": {"trainable_token_indices": [3, 5]},
    f"{PREFIX}score.weight": {"modules_to_save": ["score"], "task_type": "SEQ_CLS"},
}
ODD_SHAPES = [
    (),
    (0,),
    (1,),
    (4,),
    (64,),
    (0, 0),
    (4, 0),
    (1, 1),
    (4, 64, 1),
    (4, 64, 1, 1),
    (2, 2, 2, 2, 2),
    (40, 64),
    (3, 64),
]


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
@pytest.mark.parametrize("key", KEYS, ids=lambda key: ".".join(key.split(".")[-2:]))
def test_odd_shapes_raise_only_worded_errors(base, tmp_path, key, shape):
    adapter = lora(tmp_path / "adapter", layers=1, targets=["q_proj"], extra={key: f32(*shape)}, **KEYS[key])
    error = refusal_of(lambda: merged(base, adapter, tmp_path / "out"))
    assert error is None or error.exit_code == 3
    assert (error is None) == (tmp_path / "out").exists()


MISSHAPEN = {
    "a norm": ({f"{PREFIX}model.norm.weight": f32(32)}, {"modules_to_save": ["norm"]}),
    "an embedding of another width": ({f"{EMBED}.weight": f32(40, 32)}, {"modules_to_save": ["embed_tokens"]}),
    "a magnitude for all rows": ({f"{Q}.lora_magnitude_vector": f32(1)}, {"use_dora": True}),
    "a magnitude of another layer": ({f"{Q}.lora_magnitude_vector": f32(32)}, {"use_dora": True}),
    "a diagonal for all ranks": ({f"{Q}.lora_diag": f32(1)}, {"kasa_config": {}}),
    "a diagonal as a matrix": ({f"{Q}.lora_diag": f32(64, 4)}, {"kasa_config": {}}),
    "a bias": ({f"{Q}.base_layer.bias": f32(3)}, {"bias": "lora_only"}),
    "an added bias": ({f"{Q}.lora_B.bias": f32(3)}, {"lora_bias": True}),
    "one added bias": ({f"{Q}.lora_B.bias": f32(1)}, {"lora_bias": True}),
    "trained tokens": ({f"{EMBED}.token_adapter.trainable_tokens_delta": f32(2, 32)},
                       {"trainable_token_indices": [3, 5]}),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSHAPEN)
def test_a_tensor_of_the_wrong_shape_is_refused(tmp_path, name):
    """Before a byte is written: what broadcasts would merge something, and what replaces would break the model."""
    extra, fields = MISSHAPEN[name]
    tensors = {"model.layers.0.self_attn.q_proj.weight": f32(64, 64), "model.layers.0.self_attn.q_proj.bias": f32(64),
               "model.norm.weight": f32(64), "model.embed_tokens.weight": f32(40, 64)}  # fmt: skip
    base = write_tensors(tmp_path / "base" / "model.safetensors", tensors)
    adapter = lora(tmp_path / "adapter", layers=1, targets=["q_proj"], extra=extra, **fields)
    with pytest.raises(AdaptoolError) as error:
        merge([(adapter, 1.0)], base.parent, tmp_path / "out")
    assert error.value.exit_code == 3


NESTED = {
    "use_bdlora": [{"nblocks": v, "target_modules_bd_a": ["q_proj"]} for v in (0, -1, "x", 1.5, None, 10**9, [2], 3)]
    + [{"nblocks": 2, "target_modules_bd_a": v} for v in (5, "q", [5], {"a": 1}, [None], True)],
    "trainable_token_indices": [
        {"embed_tokens": v} for v in (5, "x", [None], [-1], [10**9], [True], [[1]], [3, 3], [3, 5])
    ]
    + [[-1, 2], [10**30, 1], [3, 3]],
    "rank_pattern": [{"q_proj": v} for v in (0, -1, "4", None, 4.0, [4], 10**400)] + [{"": 4}, {"(": 4}],
    "alpha_pattern": [{"q_proj": v} for v in (0, "4", None, [4], 10**400, True)] + [{"": 4}, {"[": 4}],
    "target_parameters": [["q_proj.weight"], ["weight"], [""], ["."], [5], "q_proj.weight", {"a": 1}],
    "modules_to_save": [[""], ["."], ["weight"], ["norm", ""], [[]]],
    "kasa_config": [{}, 5, [], "x"],
    "init_lora_weights": ["PISSA", "Pissa", "pissa_niter_x", ["pissa"], {"a": 1}, 5],
}


@pytest.mark.parametrize("field", NESTED)
def test_nested_junk_raises_only_worded_errors(base, tmp_path, field):
    stumbles = []
    for value in NESTED[field]:
        extra = {f"{EMBED}.token_adapter.trainable_tokens_delta": f32(2, 64)} if "token" in field else {}
        extra |= {f"{Q}.lora_diag": f32(4)} if field == "kasa_config" else {}
        adapter = lora(tmp_path / "adapter", layers=1, targets=["q_proj"], extra=extra, **{field: value})
        try:
            for _ in merge([(adapter, 1.0)], base, tmp_path / "out"):
                break
        except AdaptoolError:
            continue
        except Exception as error:
            stumbles.append(f"{str(value)[:60]}: {type(error).__name__}: {str(error)[:60]}")
    assert stumbles == []


@pytest.mark.parametrize("init", ["PISSA", "Olora", "pissa_niter_x", ["pissa"], "unheard_of"])
def test_an_initialisation_that_is_not_known_is_refused(base, tmp_path, init):
    with pytest.raises((UnsupportedError, FormatError)):
        merge([(lora(tmp_path / "a", init_lora_weights=init), 1.0)], base, tmp_path / "out")


def test_tokens_named_twice_take_the_later_row_or_are_refused(base, tmp_path):
    """As torch's index assignment leaves it, or not at all."""
    rows = f32(2, 64)
    extra = {f"{EMBED}.token_adapter.trainable_tokens_delta": rows}
    adapter = lora(tmp_path / "a", extra=extra, trainable_token_indices=[3, 3])
    try:
        store = merge([(adapter, 1.0)], base, tmp_path / "out").merged
    except AdaptoolError:
        return
    expected = rows[1][1]
    assert np.allclose(expected, store.array("model.embed_tokens.weight")[3], rtol=2.0**-8)


def test_a_merge_of_an_adapter_with_itself_adds_twice(base, tmp_path):
    adapter = lora(tmp_path / "a")
    once = merge([(adapter, 2.0)], base, tmp_path / "x").merged.array(Q.removeprefix(PREFIX) + ".weight")
    twice = merge([(adapter, 1.0), (adapter, 1.0)], base, tmp_path / "y").merged.array(
        Q.removeprefix(PREFIX) + ".weight"
    )
    assert np.allclose(once, twice, atol=2.0**-8)
    assert not np.array_equal(
        once, merge([(adapter, 1.0)], base, tmp_path / "z").merged.array(Q.removeprefix(PREFIX) + ".weight")
    )
