"""Writing safetensors: the reference implementation reads what we wrote, whichever way the bytes went."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from making import numbers, write_tensors

from adaptool.errors import DiskError
from adaptool.tensors import writer
from adaptool.tensors.dtypes import DTYPES
from adaptool.tensors.safetensors import open_safetensors, open_sharded
from adaptool.tensors.store import MemoryStore, Store
from adaptool.tensors.views import Cast, Joined
from adaptool.tensors.writer import PieceWriter, index_json, pieces_of, plan_files, shard_groups, shard_names
from adaptool.versions import content_digest

safetensors = pytest.importorskip("safetensors")
torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

SHAPES = {
    "odd": ("U8", (3,)),
    "half": ("BF16", (7, 5)),
    "wide": ("F64", (4,)),
    "one": ("F32", ()),
    "none": ("F32", (0, 4)),
}


def arrays(shapes=None):
    """A tensor of each shape, in its storage type."""
    found = {}
    for seed, (name, (kind, shape)) in enumerate((shapes or SHAPES).items()):
        values = numbers(kind, shape, seed) if kind != "U8" else np.arange(np.prod(shape), dtype=np.uint8)
        found[name] = (kind, values.reshape(shape))
    return found


def in_memory(tensors) -> MemoryStore:
    """Tensors that must be computed."""
    store = {name: (DTYPES[kind], array.view(DTYPES[kind].storage)) for name, (kind, array) in tensors.items()}
    return MemoryStore(store, {"format": "pt"})


def write(store: Store, folder: Path, limit: int = 1 << 40):
    """Write a store as a checkpoint; the plans of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    plans = plan_files(store, shard_groups(store, limit))
    output = PieceWriter(store, folder, plans)
    for piece in pieces_of(store, plans):
        output.write(piece)
    output.sync()
    output.close()
    (folder / "model.safetensors.index.json").write_text(index_json(plans))
    return plans


def check(folder: Path, plans, tensors) -> None:
    """The safetensors package finds the same names, types, shapes and bits."""
    found = {name: tensor for plan in plans for name, tensor in load_file(folder / plan.name).items()}
    assert tensors.keys() == found.keys()
    for name, (kind, array) in tensors.items():
        assert tuple(found[name].shape) == array.shape
        bits = found[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if array.size else b""
        assert array.tobytes() == bits, name
        assert DTYPES[kind].torch_name in (str(found[name].dtype).removeprefix("torch."), kind)


def test_computed_tensors(tmp_path):
    plans = write(in_memory(arrays()), tmp_path)
    check(tmp_path, plans, arrays())


def test_copied_tensors(tmp_path):
    source = open_safetensors(write_tensors(tmp_path / "in" / "x.safetensors", arrays()))
    plans = write(source, tmp_path / "out")
    check(tmp_path / "out", plans, arrays())
    assert content_digest(source) == content_digest(open_safetensors(tmp_path / "out" / "model.safetensors"))


def test_a_cast_store(tmp_path):
    source = in_memory(arrays())
    write(Cast(source, DTYPES["F16"]), tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    assert {str(found[name].dtype) for name in ("half", "wide", "one")} == {"torch.float16"}
    assert found["odd"].dtype == torch.uint8


def test_nothing_at_all(tmp_path):
    plans = write(in_memory({}), tmp_path)
    check(tmp_path, plans, {})


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"ünï": "çode\n\x1b", "x" * 50: "y" * 501}])
def test_headers_are_padded_and_kept(tmp_path, metadata):
    kinds = {name: (DTYPES[kind], array.view(DTYPES[kind].storage)) for name, (kind, array) in arrays().items()}
    (plan,) = write(MemoryStore(kinds, metadata), tmp_path)
    assert len(plan.header) % 8 == 0
    assert plan.size == (tmp_path / plan.name).stat().st_size
    with safetensors.safe_open(tmp_path / plan.name, "np") as opened:
        assert (opened.metadata() or {}) == metadata


def test_every_tensor_is_aligned_to_its_type(tmp_path):
    kinds = ["U8", "BF16", "F64", "F32", "I64", "F16"]
    tensors = arrays({f"{kind}{i}": (kind, (i + 1,)) for i in range(3) for kind in kinds})
    (plan,) = write(in_memory(tensors), tmp_path)
    for info in plan.infos:
        assert plan.offsets[info.name] % info.dtype.itemsize == 0, info.name


@pytest.mark.parametrize("limit", [1, 100, 1000, 10**6])
def test_shards_are_no_larger_than_asked(tmp_path, limit):
    tensors = arrays({f"t{i}": ("F32", (i + 1, 7)) for i in range(12)})
    store = in_memory(tensors)
    plans = write(store, tmp_path, limit)
    assert [plan.name for plan in plans] == shard_names(len(plans))
    for plan in plans:
        assert plan.tensor_bytes <= limit or len(plan.infos) == 1
    assert [info.name for plan in plans for info in plan.infos] == list(tensors)
    check(tmp_path, plans, tensors)
    if len(plans) > 1:
        assert content_digest(store) == content_digest(open_sharded(tmp_path / "model.safetensors.index.json"))


def test_the_index_counts_bytes_and_parameters(tmp_path):
    tensors = arrays({f"t{i}": ("BF16", (i + 1, 7)) for i in range(12)})
    plans = write(in_memory(tensors), tmp_path, 200)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for _, array in tensors.values())
    assert index["metadata"]["total_parameters"] == sum(array.size for _, array in tensors.values())
    assert index["weight_map"] == {info.name: plan.name for plan in plans for info in plan.infos}


def test_names_of_shards():
    assert shard_names(1) == ["model.safetensors"]
    assert shard_names(3)[1] == "model-00002-of-00003.safetensors"


def test_small_pieces_make_the_same_file(tmp_path, monkeypatch):
    large = arrays({"a": ("F32", (300, 40)), "b": ("BF16", (1000,)), "c": ("F32", (5, 6, 7))})
    store = Joined(
        (
            in_memory({"a": large["a"], "c": large["c"]}),
            open_safetensors(write_tensors(tmp_path / "x", {"b": large["b"]})),
        )
    )
    write(store, tmp_path / "whole")
    monkeypatch.setattr(writer, "PIECE_BYTES", 512)
    monkeypatch.setattr(writer, "COPY_BYTES", 100)
    plans = plan_files(store, shard_groups(store, 1 << 40))
    pieces = list(pieces_of(store, plans))
    assert len(pieces) > 80
    assert sum(piece.nbytes for piece in pieces) == sum(plan.tensor_bytes for plan in plans)
    (tmp_path / "pieces").mkdir()
    output = PieceWriter(store, tmp_path / "pieces", plans)
    for piece in reversed(pieces):
        output.write(piece)
    output.close()
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "pieces" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, None])
def test_where_the_kernel_cannot_copy(tmp_path, monkeypatch, code):
    source = open_safetensors(write_tensors(tmp_path / "in" / "x", arrays({"t": ("F32", (4000, 9))})))

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    if code is None:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    else:
        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    monkeypatch.setattr(writer, "PIECE_BYTES", 1000)
    write(source, tmp_path / "out")
    assert content_digest(source) == content_digest(open_safetensors(tmp_path / "out" / "model.safetensors"))


def test_short_copies_and_short_writes_go_on(tmp_path, monkeypatch):
    source = open_safetensors(write_tensors(tmp_path / "in" / "x", arrays({"t": ("F32", (400, 9))})))
    copy, pwrite = getattr(os, "copy_file_range", None), os.pwrite
    if copy is not None:
        monkeypatch.setattr(os, "copy_file_range", lambda s, t, n, *offsets: copy(s, t, min(n, 1000), *offsets))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:700], at))
    write(Joined((source, in_memory(arrays()))), tmp_path / "out")
    found = open_safetensors(tmp_path / "out" / "model.safetensors")
    assert source.read("t").tobytes() == found.read("t").tobytes()
    assert arrays()["half"][1].tobytes() == found.read("half").tobytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG])
def test_a_disk_that_fails_is_worded(tmp_path, monkeypatch, code):
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    store = in_memory(arrays())
    plans = plan_files(store, shard_groups(store, 1 << 40))
    output = PieceWriter(store, tmp_path, plans)
    monkeypatch.setattr(os, "pwrite", fail)
    piece = next(pieces_of(store, plans))
    with pytest.raises(DiskError, match=r"model\.safetensors") as error:
        output.write(piece)
    assert "--resume" in error.value.hint
    assert ("make room" in error.value.hint) == (code in (errno.ENOSPC, errno.EDQUOT))


def test_a_source_that_shrinks_is_worded(tmp_path):
    path = write_tensors(tmp_path / "in" / "x", arrays({"t": ("F32", (400, 9))}))
    source = open_safetensors(path)
    os.truncate(path, 2000)
    with pytest.raises(DiskError, match="ends early"):
        write(source, tmp_path / "out")


def test_no_descriptor_is_left_open(tmp_path):
    source = open_safetensors(write_tensors(tmp_path / "in" / "x", arrays()))
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("the system does not list open files")
    before = len(list(folder.iterdir()))
    for number in range(10):
        write(source, tmp_path / str(number))
    assert len(list(folder.iterdir())) <= before + 1
