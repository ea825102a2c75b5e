"""PyTorch's files: what torch.save writes for tensors is read as torch.load reads it, and nothing else is done."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptool.errors import AdaptoolError, FormatError, NotFoundError, UnsupportedError
from adaptool.tensors import opcodes, pickles, strided
from adaptool.tensors.pickles import PickleFile, open_pickle, open_pickle_sharded
from adaptool.tensors.sniff import sniff
from adaptool.tensors.strided import _boxes

torch = pytest.importorskip("torch")

LAYOUTS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


def saved(path: Path, value: object, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def numbers(*shape: int, seed: int = 0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def raw(tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def check(store: PickleFile, expected: dict) -> None:
    """Names, order, shapes, and bytes: read whole, row by row, in odd blocks, and through the extent."""
    assert list(expected) == list(store)
    for name, tensor in expected.items():
        info = store[name]
        assert tuple(tensor.shape) == info.shape
        assert DTYPES[info.dtype.name] == tensor.dtype
        assert raw(tensor) == store.read(name).tobytes()
        step = max(1, info.rows // 5)
        blocks = [store.read(name, row, min(row + step, info.rows)) for row in range(0, info.rows, step)]
        assert raw(tensor) == b"".join(block.tobytes() for block in blocks)
        out = np.full((info.rows, info.columns), 1, info.dtype.storage)
        assert store.read(name, out=out) is out
        assert raw(tensor) == out.tobytes()
        extent = store.extent(name)
        if extent is not None:
            assert raw(tensor) == extent.path.read_bytes()[extent.offset : extent.offset + extent.length]


# --- what torch.save writes


@LAYOUTS
@pytest.mark.parametrize("name", DTYPES)
def test_every_element_type(tmp_path, name, zipped):
    tensor = torch.arange(1, 49, dtype=torch.uint8).remainder(2 if name == "BOOL" else 48).view(DTYPES[name])
    tensors = {"a": tensor, "b": tensor.reshape(2, -1), "c": tensor[1:]}
    store = open_pickle(saved(tmp_path / "x.bin", tensors, zipped))
    check(store, tensors)
    assert {name} == {info.dtype.name for info in store.infos.values()}


@LAYOUTS
def test_a_state_dict_of_nested_modules_with_its_metadata(tmp_path, zipped):
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 4), torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    )
    path = saved(tmp_path / "x.bin", model.state_dict(), zipped)
    store = open_pickle(path)
    check(store, torch.load(path))
    assert store.metadata == {}
    assert store.ignored == ()


@LAYOUTS
def test_parameters_and_buffers_saved_as_such(tmp_path, zipped):
    model = torch.nn.Linear(8, 4)
    check(
        open_pickle(saved(tmp_path / "x.bin", dict(model.named_parameters()), zipped)), dict(model.named_parameters())
    )


@LAYOUTS
def test_tied_weights_share_an_extent(tmp_path, zipped):
    weight = numbers(6, 4)
    tensors = {"embed": weight, "head": weight, "tail": weight[4:]}
    store = open_pickle(saved(tmp_path / "x.bin", tensors, zipped))
    check(store, tensors)
    assert store.extent("embed") == store.extent("head")
    assert store.extent("embed").offset + 4 * 16 == store.extent("tail").offset


@LAYOUTS
def test_views_that_do_not_lie_in_order(tmp_path, zipped):
    base = numbers(6, 8, 4)
    tensors = {
        "transposed": base[0].T,
        "permuted": base.permute(2, 0, 1),
        "rows": base[::2],
        "columns": base[..., 1::2],
        "inner": base[1:5, 2:7, 1:3],
        "expanded": base[0, 0].expand(5, 4),
        "diagonal": base[0].diagonal(),
        "channels": numbers(4, 3, 2, 5).to(memory_format=torch.channels_last),
        "vector": base[:, 0, 0],
    }
    store = open_pickle(saved(tmp_path / "x.bin", tensors, zipped))
    check(store, tensors)
    assert {None} == {store.extent(name) for name in tensors}


def test_strided_rows_in_any_range(tmp_path, monkeypatch):
    monkeypatch.setattr(strided, "PIECE_LIMIT", 64)
    tensor = numbers(3, 4, 5, 6).permute(2, 0, 3, 1)[:, 1:]
    store = open_pickle(saved(tmp_path / "x.bin", {"t": tensor}))
    rows = tensor.reshape(-1, 4).numpy()
    for start in range(len(rows) + 1):
        for stop in range(start, len(rows) + 1):
            assert rows[start:stop].tobytes() == store.read("t", start, stop).tobytes()


def test_a_range_of_rows_is_few_boxes():
    for start in range(24):
        for stop in range(start, 25):
            boxes = list(_boxes((2, 3, 4), (12, 4, 1), start, stop))
            assert list(range(start, stop)) == [at + k for at, box in boxes for k in range(int(np.prod(box)))]
            assert len(boxes) <= 5


@LAYOUTS
def test_empty_and_scalar_tensors(tmp_path, zipped):
    tensors = {
        "scalar": torch.tensor(3.5),
        "none": torch.empty(0),
        "rows": torch.empty(0, 4),
        "columns": torch.empty(4, 0),
    }
    check(open_pickle(saved(tmp_path / "x.bin", tensors, zipped)), tensors)


@LAYOUTS
def test_a_transposed_matrix_of_several_pieces(tmp_path, zipped):
    tensors = {"t": numbers(700, 1100).to(torch.bfloat16).T, "u": numbers(300, 300)}
    check(open_pickle(saved(tmp_path / "x.bin", tensors, zipped)), tensors)


@LAYOUTS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path, zipped, protocol):
    tensors = OrderedDict(a=numbers(3, 2), b=numbers(4))
    torch.save(tensors, tmp_path / "x", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    check(open_pickle(tmp_path / "x"), tensors)


@LAYOUTS
def test_many_tensors(tmp_path, zipped):
    tensors = {f"model.layers.{i}.self_attn.q_proj.lora_A.weight": numbers(2, 3, seed=i) for i in range(3000)}
    check(open_pickle(saved(tmp_path / "x.bin", tensors, zipped)), tensors)


@LAYOUTS
@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_training_checkpoint_gives_its_model(tmp_path, zipped, wrapper):
    tensors = OrderedDict(a=numbers(2, 2))
    value = {"epoch": 3, wrapper: tensors, "optimizer": {"state": {0: numbers(2, 2)}, "groups": [1e-3, (0.9, 0.99)]}}
    store = open_pickle(saved(tmp_path / "x.bin", value, zipped))
    check(store, tensors)
    assert store.ignored == ("epoch", "optimizer")


def test_plain_values_between_tensors_are_ignored_and_named(tmp_path):
    store = open_pickle(saved(tmp_path / "x", {"a": numbers(2), "version": 3, "who": "me", "none": None, 7: 2.5}))
    assert list(store) == ["a"]
    assert store.ignored == ("version", "who", "none", "7")


def test_the_store_travels_to_another_process(tmp_path):
    tensors = {"a": numbers(4, 6), "b": numbers(4, 6).T}
    store = open_pickle(saved(tmp_path / "x.bin", tensors))
    store.read("a")
    check(pickle.loads(pickle.dumps(store)), tensors)


def test_torch_and_the_unpickler_stay_unimported(tmp_path):
    path = saved(tmp_path / "x.bin", {"a": numbers(2, 2)})
    code = (
        "import sys; from pathlib import Path; from adaptool.tensors.pickles import open_pickle\n"
        f"open_pickle(Path({str(path)!r})).read('a'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- several files


def sharded(folder: Path, weight_map: dict[str, str] | None = None) -> tuple[Path, dict]:
    first, second = {"a": numbers(3, 2), "b": numbers(2)}, {"c": numbers(2, 3).T}
    saved(folder / "pytorch_model-00001-of-00002.bin", first)
    saved(folder / "pytorch_model-00002-of-00002.bin", second)
    names = {name: f"pytorch_model-0000{1 + (name == 'c')}-of-00002.bin" for name in "abc"}
    index = folder / pickles.INDEX_NAME
    index.write_text(json.dumps({"metadata": {"total_size": 56}, "weight_map": weight_map or names}))
    return index, {**first, **second}


def test_sharded(tmp_path):
    index, tensors = sharded(tmp_path)
    check(open_pickle_sharded(index), tensors)


@pytest.mark.parametrize(
    ("weight_map", "error"),
    [
        ({"a": "../x.bin"}, FormatError),
        ({"a": "."}, FormatError),
        ({"a": ""}, FormatError),
        ({"a": "a\0b"}, FormatError),
        ({"a": "gone.bin"}, NotFoundError),
        ({"a": "pytorch_model-00001-of-00002.bin"}, FormatError),
        ({"z": "pytorch_model-00001-of-00002.bin"}, FormatError),
        ({"a": 3}, FormatError),
    ],
)
def test_an_index_that_disagrees_with_its_shards(tmp_path, weight_map, error):
    index, _ = sharded(tmp_path, weight_map)
    with pytest.raises(error):
        open_pickle_sharded(index)


# --- what a file is


def test_sniff(tmp_path):
    tensors = {"a": numbers(2, 2)}
    (tmp_path / "lfs").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    (tmp_path / "gguf").write_bytes(b"GGUF\3\0\0\0")
    (tmp_path / "st").write_bytes(struct.pack("<Q", 2) + b"{}")
    (tmp_path / "st-cut").write_bytes(struct.pack("<Q", 3) + b"{}")
    (tmp_path / "empty").write_bytes(b"")
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    for protocol in range(6):
        (tmp_path / f"p{protocol}").write_bytes(pickle.dumps(Evil(os.system, "true"), protocol))
    expected = {
        saved(tmp_path / "x.safetensors", tensors): "torch-zip",
        saved(tmp_path / "y.gguf", tensors, zipped=False): "torch-legacy",
        tmp_path / "lfs": "lfs-pointer",
        tmp_path / "gguf": "gguf",
        tmp_path / "st": "safetensors",
        tmp_path / "st-cut": "unknown",
        tmp_path / "empty": "unknown",
        tmp_path / "x.npz": "unknown",
        **{tmp_path / f"p{protocol}": "pickle" for protocol in range(6)},
    }
    assert expected == {path: sniff(path) for path in expected}
    for path, kind in expected.items():
        if not kind.startswith("torch"):
            with pytest.raises(AdaptoolError):
                open_pickle(path)


def test_a_tar_of_the_first_torch_is_refused_in_words(tmp_path):
    (tmp_path / "x").write_bytes(bytes(257) + b"ustar" + bytes(1000))
    with pytest.raises(UnsupportedError, match="tar archive"):
        open_pickle(tmp_path / "x")


@pytest.mark.parametrize(
    "value", [[1], numbers(2), {"a": 1}, {}, {"model": {}}, {"state_dict": {"x": {"a": numbers(2)}}}]
)
def test_no_dictionary_of_tensors(tmp_path, value):
    with pytest.raises((FormatError, UnsupportedError), match="tensors"):
        open_pickle(saved(tmp_path / "x", value))


@pytest.mark.parametrize("name", [3, "a\nb", "\x1b[31m", "x" * 5000])
def test_names_that_are_none(tmp_path, name):
    with pytest.raises(FormatError, match="no name"):
        open_pickle(saved(tmp_path / "x", {"a": numbers(2), name: numbers(2)}))


@pytest.mark.parametrize(
    ("value", "asks_for"),
    [
        (lambda: numbers(3, 3).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (lambda: torch.quantize_per_tensor(numbers(3), 0.1, 0, torch.qint8), "torch._utils._rebuild_qtensor"),
        (lambda: torch.zeros(2, dtype=torch.complex128), "torch.ComplexDoubleStorage"),
        (lambda: torch.zeros(2, dtype=torch.complex64).conj(), "conjugate"),
        (lambda: torch.zeros(2, device="meta"), "torch._utils._rebuild_meta_tensor_no_storage"),
        (lambda: {1, 2}, "__builtin__.set"),
        (lambda: np.zeros(3), "numpy"),
        (lambda: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_what_is_more_than_a_dense_tensor_is_refused_by_name(tmp_path, value, asks_for):
    with pytest.raises(UnsupportedError, match=asks_for) as refusal:
        open_pickle(saved(tmp_path / "x", {"a": numbers(2), "b": value()}))
    assert "safetensors" in refusal.value.hint


# --- hostile: nothing is executed


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def rezipped(path: Path, program: bytes, **others: bytes) -> Path:
    """A zip such as torch.save writes, around any data.pkl."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", program)
        for name, data in others.items():
            archive.writestr(f"x/{name.replace('_', '/')}", data)
    return path


LEGACY_HEAD = b"".join(
    pickle.dumps(value, 2)
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001})
)

WRAPPINGS = {
    "zip": rezipped,
    "legacy": lambda path, program: path.write_bytes(LEGACY_HEAD + program + pickle.dumps([], 2)) and path,
    "plain": lambda path, program: (path.write_bytes(program), path)[1],
}


def attacks(marker: Path) -> dict[str, tuple[bytes, str]]:
    touch = f"touch {marker}"
    python = f"open({str(marker)!r}, 'w')"
    return {
        "os.system": (pickle.dumps({"a": Evil(os.system, touch)}, 2), "posix.system"),
        "stack_global": (pickle.dumps(Evil(os.system, touch), 4), "posix.system"),
        "eval": (pickle.dumps(Evil(builtins.eval, python), 2), "__builtin__.eval"),
        "exec": (pickle.dumps(Evil(builtins.exec, python), 4), "builtins.exec"),
        "popen": (pickle.dumps(Evil(subprocess.Popen, ["touch", str(marker)]), 4), "subprocess.Popen"),
        "open": (pickle.dumps(Evil(io.open, str(marker), "w"), 2), "io.open"),
        "inst": (b"(S'" + touch.encode() + b"'\niposix\nsystem\n.", "posix.system"),
        "obj": (b"(cposix\nsystem\nS'" + touch.encode() + b"'\no.", "posix.system"),
        "dotted": (
            b"\x80\x04\x8c\x0etorch._utils\x94".replace(b"\x0e", b"\x0c") + b"\x8c\x03os.\x93.",
            "torch._utils.os.",
        ),
        "allowed_prefix": (b"ctorch\n_utils.os.system\n(S'" + touch.encode() + b"'\ntR.", "torch._utils.os.system"),
        "numpy": (pickle.dumps(np.arange(3), 2), "_reconstruct"),
        "persistent": (b"S'" + touch.encode() + b"'\nQ.", "persistent object"),
        "persid": (b"Pabc\n.", "PERSID"),
        "extension": (b"\x82\x01.", "EXT1"),
        "newobj": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
        "build_on_a_dict_subclass": (pickle.dumps(Evil(getattr, "a", "b"), 2), "getattr"),
    }


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("attack", attacks(Path("x")))
def test_nothing_is_executed(tmp_path, attack, wrapping):
    marker = tmp_path / "executed"
    program, asks_for = attacks(marker)[attack]
    path = WRAPPINGS[wrapping](tmp_path / "x.bin", program)
    if sniff(path) == "unknown":  # protocol 0 has no magic
        with pytest.raises(FormatError):
            open_pickle(path)
    else:
        with pytest.raises(UnsupportedError) as refusal:
            open_pickle(path)
        assert asks_for in str(refusal.value)
    assert not marker.exists()


def test_the_marker_would_be_made(tmp_path):
    """The attack above works where pickles are executed: the test could fail."""
    pickle.loads(attacks(tmp_path / "executed")["os.system"][0])
    assert (tmp_path / "executed").exists()


def test_a_name_is_shown_short_and_without_control_characters(tmp_path):
    with pytest.raises(UnsupportedError) as refusal:
        open_pickle(rezipped(tmp_path / "x", b"c\x1b[2J" + b"a" * 100_000 + b"\nb\n."))
    assert len(str(refusal.value)) < 1000
    assert str(refusal.value).isprintable()


# --- hostile: programs that are long, deep or wrong


def nested_tuples(depth: int) -> bytes:
    return b")" + b"q\0h\0\x86" * depth


@pytest.mark.parametrize(
    "program",
    {
        "empty": b"",
        "stop": b".",
        "underflow": b"\x80\x02a.",
        "unopened": b"\x80\x02t.",
        "reduce": b"\x80\x02}}R.",
        "memo": b"\x80\x02h\5.",
        "odd": b"\x80\x02}(K\1u.",
        "deep": b"(" * 100_000 + b".",
        "deep_tuples": b")" + b"\x85" * 200_000 + b".",
        "tuple_key": b"}" + nested_tuples(60) + b"K\1s.",
        "doubling": b"}X\1\0\0\0a" + nested_tuples(60) + b"s.",
        "doubling_name": nested_tuples(60) + b"Q.",
        "doubling_call": b"ccollections\nOrderedDict\n" + nested_tuples(60) + b"R.",
        "cycle": b"\x80\x02]q\0h\0a.",
        "dict_in_itself": b"}q\0X\1\0\0\0ah\0s.",
        "long_number": b"\x80\x02\x8b" + struct.pack("<i", 100_000) + b"\1" * 100_000 + b".",
        "negative_length": b"\x80\x02\x8b" + struct.pack("<i", -1) + b".",
        "decimal": b"I" + b"9" * 100_000 + b"\n.",
        "string_past_the_end": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
        "bytes_past_the_end": b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"a.",
        "surrogates": b"\x80\x04}X\3\0\0\0\xed\xa0\x80K\1s.",
        "bad_float": b"Fnonsense\n.",
        "no_newline": b"c" + b"a" * 300_000,
        "no_stop": b"\x80\x02}",
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_wrong_program_is_a_worded_error(tmp_path, program, wrapping):
    with pytest.raises((FormatError, UnsupportedError)):
        open_pickle(WRAPPINGS[wrapping](tmp_path / "x", program[1]))


def test_limits(tmp_path, monkeypatch):
    path = saved(tmp_path / "x", {"a": numbers(2)})
    monkeypatch.setattr(opcodes, "OPCODE_LIMIT", 20)
    with pytest.raises(FormatError, match="opcodes"):
        open_pickle(path)
    monkeypatch.setattr(pickles, "PICKLE_LIMIT", 20)
    with pytest.raises(FormatError, match="more than the 20"):
        open_pickle(path)


# --- hostile: tensors and storages that lie


def program(
    offset=0, shape=(2, 3), strides=(3, 1), numel=6, key="0", kind=b"ctorch\nFloatStorage\n", names="a"
) -> bytes:
    """A data.pkl of tensors on one storage of six floats, with anything in place of what is true."""

    def plain(value: object) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    storage = b"(" + plain("storage") + kind + plain(key) + plain("cpu") + plain(numel) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + plain(offset) + plain(shape) + plain(strides)
    return b"\x80\x02}" + b"".join(plain(name) + tensor + b"\x89}tRs" for name in names) + b"."


SIX = np.arange(6, dtype="<f4").tobytes()


def test_a_tensor_by_hand(tmp_path):
    store = open_pickle(rezipped(tmp_path / "x", program(), data_0=SIX))
    assert np.arange(6, dtype="f4").reshape(2, 3).tolist() == store.array("a").tolist()


@pytest.mark.parametrize(
    "lie",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**70},
        {"offset": True},
        {"offset": None},
        {"shape": (3, 3)},
        {"shape": (2, 4)},
        {"shape": (-2, 3)},
        {"shape": (2**40, 2**40)},
        {"shape": (2**40, 2**40), "strides": (0, 0)},
        {"shape": (2**62, 0), "strides": (0, 1)},
        {"shape": (2**100, 3)},
        {"shape": [2, 3]},
        {"shape": (2, "3")},
        {"shape": (1,) * 33, "strides": (1,) * 33},
        {"shape": (2, 3, 1)},
        {"strides": (-3, 1)},
        {"strides": (3, 2)},
        {"strides": (2**63 - 1, 1)},
        {"strides": (2**64, 1)},
        {"numel": 5},
        {"numel": 7},
        {"numel": 2**62},
        {"numel": -1},
        {"numel": 6.0},
        {"key": "1"},
        {"key": "../data.pkl"},
        {"key": 0},
        {"kind": b"ctorch\nHalfStorage\n"},
        {"kind": b"ctorch\nDoubleStorage\n"},
        {"kind": b"ctorch\nSize\n"},
        {"kind": b"X\1\0\0\0a"},
    ],
    ids=str,
)
def test_a_lie_about_a_tensor(tmp_path, lie):
    with pytest.raises((FormatError, UnsupportedError)):
        open_pickle(rezipped(tmp_path / "x", program(**lie), data_0=SIX))


def test_an_axis_of_one_may_have_any_stride(tmp_path):
    store = open_pickle(rezipped(tmp_path / "x", program(shape=(1, 3), strides=(2**63 - 1, 2)), data_0=SIX))
    assert store.array("a").tolist() == [[0.0, 2.0, 4.0]]


def test_many_names_for_the_same_bytes_have_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "EXPANSION_ALLOWANCE", 0)
    path = rezipped(tmp_path / "x", program(shape=(50, 50), strides=(0, 0), names="abcd"), data_0=SIX)
    assert len(open_pickle(path)) == 4
    monkeypatch.setattr(pickles, "EXPANSION_LIMIT", 1)
    with pytest.raises(FormatError, match="claim to hold"):
        open_pickle(path)


def test_a_view_of_a_storage_as_torch_before_0_4_had_them(tmp_path):
    head = program(shape=(2,), strides=(1,)).replace(b"K\6tQ", b"K\6(X\1\0\0\0vK\3K\2ttQ")
    path = tmp_path / "x"
    path.write_bytes(LEGACY_HEAD + head + pickle.dumps(["0"], 2) + struct.pack("<Q", 6) + SIX)
    assert open_pickle(path).array("a").tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    "tail",
    [
        pickle.dumps(["0"], 2) + struct.pack("<Q", 5) + SIX,
        pickle.dumps(["0"], 2) + struct.pack("<Q", 6) + SIX[:-1],
        pickle.dumps(["0"], 2) + struct.pack("<Q", 6) + SIX + b"!",
        pickle.dumps(["0", "0"], 2) + 2 * (struct.pack("<Q", 6) + SIX),
        pickle.dumps(["0", "1"], 2) + 2 * (struct.pack("<Q", 6) + SIX),
        pickle.dumps([], 2),
        pickle.dumps([0], 2),
        pickle.dumps("0", 2),
        b"",
    ],
)
def test_a_legacy_file_whose_storages_lie(tmp_path, tail):
    (tmp_path / "x").write_bytes(LEGACY_HEAD + program() + tail)
    with pytest.raises(FormatError):
        open_pickle(tmp_path / "x")


@pytest.mark.parametrize("endian", [False, 1, None])
def test_a_legacy_file_of_another_byte_order(tmp_path, endian):
    head = LEGACY_HEAD.replace(pickle.dumps({"little_endian": True, "protocol_version": 1001}, 2), b"")
    (tmp_path / "x").write_bytes(head + pickle.dumps({"little_endian": endian}, 2) + program())
    with pytest.raises(UnsupportedError, match="little-endian"):
        open_pickle(tmp_path / "x")


# --- hostile: archives


def test_byte_order(tmp_path):
    open_pickle(rezipped(tmp_path / "x", program(), data_0=SIX, byteorder=b"little"))
    with pytest.raises(UnsupportedError, match="little-endian"):
        open_pickle(rezipped(tmp_path / "x", program(), data_0=SIX, byteorder=b"big"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_in_words(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "x")
    with pytest.raises(UnsupportedError, match="TorchScript"):
        open_pickle(tmp_path / "x")


def test_compressed_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", program())
        archive.writestr("x/data/0", SIX)
    with pytest.raises(UnsupportedError, match="compressed"):
        open_pickle(tmp_path / "x")


def test_a_repeated_member_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("x/data.pkl", program())
        archive.writestr("x/data/0", SIX)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x/data/0", SIX)
    with pytest.raises(FormatError, match="twice"):
        open_pickle(tmp_path / "x")


def test_overlapping_members_are_refused(tmp_path):
    """Two entries of the directory on one local header: how a small archive is made to hold much."""
    path = rezipped(tmp_path / "x", program(), data_0=SIX, data_1=SIX)
    data = path.read_bytes()
    directory = data.index(b"PK\1\2")
    first, second = (data.index(b"x/data/" + digit, directory) for digit in (b"0", b"1"))
    target = data[first - 4 : first]
    overlapped = bytearray(data)
    overlapped[second - 4 : second] = target
    path.write_bytes(overlapped)
    with pytest.raises(FormatError, match="another name"):
        open_pickle(path)
    grown = bytearray(data)
    grown[first - 22 : first - 14] = struct.pack("<LL", 60, 60)
    path.write_bytes(grown)
    with pytest.raises(FormatError, match="overlap"):
        open_pickle(path)


def test_zip64_members(tmp_path):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for name, data in {"x/data.pkl": program(), "x/data/0": SIX}.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    path = tmp_path / "x"
    assert open_pickle(path).array("a").size == 6
    data = path.read_bytes()
    at = data.index(b"x/data/0", data.index(b"PK\1\2"))
    wide = struct.pack("<2H2Q", 1, 16, 24, 24)
    entry = bytearray(data[at - 46 : at + 8])
    entry[20:28] = b"\xff" * 8
    entry[30:32] = struct.pack("<H", len(wide))
    end = bytearray(data[-22:])
    end[12:16] = struct.pack("<L", struct.unpack_from("<L", end, 12)[0] + len(wide))
    path.write_bytes(data[: at - 46] + entry + wide + end)
    assert open_pickle(path).array("a").size == 6
    path.write_bytes(data[: at - 46] + entry + wide.replace(b"\1\0\x10", b"\2\0\x10") + end)
    with pytest.raises(FormatError, match="64-bit"):
        open_pickle(path)


# --- damage

SAMPLE = {"w": numbers(4, 3), "t": numbers(4, 3).T, "h": numbers(2, 8).half(), "n": torch.arange(3)}


def sample(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(OrderedDict(SAMPLE), buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


SAMPLES = {zipped: sample(zipped) for zipped in (True, False)}


def survives(path: Path) -> None:
    """Whatever is left reads in bounds or is refused; any other exception fails the test."""
    try:
        store = open_pickle(path)
        for name in store:
            store.read(name)
    except AdaptoolError:
        pass


@LAYOUTS
def test_truncated_anywhere_is_refused(tmp_path, zipped):
    data = SAMPLES[zipped]
    path = tmp_path / "x"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(AdaptoolError):
            open_pickle(path)


def test_truncated_after_opening(tmp_path):
    path = saved(tmp_path / "x", SAMPLE)
    store = open_pickle(path)
    os.truncate(path, 100)
    for name in store:
        with pytest.raises(FormatError):
            store.read(name)


@LAYOUTS
@settings(deadline=None, max_examples=150)
@given(changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes(tmp_path_factory, zipped, changes):
    data = bytearray(SAMPLES[zipped])
    for position, value in changes:
        data[position % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(data)
    survives(path)


@settings(deadline=None, max_examples=300)
@given(
    program=st.lists(
        st.sampled_from(
            [b"(", b")", b"}", b"]", b"0", b"1", b"2", b"a", b"b", b"e", b"l", b"d", b"o", b"s", b"t", b"u"]
        )
        | st.sampled_from(
            [b"Q", b"R", b"N", b"\x85", b"\x86", b"\x87", b"\x88", b"\x93", b"\x94", b"K\1", b"q\0", b"h\0"]
        )
        | st.sampled_from([b"X\1\0\0\0a", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch\nSize\n"])
        | st.sampled_from([b"ctorch._utils\n_rebuild_tensor_v2\n", b"X\7\0\0\0storage", program()[2:-1]]),
        max_size=30,
    )
)
def test_random_programs(tmp_path_factory, program):
    path = rezipped(tmp_path_factory.getbasetemp() / "random", b"\x80\x02" + b"".join(program) + b".", data_0=SIX)
    survives(path)
