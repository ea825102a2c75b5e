"""bitsandbytes 4-bit: every bit against bitsandbytes itself, and refusals in clear words."""

from __future__ import annotations

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from adaptool.errors import FormatError, NotFoundError, UnsupportedError
from adaptool.tensors.blockwise import dynamic_map, float32_mean
from adaptool.tensors.bnb import Bnb4bit, NF4RoundTrip
from adaptool.tensors.dtypes import BF16, DTYPES, F16, F32, dtype, narrow
from adaptool.tensors.memo import Memo
from adaptool.tensors.quantized import label, quantization_config, quantization_of
from adaptool.tensors.safetensors import open_safetensors
from adaptool.tensors.store import MemoryStore

KINDS = ["bfloat16", "float16", "float32"]
SHAPES = [(8, 64), (5, 192), (7, 48), (3, 33), (9, 7), (1, 1), (2, 1000)]
"""Rows of whole blocks, rows that start inside a block, inside a byte, tensors shorter than a block."""

LARGE = (150, 1024)
"""More than is computed at a time."""


@pytest.fixture
def bnb():
    functional = pytest.importorskip("bitsandbytes.functional")
    torch = pytest.importorskip("torch")
    with torch.compiler.set_stance("force_eager"):  # bitsandbytes would compile its fallback for every shape
        yield functional


def weight(shape, kind="bfloat16", seed=0):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-3, 0, shape[0])[:, None]  # scales that differ, so that a wrong one shows
    return (torch.randn(shape, generator=generator) * spread).to(getattr(torch, kind))


def raw(tensor):
    """A torch tensor's bits as adaptool holds them."""
    torch = pytest.importorskip("torch")
    flat = tensor.detach().contiguous()
    return (
        flat.numpy() if flat.dtype in (torch.float32, torch.uint8) else flat.view(torch.int16).numpy().view(np.uint16)
    )


def bits(array):
    """For comparison: unsigned integers, so that NaN can equal NaN; FP4's second zero, -0 without AVX-512, as 0."""
    unsigned = array.view(f"u{array.dtype.itemsize}")
    return np.where(unsigned == 1 << (8 * array.dtype.itemsize - 1), 0, unsigned)


def memory(tensors):
    return MemoryStore({name: (DTYPES[kind], np.asarray(values)) for name, (kind, values) in tensors.items()})


def plain(name, tensor):
    return MemoryStore({name: (dtype(str(tensor.dtype)), raw(tensor))})


def saved(name, packed, state):
    """What bitsandbytes writes for one weight, as adaptool holds it."""
    tensors = {name: packed} | {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
    kinds = {key: "U8" if str(value.dtype) == "torch.uint8" else str(value.dtype) for key, value in tensors.items()}
    return {key: (dtype(kinds[key]).name, raw(value)) for key, value in tensors.items()}


def dequantized(bnb, packed, state):
    """bitsandbytes' values, asked for as one long row: with AVX-512 its kernel mixes scales up across short rows."""
    flat = copy.copy(state)
    flat.shape = state.shape.__class__((state.shape.numel(),))
    return bnb.dequantize_4bit(packed, flat).reshape(state.shape)


@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("blocksize", [64, 128, 256, 4096])
def test_a_checkpoint_reads_as_bitsandbytes_dequantises_it(bnb, quant_type, blocksize, double):
    for kind in KINDS:
        for shape in [*SHAPES, LARGE] if blocksize == 64 else SHAPES:
            packed, state = bnb.quantize_4bit(
                weight(shape, kind), blocksize=blocksize, quant_type=quant_type, compress_statistics=double
            )
            store = Bnb4bit(memory(saved("layer.weight", packed, state)))
            info = store["layer.weight"]
            expected = raw(dequantized(bnb, packed, state))

            assert list(store) == ["layer.weight"]
            assert (dtype(kind), shape) == (info.dtype, info.shape)
            assert np.array_equal(bits(expected), bits(store.read("layer.weight")))
            for start, stop in [(0, 1), (shape[0] // 2, shape[0]), (shape[0] - 1, shape[0]), (1, 1)]:
                assert np.array_equal(bits(expected[start:stop]), bits(store.read("layer.weight", start, stop)))


@pytest.mark.parametrize("columns", [64, 128, 20, 33])
def test_where_bitsandbytes_keeps_rows_and_blocks_apart_its_own_answer_is_ours(bnb, columns):
    packed, state = bnb.quantize_4bit(weight((64, columns)), blocksize=64, quant_type="nf4")
    store = Bnb4bit(memory(saved("w", packed, state)))
    assert np.array_equal(raw(bnb.dequantize_4bit(packed, state)), store.read("w"))


@pytest.mark.parametrize("storage", ["bfloat16", "float32"])
def test_packed_bytes_may_be_stored_as_a_wider_type(bnb, storage):
    torch = pytest.importorskip("torch")
    packed, state = bnb.quantize_4bit(weight((6, 40)), quant_type="nf4", quant_storage=getattr(torch, storage))
    store = Bnb4bit(memory(saved("w", packed, state)))
    expected = raw(dequantized(bnb, packed.view(torch.uint8), state))
    assert np.array_equal(expected, store.read("w"))
    assert np.array_equal(expected[1:4], store.read("w", 1, 4))


def test_a_file_reads_by_rows_and_other_tensors_keep_their_place_in_it(bnb, tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    packed, state = bnb.quantize_4bit(weight((300, 200)), quant_type="nf4", compress_statistics=True)
    tensors = {"a.weight": packed, "norm.weight": torch.ones(200, dtype=torch.bfloat16)}
    tensors |= {f"a.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    source = open_safetensors(tmp_path / "model.safetensors")
    store = pickle.loads(pickle.dumps(Bnb4bit(source)))
    expected = raw(dequantized(bnb, packed, state))

    assert {"a.weight", "norm.weight"} == set(store)
    assert source.extent("norm.weight") == store.extent("norm.weight") is not None
    assert store.extent("a.weight") is None
    assert list(store.spans("a.weight", 100 * 400)) == [(0, 100), (100, 200), (200, 300)]
    assert np.array_equal(source.read("norm.weight"), store.read("norm.weight"))
    out = np.empty((7, 200), np.uint16)
    for start in range(0, 294, 7):
        assert store.read("a.weight", start, start + 7, out) is out
        assert np.array_equal(expected[start : start + 7], out)
    with pytest.raises(NotFoundError):
        store.read("a.weight.absmax")


def test_a_model_saved_by_transformers_reads_as_bitsandbytes_dequantises_it_there(bnb, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=quantization, dtype=torch.bfloat16, device_map="cpu"
    )
    model.save_pretrained(tmp_path / "quantised")
    expected = {
        name: raw(bnb.dequantize_4bit(value.data, value.quant_state) if hasattr(value, "quant_state") else value)
        for name, value in model.named_parameters()
    }
    base = open_safetensors(tmp_path / "base" / "model.safetensors")
    source = open_safetensors(tmp_path / "quantised" / "model.safetensors")
    store = Bnb4bit(source)
    linear = [name for name in base if "_proj." in name]
    seen = NF4RoundTrip(base, linear, double_quant=True)

    assert set(base) == set(store)
    assert set(linear) == set(store.states)  # lm_head and the embedding are left alone
    for name, values in expected.items():
        assert np.array_equal(values, store.read(name).reshape(values.shape)), name
        assert np.array_equal(values, seen.read(name).reshape(values.shape)), name
    config = json.loads((tmp_path / "quantised" / "config.json").read_text())
    assert quantization_of(config, source) == "bnb-4bit" == quantization_of(None, source)
    assert quantization_of(config, store) is None


@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
@pytest.mark.parametrize("blocksize", [32, 64, 4096])
def test_the_round_trip_is_that_of_bitsandbytes(bnb, quant_type, blocksize, double):
    for kind in KINDS:
        for shape in [*SHAPES, LARGE] if blocksize == 64 else SHAPES:
            tensor = weight(shape, kind, seed=1)
            packed, state = bnb.quantize_4bit(
                tensor, blocksize=blocksize, quant_type=quant_type, compress_statistics=double
            )
            expected = raw(dequantized(bnb, packed, state))
            store = NF4RoundTrip(plain("w", tensor), {"w"}, quant_type, blocksize, double)

            assert np.array_equal(bits(expected), bits(store.read("w")))
            for start, stop in [(0, 1), (shape[0] // 2, shape[0]), (shape[0] - 1, shape[0]), (1, 1)]:
                assert np.array_equal(bits(expected[start:stop]), bits(store.read("w", start, stop)))


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_every_bfloat16_number_rounds_as_there(bnb, quant_type):
    """Each, under three block maxima and beside its neighbours; a result below float32's normal range, which the
    processor's own conversion to bfloat16 makes 0, is left out."""
    torch = pytest.importorskip("torch")
    values = (np.arange(65536, dtype=np.uint32) << 16).view(np.float32)
    values = values[np.isfinite(values)]
    for scale in (1.0, 3.0, 1e-3):
        blocks = np.resize(values[np.abs(values) <= scale], (1100, 63))
        tensor = torch.tensor(np.concatenate([np.full((1100, 1), scale, np.float32), blocks], axis=1)).to(
            torch.bfloat16
        )
        check_round_trip(bnb, tensor, quant_type)
    normal = values[(np.abs(values) > 1e-35) | (values == 0)]
    check_round_trip(bnb, torch.tensor(np.resize(normal, (1021, 64))).to(torch.bfloat16), quant_type)


@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_values_on_and_beside_each_threshold_round_as_there(bnb, quant_type):
    torch = pytest.importorskip("torch")
    code = np.sort(bnb.get_4bit_type(quant_type, "cpu").numpy())
    middles = (code[1:] + code[:-1]) / np.float32(2)
    near = np.concatenate([middles, np.nextafter(middles, np.float32(-2)), np.nextafter(middles, np.float32(2))])
    for scale in np.float32([1, 0.75, 1e-3, 7.7, 1e30, 1e-37]):
        row = np.concatenate([[scale], np.resize(near * scale, 63)]).astype(np.float32)
        check_round_trip(bnb, torch.tensor(np.tile(row, (3, 1))), quant_type)
        check_round_trip(bnb, torch.tensor(row[None, :50]), quant_type)  # a short block divides instead


@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
def test_blocks_of_zeros_subnormals_infinities_and_nan_go_through_as_there(bnb, double):
    torch = pytest.importorskip("torch")
    rows = weight((6, 64), "float32")
    rows[1] = 0
    rows[2] *= 1e-39
    check_round_trip(bnb, rows, "nf4", double)
    check_round_trip(bnb, torch.zeros(3, 70), "nf4", double)
    rows[3, 5] = float("inf")
    rows[4, 6] = float("-inf")
    rows[5, 7] = float("nan")
    check_round_trip(bnb, rows, "nf4", double)
    check_round_trip(bnb, rows[:, :50].contiguous(), "fp4", double)


def check_round_trip(bnb, tensor, quant_type, double=False):
    packed, state = bnb.quantize_4bit(tensor, blocksize=64, quant_type=quant_type, compress_statistics=double)
    expected = raw(dequantized(bnb, packed, state))
    result = NF4RoundTrip(plain("w", tensor), {"w"}, quant_type, 64, double).read("w")
    if expected.dtype == np.float32:
        assert np.array_equal(expected, result, equal_nan=True)
    else:
        assert np.array_equal(bits(expected), bits(result))


def test_the_dynamic_map_and_the_mean_are_those_of_pytorch(bnb):
    torch = pytest.importorskip("torch")
    assert np.array_equal(bnb.create_dynamic_map().numpy(), dynamic_map())
    for size in [*range(1, 70), 255, 512, 1000, 4096, 4097, 30000, 32768]:
        values = torch.rand(size, generator=torch.Generator().manual_seed(size)) * 0.02 + 0.05
        assert values.mean().item() == float(float32_mean(values.numpy())), size


def test_the_round_trip_does_not_depend_on_how_rows_are_asked_for():
    values = np.random.default_rng(0).standard_normal((257, 100)).astype(np.float32)
    store = NF4RoundTrip(
        memory({"w": ("BF16", narrow(values, BF16)), "v": ("F16", narrow(values, F16))}), {"w"}, double_quant=True
    )
    whole = store.read("w")
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda row: store.read("w", row, row + 1), range(257)))
    assert np.array_equal(whole, np.concatenate(rows))
    assert np.array_equal(whole, pickle.loads(pickle.dumps(store)).read("w"))
    assert np.array_equal(store.source.read("v"), store.read("v"))
    assert store.infos == store.source.infos


def test_the_round_trip_keeps_what_4_bits_can_hold():
    exact = np.float32([[-1, 0, 1, 1], [0.5, -0.5, 0, 0.5]])
    store = NF4RoundTrip(memory({"w": ("F32", exact[:1])}), ["w"])
    assert np.array_equal(exact[:1], store.read("w"))
    fp4 = NF4RoundTrip(memory({"w": ("F32", exact)}), ["w"], quant_type="fp4", blocksize=32)
    assert np.array_equal(exact, fp4.read("w"))


def test_the_round_trip_refuses_what_bitsandbytes_does():
    source = memory({"w": ("F64", np.ones((2, 2)))})
    with pytest.raises(UnsupportedError, match="F64"):
        NF4RoundTrip(source, ["w"])
    with pytest.raises(UnsupportedError, match="int4"):
        NF4RoundTrip(source, [], quant_type="int4")
    with pytest.raises(NotFoundError):
        NF4RoundTrip(source, ["x"])


def handmade(**changes):
    """A small NF4 checkpoint with double quantisation, and what ``changes`` does to its tensors or its state."""
    code = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
    code += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
    code += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 64]}
    state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 1.0}
    state |= changes.pop("state", {})
    tensors = {
        "w": ("U8", np.full((64, 1), 0x0F, np.uint8)),
        "w.absmax": ("U8", np.zeros(2, np.uint8)),
        "w.quant_map": ("F32", np.float32(code)),
        "w.nested_absmax": ("F32", np.float32([0])),
        "w.nested_quant_map": ("F32", np.linspace(-1, 1, 256, dtype=np.float32)),
        "w.quant_state.bitsandbytes__nf4": ("U8", np.frombuffer(json.dumps(state).encode(), np.uint8)),
    }
    tensors |= changes.pop("tensors", {})
    return memory({name: value for name, value in tensors.items() if value is not None})


def test_a_handmade_checkpoint_reads():
    store = Bnb4bit(handmade())
    assert np.array_equal(narrow(np.tile(np.float32([-1, 1]), (2, 32)), BF16), store.read("w"))
    assert narrow(np.float32([[-1, 1] * 32]), F32).shape == store.read("w", 1, 2).shape


BROKEN = {
    "no scales": ({"tensors": {"w.absmax": None}}, FormatError, "'w.absmax' is missing"),
    "no map": ({"tensors": {"w.quant_map": None}}, FormatError, "'w.quant_map' is missing"),
    "no nested scales": ({"tensors": {"w.nested_absmax": None}}, FormatError, "'w.nested_absmax' is missing"),
    "no nested map": ({"tensors": {"w.nested_quant_map": None}}, FormatError, "'w.nested_quant_map' is missing"),
    "no weight": ({"tensors": {"w": None}}, FormatError, "'w' is missing"),
    "no state": ({"tensors": {"w.quant_state.bitsandbytes__nf4": None}}, FormatError, "no quant_state"),
    "two states": (
        {"tensors": {"w.quant_state.bitsandbytes__fp4": ("U8", np.zeros(1, np.uint8))}},
        FormatError,
        "two quantisation states",
    ),
    "unknown type": (
        {"tensors": {"x.quant_state.bitsandbytes__af4": ("U8", np.zeros(1, np.uint8))}},
        UnsupportedError,
        "'af4' is not one of: nf4, fp4",
    ),
    "not JSON": (
        {"tensors": {"w.quant_state.bitsandbytes__nf4": ("U8", np.frombuffer(b"{nf4", np.uint8))}},
        FormatError,
        "not JSON",
    ),
    "a list": (
        {"tensors": {"w.quant_state.bitsandbytes__nf4": ("U8", np.frombuffer(b"[]", np.uint8))}},
        FormatError,
        "not a JSON object",
    ),
    "numbers for JSON": (
        {"tensors": {"w.quant_state.bitsandbytes__nf4": ("F32", np.zeros(4, np.float32))}},
        FormatError,
        "not JSON as a vector of bytes",
    ),
    "another type inside": ({"state": {"quant_type": "fp4"}}, FormatError, "says quant_type 'fp4'"),
    "unknown dtype": ({"state": {"dtype": "int8"}}, UnsupportedError, "dtype 'int8'"),
    "no shape": ({"state": {"shape": None}}, FormatError, "shape None"),
    "a huge shape": ({"state": {"shape": [2**40, 2**40]}}, FormatError, "in 4 bits is a column of"),
    "a negative shape": ({"state": {"shape": [-2, -64]}}, FormatError, "is not the shape of a weight"),
    "an odd blocksize": ({"state": {"blocksize": 63}}, UnsupportedError, "blocksize 63"),
    "a wrong blocksize": ({"state": {"blocksize": 32}}, FormatError, r"in blocks of 32 needs \[4\]"),
    "nested type": ({"state": {"nested_dtype": "float16"}}, UnsupportedError, "nested_dtype 'float16'"),
    "nested offset": ({"state": {"nested_offset": "1"}}, FormatError, "not usable numbers"),
    "nested blocksize": ({"state": {"nested_blocksize": 0}}, FormatError, "not usable numbers"),
    "short weight": ({"tensors": {"w": ("U8", np.zeros((63, 1), np.uint8))}}, FormatError, r"U8 \[63, 1\]"),
    "flat weight": ({"tensors": {"w": ("U8", np.zeros(64, np.uint8))}}, FormatError, r"U8 \[64\]"),
    "float scales": ({"tensors": {"w.absmax": ("F32", np.zeros(2, np.float32))}}, FormatError, "is F32, not U8"),
    "another map": ({"tensors": {"w.quant_map": ("F32", np.zeros(16, np.float32))}}, UnsupportedError, "values of nf4"),
}


@pytest.mark.parametrize(("changes", "error", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_checkpoint_is_refused_in_clear_words(changes, error, words):
    with pytest.raises(error, match=words):
        len(Bnb4bit(handmade(**changes)))


def layer(**kinds):
    """A checkpoint of one layer: each suffix with its type, or its type and shape."""
    tensors = {}
    for suffix, kind in kinds.items():
        name, shape = kind if isinstance(kind, tuple) else (kind, (8, 8))
        tensors[f"model.layers.0.mlp.up_proj.{suffix}"] = (name, np.zeros(shape, DTYPES[name].storage))
    return memory(tensors | {"model.norm.weight": ("BF16", np.zeros(8, np.uint16))})


SEEN = {
    "bnb-8bit": layer(weight="I8", SCB="F32"),
    "gptq": layer(qweight=("I32", (1, 8)), qzeros=("I32", (1, 1)), scales=("F16", (1, 8)), g_idx=("I32", (8,))),
    "awq": layer(qweight=("I32", (8, 1)), qzeros=("I32", (1, 1)), scales=("F16", (1, 8))),
    "fp8": layer(weight="F8_E4M3", weight_scale_inv="F32"),
    "compressed-tensors": layer(weight_packed="I32", weight_scale="BF16", weight_shape="I64"),
    "hqq": layer(W_q="U8", scale="F16", zero="F16"),
    "sinq": layer(W_q="U8", meta="U8"),
    "eetq": layer(weight="I8", weight_scales="F16"),
    "aqlm": layer(codes="I8", codebooks="F16"),
    "vptq": layer(indices="I32", **{"centroids.weight": "F16"}),
    "spqr": layer(dense_weights="I32", row_offsets="I32"),
    "higgs": layer(weight="U8", scales="F16", tables="F16", tables2="F16"),
    "mxfp4": layer(down_proj_blocks="U8", down_proj_scales="U8"),
    "nvfp4": layer(weight="U8", weight_scale="F8_E4M3", weight_scale_2="F32"),
    "torchao": layer(_weight_qdata="I8", _weight_scale="F32"),
    "quanto": layer(**{"weight._data": "I8", "weight._scale": "F16"}),
    "bitnet": layer(weight="U8", weight_scale="BF16"),
    "mlx": layer(weight="U32", scales="F16", biases="F16"),
    "metal": layer(weight="U32", scales="F16", qbiases="F16"),
    "integer weights": layer(weight="I8"),
}


@pytest.mark.parametrize(("expected", "store"), SEEN.items(), ids=SEEN)
def test_tensors_alone_name_the_quantisation(expected, store):
    assert expected == quantization_of(None, store)
    assert label(expected)


def test_bitsandbytes_4bit_is_named_from_its_state():
    assert quantization_of(None, handmade()) == "bnb-4bit"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"quant_method": "auto-round"}, "auto-round"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "something-new"}, "something-new"),
        ({}, "gptq"),
    ],
)
def test_a_config_names_the_method_of_quantised_tensors(entry, expected):
    assert quantization_of({"quantization_config": entry}, SEEN["gptq"]) == expected
    assert quantization_of({"text_config": {"quantization_config": entry}}, SEEN["gptq"]) == expected


def test_tensors_overrule_a_config_about_bitsandbytes():
    eight_bit = {"quantization_config": {"load_in_8bit": True, "quant_method": "bitsandbytes"}}
    assert quantization_of(eight_bit, handmade()) == "bnb-4bit"
    assert quantization_of({"quantization_config": {"quant_method": "gptq"}}, SEEN["bnb-8bit"]) == "bnb-8bit"


def test_plain_numbers_are_not_quantised_whatever_the_config_says():
    loading = {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}
    assert quantization_of(loading, layer(weight="BF16", position_ids="I64")) is None
    assert quantization_of(None, layer(weight="F32", mask="U8")) is None
    assert quantization_of({"quantization_config": None}, layer(weight="F16")) is None


def test_the_quantisation_entry_of_a_config_is_found_where_models_keep_it():
    entry = {"quant_method": "fp8"}
    assert entry == quantization_config({"text_config": {"quantization_config": entry}})
    assert entry == quantization_config({"compression_config": entry})
    assert quantization_config({"text_config": 3}) is None
    assert quantization_config(None) is None


def test_a_memo_computes_once_forgets_the_oldest_and_keeps_no_failure():
    asked = []
    memo = Memo(limit=2)
    for key in "abaca":
        assert memo.get(key, lambda key=key: asked.append(key) or key) == key
    assert asked == ["a", "b", "c"]
    assert memo.get("b", lambda: "again") == "again"
    with pytest.raises(ZeroDivisionError):
        memo.get("z", lambda: 1 // 0)
    assert memo.get("z", lambda: "fine") == "fine"
