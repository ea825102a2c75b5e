"""Reading safetensors: what the reference implementation reads, and none of the layouts that others let through."""

from __future__ import annotations

import json
import os
import shutil
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import entry, llama, numbers, pack, refusal_of, tree, write_json, write_tensors

from adaptool.adapters.base import open_base
from adaptool.errors import AdaptoolError, DiskError, FormatError, NotFetchedError, NotFoundError
from adaptool.tensors.dtypes import DTYPES
from adaptool.tensors.jsons import parse_json
from adaptool.tensors.safetensors import HEADER_LIMIT, open_safetensors, open_sharded, shard_of
from adaptool.versions import content_digest, header_digest

safetensors = pytest.importorskip("safetensors")
torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

SECONDS = 2.0
"""A hostile file of a few megabytes may not cost more; each of these took minutes somewhere."""

TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
    "I32": torch.int32, "U32": torch.uint32, "I64": torch.int64, "U64": torch.uint64, "F16": torch.float16,
    "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
TWO = {"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 8, 12)}
DATA = bytes(12)
A = json.dumps(TWO["a"]).encode()


def written(folder: Path, header: object, data: bytes = DATA) -> Path:
    path = folder / "x.safetensors"
    path.write_bytes(pack(header, data))
    return path


def refusal(path: Path, kind: type[AdaptoolError] | tuple[type[AdaptoolError], ...] = FormatError) -> str:
    with pytest.raises(kind) as error:
        open_safetensors(path)
    assert str(path) in error.value.message
    return error.value.message


def bits(tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_every_type_is_read_as_the_reference_reads_it(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 2 if name == "BOOL" else 256, (3, 4 * kind.itemsize), generator=generator)
        .to(torch.uint8)
        .view(kind)
        for name, kind in TORCH.items()
    }  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt", "ünï": "çode"})
    store = open_safetensors(tmp_path / "x.safetensors")
    reference = load_file(tmp_path / "x.safetensors")
    assert store.metadata == {"format": "pt", "ünï": "çode"}
    assert set(store) == set(reference)
    for name, tensor in reference.items():
        assert (store[name].dtype.name, store[name].shape) == (name, tuple(tensor.shape))
        assert bits(tensor) == store.read(name).tobytes()
        assert bits(tensor[1:3]) == store.read(name, 1, 3).tobytes()
    assert set(DTYPES) - set(TORCH) == {"F4", "F6_E2M3", "F6_E3M2"}


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 0), (2, 3, 4, 5)])
def test_shapes(tmp_path, shape):
    tensor = torch.randn(shape)
    save_file({"t": tensor, "u": torch.ones(3)}, tmp_path / "x.safetensors")
    store = open_safetensors(tmp_path / "x.safetensors")
    assert store["t"].shape == shape
    assert bits(tensor) == store.read("t").tobytes()
    assert len(content_digest(store)) == 64


@pytest.mark.parametrize(
    ("kind", "columns", "nbytes"), [("F4", 8, 4), ("F4", 2, 1), ("F6_E2M3", 4, 3), ("F6_E3M2", 8, 6)]
)
def test_packed_types_are_read_by_whole_bytes(tmp_path, kind, columns, nbytes):
    data = bytes(range(1, 3 * nbytes + 1))
    store = open_safetensors(written(tmp_path, {"t": entry(kind, [3, columns], 0, len(data))}, data))
    assert store["t"].row_nbytes == nbytes
    assert store.read("t", 1, 3).tobytes() == data[nbytes:]
    assert store.read("t").tobytes() == data


def test_rows_that_end_inside_a_byte(tmp_path):
    store = open_safetensors(written(tmp_path, {"t": entry("F4", [2, 3], 0, 3)}, bytes(3)))
    with pytest.raises(FormatError, match="do not end on a byte"):
        store.read("t", 0, 1)


def test_the_extent_is_where_the_bytes_lie(tmp_path):
    array = numbers("F32", (5, 3), 0)
    path = write_tensors(tmp_path / "x.safetensors", {"first": ("U8", np.ones(7, np.uint8)), "t": ("F32", array)})
    extent = open_safetensors(path).extent("t")
    assert (extent.path, extent.length) == (path, array.nbytes)
    assert path.read_bytes()[extent.offset :][: extent.length] == array.tobytes()


def test_many_threads_read_one_file(tmp_path):
    array = numbers("F32", (500, 40), 0)
    store = open_safetensors(write_tensors(tmp_path / "x.safetensors", {"t": ("F32", array)}))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: store.read("t", row, row + 1), range(500)))
    assert np.array_equal(array, np.vstack(found))


def test_no_descriptor_is_left_open(tmp_path):
    path = write_tensors(tmp_path / "x.safetensors", {"t": ("F32", numbers("F32", (5, 3), 0))})
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0  # noqa: PTH208
    for _ in range(20):
        open_safetensors(path).read("t")
    assert before >= len(os.listdir("/proc/self/fd")) - 1 if before else True  # noqa: PTH208


LAYOUTS = {
    "header past the end": struct.pack("<Q", 1000) + b"{}",
    "length overflows": struct.pack("<Q", 2**64 - 1) + b"{}",
    "length beyond the cap": struct.pack("<Q", HEADER_LIMIT + 1) + b"{}",
    "offsets overflow": pack({"a": entry("F32", [2], 2**64 - 8, 2**64)}, bytes(8)),
    "offset of 63 bits": pack({"a": entry("U8", [1], 2**63 - 1, 2**63)}, bytes(1)),
    "overlap": pack({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, DATA),
    "the same bytes twice": pack({"a": entry("F32", [3], 0, 12), "b": entry("F32", [3], 0, 12)}, DATA),
    "hole in front": pack({"a": entry("F32", [2], 4, 12)}, DATA),
    "hole in the middle": pack({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, DATA),
    "trailing bytes": pack(TWO, DATA + b"PK\x05\x06"),
    "a tensor cut off": pack(TWO, DATA[:-1]),
    "no data at all": pack(TWO),
    "backwards": pack({"a": entry("F32", [2], 8, 0)}, bytes(8)),
    "an unknown type": pack({"a": entry("F33", [2], 0, 8)}, bytes(8)),
    "a type in lower case": pack({"a": entry("f32", [2], 0, 8)}, bytes(8)),
    "a type that is no name": pack({"a": entry(32, [2], 0, 8)}, bytes(8)),  # type: ignore[arg-type]
    "shape and range disagree": pack({"a": entry("F32", [3], 0, 8)}, bytes(8)),
    "half a byte": pack({"a": entry("F4", [3], 0, 2)}, bytes(2)),
    "a negative dimension": pack({"a": entry("F32", [-2, -1], 0, 8)}, bytes(8)),
    "a fractional dimension": pack({"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, bytes(8)),
    "a boolean dimension": pack({"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, bytes(8)),
    "a dimension as text": pack({"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}}, bytes(8)),
    "dimensions that overflow to fit": pack({"a": entry("F32", [2**62, 4, 2], 0, 0)}),
    "dimensions beyond 64 bits": pack({"a": entry("F32", [2**64 + 2], 0, 8)}, bytes(8)),
    "a shape that is no list": pack({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, bytes(8)),
    "three offsets": pack({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4, 8]}}, bytes(8)),
    "fractional offsets": pack({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]}}, bytes(8)),
    "a field too many": pack({"a": entry("F32", [2], 0, 8) | {"scale": 2}}, bytes(8)),
    "a field missing": pack({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "an entry that is no object": pack({"a": [0, 8]}, bytes(8)),
    "metadata of numbers": pack(TWO | {"__metadata__": {"a": 1}}, DATA),
    "metadata of objects": pack(TWO | {"__metadata__": {"a": {"b": "c"}}}, DATA),
    "metadata as a list": pack(TWO | {"__metadata__": ["format"]}, DATA),
    "metadata as an empty list": pack(TWO | {"__metadata__": []}, DATA),
    "metadata as nothing": pack(TWO | {"__metadata__": 0}, DATA),
    "metadata as false": pack(TWO | {"__metadata__": False}, DATA),
    "metadata as text": pack(TWO | {"__metadata__": ""}, DATA),
    "a header that is a list": pack([1]),
    "a header that is a number": pack(b"12"),
    "an empty header": pack(b""),
    "a header of spaces": pack(b"      "),
    "a space before it": pack(b" {}"),
    "a byte order mark": pack(b"\xef\xbb\xbf{}"),
    "not UTF-8": pack(b'{"\xff": 1}'),
    "a name that is half a character": pack(b'{"\\ud800":' + json.dumps(entry("U8", [0], 0, 0)).encode() + b"}"),
    "not JSON": pack(b"{'a': 1}"),
    "something after it": pack(b"{} {}"),
    "deeply nested": pack(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a number of thousands of digits": pack(b'{"a":' + b"9" * 10_000 + b"}"),
    "not a number": pack(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}'),
    "infinity": pack(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}'),
    "a key twice": pack(b'{"a":%b,"a":%b}' % (A, A), bytes(8)),
    "an inner key twice": pack(b'{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "metadata twice": pack(b'{"__metadata__":{},"__metadata__":{"a":"b"}}'),
    "an empty file": b"",
    "seven bytes": bytes(7),
    "forty bytes of nothing": bytes(40),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "a pickle": b"\x80\x04\x95" + bytes(60),
    "a zip": b"PK\x03\x04" + bytes(60),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_hostile_layouts_are_refused(name, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(LAYOUTS[name])
    assert refusal(path, (FormatError, NotFetchedError))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a Git LFS pointer", "Git LFS pointer"),
        ("a pickle", "PyTorch pickle"),
        ("an empty file", "too short"),
        ("a key twice", "'a' twice"),
        ("trailing bytes", "trailing"),
        ("overlap", "overlaps"),
        ("hole in the middle", "unused"),
        ("a tensor cut off", "cut off"),
        ("an unknown type", "F33"),
    ],
)
def test_refusals_say_what_is_wrong(name, said, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(LAYOUTS[name])
    assert said in refusal(path, (FormatError, NotFetchedError))


@pytest.mark.parametrize("header", [{}, {"__metadata__": {}}, {"__metadata__": None}, {"": entry("U8", [0], 0, 0)}])
def test_odd_but_sound_headers_are_read(header, tmp_path):
    path = written(tmp_path, header, b"")
    assert len(open_safetensors(path)) == len([name for name in header if name != "__metadata__"])


def test_names_may_hold_anything_and_are_kept(tmp_path):
    names = ["../../etc/passwd", "a\0b", "\x1b[31mred", "tab\there", "line\nbreak", "ünï", "‮backwards"]
    header = {name: entry("U8", [1], i, i + 1) for i, name in enumerate(names)}
    store = open_safetensors(written(tmp_path, header, bytes(len(names))))
    assert names == list(store)
    assert len(header_digest(store)) == 64


def many_keys_one_twice() -> bytes:
    return b"{" + b",".join(b'"%d":0' % i for i in range(20_000)) + b',"19999":0}'


@pytest.mark.parametrize(
    "header",
    [
        many_keys_one_twice(),
        b'{"a":{"dtype":"U8","shape":[' + b",".join([b"%d" % (2**62)] * 20_000) + b'],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","shape":[' + b",".join([b"0"] * 1_000_000) + b'],"data_offsets":[0,0]}}',
        b"{" * 3_000_000,
        b'{"a":"' + b"\\u0000" * 500_000,
    ],
    ids=["a key twice among many", "dimensions without end", "zeros without end", "open braces", "an open string"],
)
def test_large_hostile_headers_are_refused_soon(header, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(header))
    start = time.process_time()
    error = refusal_of(lambda: open_safetensors(path))
    assert error is None or len(error.message) < 1000, "an error is a line, not the header"
    assert time.process_time() - start < SECONDS


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_only_worded_errors_escape(tmp_path, data):
    """Bytes of a good file changed, removed or added anywhere."""
    good = bytearray(pack(TWO | {"__metadata__": {"format": "pt"}}, DATA))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good)))
        length = data.draw(st.integers(0, 3))
        good[at : at + length] = data.draw(st.binary(max_size=4))
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(good))
    try:
        store = open_safetensors(path)
    except AdaptoolError:
        return
    for name in store:
        store.read(name)
    header_digest(store)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["dtype", "shape", "data_offsets"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), json_values | st.dictionaries(fields, json_values)))
def test_only_worded_errors_escape_any_json(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack(header, DATA))
    try:
        store = open_safetensors(path)
    except AdaptoolError:
        return
    assert header_digest(store)


@given(st.binary(max_size=40))
def test_parsing_json_raises_only_format_errors(data):
    error = refusal_of(lambda: parse_json(data, "here"))
    assert error is None or (type(error) is FormatError and "here" in error.message)


def test_what_is_no_file(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing", NotFoundError)
    assert "not a regular file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "pipe")
    assert refusal(tmp_path / ("x" * 300), DiskError)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = write_tensors(tmp_path / "x.safetensors", {"t": ("F32", numbers("F32", (500, 40), 0))})
    store = open_safetensors(path)
    os.truncate(path, 1000)
    with pytest.raises(FormatError, match="ends at byte 1000"):
        store.read("t")


def sharded(folder: Path) -> Path:
    return llama(folder, shards=3) / "model.safetensors.index.json"


def test_a_sharded_checkpoint_is_the_sum_of_its_shards(tmp_path):
    store = open_sharded(sharded(tmp_path / "many"))
    single = open_safetensors(llama(tmp_path / "one") / "model.safetensors")
    assert set(single) == set(store)
    assert content_digest(single) == content_digest(store)
    assert {shard_of(store, name) for name in store} == {
        f"model-{i}-of-00003.safetensors" for i in ("00001", "00002", "00003")
    }


def test_an_index_alone_and_its_folder_are_the_same_base(tmp_path):
    index = sharded(tmp_path)
    assert content_digest(open_base(index).store) == content_digest(open_base(tmp_path).store)


def lie(index: Path, change) -> None:
    value = json.loads(index.read_text())
    change(value)
    write_json(index, value)


FIRST, SECOND = "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"
LIES = {
    "another file's": lambda v: v["weight_map"].update({"model.embed_tokens.weight": SECOND}),
    "a tensor nobody has": lambda v: v["weight_map"].update({"ghost": FIRST}),
    "a tensor left out": lambda v: v["weight_map"].pop("model.norm.weight"),
    "a file outside": lambda v: v["weight_map"].update({"x": "../other/model.safetensors"}),
    "an absolute path": lambda v: v["weight_map"].update({"x": "/etc/passwd"}),
    "a folder": lambda v: v["weight_map"].update({"x": ".."}),
    "the folder itself": lambda v: v["weight_map"].update({"x": ""}),
    "a NUL in a name": lambda v: v["weight_map"].update({"x": "a\0b"}),
    "a name that is half a character": lambda v: v["weight_map"].update({"x": "\ud800"}),
    "a name too long": lambda v: v["weight_map"].update({"x": "x" * 300}),
    "a number for a file": lambda v: v["weight_map"].update({"x": 1}),
    "no map": lambda v: v.pop("weight_map"),
    "an empty map": lambda v: v.update(weight_map={}),
    "a list for a map": lambda v: v.update(weight_map=["x"]),
}


@pytest.mark.parametrize("name", LIES)
def test_an_index_that_lies_is_refused(name, tmp_path):
    index = sharded(tmp_path)
    lie(index, LIES[name])
    with pytest.raises(AdaptoolError) as error:
        open_sharded(index)
    assert str(tmp_path) in error.value.message


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    """transformers would take whichever shard it loads last."""
    index = sharded(tmp_path)
    extra = {"model.embed_tokens.weight": ("F32", numbers("F32", (3, 3), 0))}
    write_tensors(tmp_path / "model-00004-of-00004.safetensors", extra | {"x": ("F32", numbers("F32", (2,), 1))})
    lie(index, lambda value: value["weight_map"].update(x="model-00004-of-00004.safetensors"))
    with pytest.raises(AdaptoolError, match=r"embed_tokens"):
        open_sharded(index)


def test_a_missing_shard_is_named(tmp_path):
    index = sharded(tmp_path)
    (tmp_path / SECOND).unlink()
    with pytest.raises(NotFoundError, match=SECOND):
        open_sharded(index)


def hf_cache(folder: Path, source: Path) -> Path:
    """The folder of a repository in the HF cache, whose snapshot is symlinks into its blobs."""
    commit = "a" * 40
    repository = folder / "models--zoo--base"
    (repository / "blobs").mkdir(parents=True)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for number, file in enumerate(sorted(source.iterdir())):
        shutil.copy(file, repository / "blobs" / f"{number:040x}")
        (repository / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{number:040x}")
    return repository


@pytest.mark.parametrize("shards", [1, 3])
def test_an_hf_cache_is_read_through_its_symlinks(tmp_path, shards):
    source = llama(tmp_path / "source", shards=shards)
    repository = hf_cache(tmp_path / "hub", source)
    for path in (repository, repository / "snapshots" / ("a" * 40)):
        base = open_base(path)
        assert content_digest(open_base(source).store) == content_digest(base.store)
        assert {extent.path.name for name in base.store if (extent := base.store.extent(name))} == {
            path.name for path in source.glob("*.safetensors")
        }
    assert tree(source).keys() == tree(repository / "snapshots" / ("a" * 40)).keys()


@pytest.mark.parametrize("content", [b"", b"../../../etc", b"\xff\xfe", b"a\0b", b"nowhere"])
def test_a_broken_ref_is_worded(tmp_path, content):
    repository = hf_cache(tmp_path / "hub", llama(tmp_path / "source"))
    (repository / "refs" / "main").write_bytes(content)
    with pytest.raises(AdaptoolError):
        open_base(repository)
