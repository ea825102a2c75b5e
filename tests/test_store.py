"""Stores and the views over them: one contract, whatever lies beneath."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import numbers, write_tensors

from adaptool.errors import MismatchError, NotFoundError
from adaptool.tensors.dtypes import BF16, DTYPES, F16, F32, narrow, widen
from adaptool.tensors.safetensors import open_safetensors
from adaptool.tensors.store import MemoryStore, TensorInfo
from adaptool.tensors.views import Cast, Joined, Selected, select

SHAPES = {"matrix": (7, 5), "vector": (6,), "scalar": (), "experts": (2, 3, 4), "no_rows": (0, 4), "empty": (3, 0)}


def arrays(kind="F32"):
    return {name: (kind, numbers(kind, shape, seed)) for seed, (name, shape) in enumerate(SHAPES.items())}


def memory():
    return MemoryStore({name: (DTYPES[kind], array) for name, (kind, array) in arrays().items()}, {"made": "here"})


def on_disk(folder):
    return open_safetensors(write_tensors(folder / "a.safetensors", arrays()))


@pytest.fixture(params=["memory", "file", "selected", "cast", "joined"])
def store(request, tmp_path):
    """The same tensors behind every kind of store."""
    source = memory()
    return {
        "memory": lambda: source,
        "file": lambda: on_disk(tmp_path),
        "selected": lambda: select(source, list(source)),
        "cast": lambda: Cast(source, F32),
        "joined": lambda: Joined((select(source, ["matrix"]), select(source, lambda name: name != "matrix"))),
    }[request.param]()


@pytest.mark.parametrize("name", SHAPES)
def test_infos_and_rows(store, name):
    shape, array = SHAPES[name], arrays()[name][1]
    info = store[name]
    assert (info.name, info.shape, info.dtype) == (name, shape, F32)
    assert info.size == array.size == info.rows * info.columns or not shape
    assert info.nbytes == array.nbytes
    assert array.tobytes() == store.read(name).tobytes()
    assert np.array_equal(array, store.array(name))
    assert store.array(name).shape == shape


@pytest.mark.parametrize("name", SHAPES)
def test_spans_cover_every_row_once(store, name):
    info = store[name]
    for nbytes in (1, 17, 1 << 20):
        spans = list(store.spans(name, nbytes))
        assert [row for start, stop in spans for row in range(start, stop)] == list(range(info.rows))
        assert b"".join(store.read(name, *span).tobytes() for span in spans) == store.read(name).tobytes()


def test_rows_into_a_buffer(store):
    out = np.full((3, 5), 9, np.float32)
    assert store.read("matrix", 2, 5, out) is out
    assert np.array_equal(arrays()["matrix"][1][2:5], out)


@pytest.mark.parametrize("rows", [(-1, 2), (3, 2), (0, 8), (8, 8)])
def test_rows_outside_are_a_mismatch(store, rows):
    with pytest.raises(MismatchError, match="matrix"):
        store.read("matrix", *rows)


def test_no_rows_are_no_rows(store):
    assert store.read("matrix", 3, 3).shape == (0, 5)


def test_a_missing_tensor_is_named(store):
    with pytest.raises(NotFoundError, match="nowhere"):
        store.read("nowhere")
    assert "nowhere" not in store
    assert "matrix" in store


def test_order_and_length(store):
    assert len(store) == len(SHAPES)
    assert set(store) == set(SHAPES)
    assert store.nbytes == sum(array.nbytes for _, array in arrays().values())


def test_stores_pickle_small(tmp_path):
    store = Cast(Selected(on_disk(tmp_path), {"renamed": "matrix"}), F16)
    store.read("renamed")  # opens the file, which must not travel along
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(store.read("renamed"), copy.read("renamed"))


def test_selected_renames(tmp_path):
    store = Selected(on_disk(tmp_path), {"b": "vector", "a": "matrix"})
    assert list(store) == ["b", "a"]
    assert store["a"] == TensorInfo("a", F32, (7, 5))
    assert np.array_equal(arrays()["matrix"][1], store.read("a"))
    assert store.extent("a") == on_disk(tmp_path).extent("matrix")
    with pytest.raises(NotFoundError):
        store.read("matrix")


def test_selecting_what_is_not_there(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        select(on_disk(tmp_path), ["nowhere"]).infos["nowhere"]


@pytest.mark.parametrize("target", [BF16, F16, F32], ids=str)
def test_cast_rounds_floats_and_leaves_integers(tmp_path, target):
    tensors = arrays() | {"steps": ("I64", np.arange(6)), "mask": ("U8", np.ones((2, 2), np.uint8))}
    source = open_safetensors(write_tensors(tmp_path / "a.safetensors", tensors))
    store = Cast(source, target)
    for name, (kind, array) in tensors.items():
        if kind == "F32":
            assert store[name].dtype is target
            expected = narrow(array, target).tobytes()
            assert (store.extent(name) is None) == (target is not F32)
        else:
            assert store[name].dtype.name == kind
            expected = array.tobytes()
            assert store.extent(name) == source.extent(name)
        assert expected == store.read(name).tobytes()


def test_cast_to_the_same_type_keeps_extents(tmp_path):
    source = on_disk(tmp_path)
    assert Cast(source, F32).extent("matrix") == source.extent("matrix")


def test_joining_the_same_name_twice(tmp_path):
    with pytest.raises(MismatchError, match="'matrix' is in more than one file"):
        Joined((on_disk(tmp_path), select(memory(), ["matrix"])))


def test_files_are_what_is_read(tmp_path):
    assert on_disk(tmp_path).files == Cast(on_disk(tmp_path), F32).files == {tmp_path / "a.safetensors"}
    assert memory().files == frozenset()


@given(st.data())
def test_any_rows_of_a_view_are_those_of_its_source(data):
    rows, columns = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 5))
    array = numbers("F32", (rows, columns), rows)
    source = MemoryStore({"t": (F32, array)})
    store = Cast(Selected(source, {"u": "t"}), BF16)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    assert np.array_equal(narrow(array, BF16)[start:stop], store.read("u", start, stop))
    assert np.array_equal(widen(narrow(array, BF16), BF16), store.array("u"))
