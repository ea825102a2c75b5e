"""Importance matrices: both formats as llama-quantize reads them, and what a broken one is told."""

from __future__ import annotations

import math
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptool.errors import AdaptoolError, FormatError, MismatchError, NotFoundError
from adaptool.gguf.imatrix import Imatrix, open_imatrix

QUERY, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight"

Sums = Mapping[str, tuple[Sequence[Sequence[float]], Sequence[float]]]
"""Tensor → sums of squares, a row per count, and the counts."""

MEASURED: Sums = {QUERY: ([[2, 4, 6, 8]], [2]), EXPERTS: ([[3, 6], [5, 5], [1, 7]], [3, 0, 2])}
METADATA = {"imatrix.datasets": ["wiki.txt", "code.txt"], "imatrix.chunk_count": 9, "imatrix.chunk_size": 512}


def write_gguf(
    path: Path, measured: Sums = MEASURED, metadata: Mapping[str, object] = METADATA, dtype: str = "float32"
) -> Path:
    writer = gguf.GGUFWriter(path, "none")
    writer.add_type("imatrix")
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            (writer.add_uint32 if isinstance(value, int) else writer.add_string)(key, value)
    for name, (sums, counts) in measured.items():
        writer.add_tensor(f"{name}.in_sum2", np.array(sums, dtype))
        writer.add_tensor(f"{name}.counts", np.array(counts, np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def legacy_entry(name: bytes, calls: int, values: Sequence[float]) -> bytes:
    head = struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values))
    return head + struct.pack(f"<{len(values)}f", *values)


ENTRIES = legacy_entry(QUERY.encode(), 2, [2, 4, 6, 8]) + legacy_entry(EXPERTS.encode(), 0, [1, 2, 3, 4, 5, 6])
TRAILER = struct.pack("<ii", 9, 8) + b"wiki.txt"
LEGACY = struct.pack("<i", 2) + ENTRIES + TRAILER


def opened(folder: Path, data: bytes) -> Imatrix:
    (folder / "imatrix.dat").write_bytes(data)
    return open_imatrix(folder / "imatrix.dat")


def weights(imatrix: Imatrix, name: str, columns: int, experts: int = 1) -> list[list[float]] | None:
    found = imatrix.weights(name, columns, experts)
    assert found is None or found.dtype == np.float32
    return None if found is None else found.tolist()


def test_gguf_sums_are_divided_by_each_expert_s_count(tmp_path: Path) -> None:
    imatrix = open_imatrix(write_gguf(tmp_path / "imatrix.gguf"))
    assert weights(imatrix, QUERY, 4) == [[1, 2, 3, 4]]
    assert weights(imatrix, EXPERTS, 2, 3) == [[1, 2], [1, 1], [0.5, 3.5]]  # the expert never reached weighs alike
    assert weights(imatrix, "blk.1.attn_q.weight", 4) is None
    assert (imatrix.datasets, imatrix.chunks, len(imatrix.entries)) == (("wiki.txt", "code.txt"), 9, 2)


@pytest.mark.parametrize(
    ("count", "expected"), [(2.5, [4 / 3, 2]), (2.4, [2, 3]), (0.4, [1, 1]), (-1, [1, 1]), (0.5, [4, 6])]
)
def test_counts_are_rounded(tmp_path: Path, count: float, expected: list[float]) -> None:
    imatrix = open_imatrix(write_gguf(tmp_path / "i.gguf", {QUERY: ([[4, 6]], [count])}))
    assert weights(imatrix, QUERY, 2) == [[float(np.float32(value)) for value in expected]]


def test_one_count_may_serve_a_whole_stack(tmp_path: Path) -> None:
    imatrix = open_imatrix(write_gguf(tmp_path / "i.gguf", {EXPERTS: ([[2, 4, 6, 8]], [2])}))
    assert weights(imatrix, EXPERTS, 2, 2) == [[1, 2], [3, 4]]


def test_legacy_sums_are_divided_by_the_calls(tmp_path: Path) -> None:
    imatrix = opened(tmp_path, LEGACY)
    assert weights(imatrix, QUERY, 4) == [[1, 2, 3, 4]]
    assert weights(imatrix, EXPERTS, 2, 3) == [[1, 2], [3, 4], [5, 6]]  # no calls: as they stand
    assert (imatrix.datasets, imatrix.chunks, len(imatrix.entries)) == (("wiki.txt",), 9, 2)


@pytest.mark.parametrize(
    ("trailer", "datasets", "chunks"),
    [
        (b"", (), 0),
        (struct.pack("<i", 3), (), 3),
        (struct.pack("<ii", 3, 0), (), 3),
        (struct.pack("<ii", 3, 99) + b"cut", (), 3),
        (struct.pack("<ii", 3, -1), (), 3),
        (struct.pack("<ii", 3, 5) + b"ab\0cd", ("ab",), 3),
    ],
)
def test_a_legacy_file_s_end_may_be_missing(
    tmp_path: Path, trailer: bytes, datasets: tuple[str, ...], chunks: int
) -> None:
    imatrix = opened(tmp_path, struct.pack("<i", 2) + ENTRIES + trailer)
    assert (datasets, chunks) == (imatrix.datasets, imatrix.chunks)


def test_a_name_given_twice_keeps_the_last(tmp_path: Path) -> None:
    data = struct.pack("<i", 2) + legacy_entry(b"x", 1, [1, 2]) + legacy_entry(b"x\0rest", 1, [3, 4])
    assert weights(opened(tmp_path, data), "x", 2) == [[3, 4]]


def test_weights_of_another_size(tmp_path: Path) -> None:
    measured: Sums = {QUERY: ([[2, 4]], [1]), "token_embd.weight": ([[2, 4]], [1])}
    imatrix = open_imatrix(write_gguf(tmp_path / "i.gguf", measured))
    with pytest.raises(MismatchError, match=rf"2 weights for {QUERY}, which has 3"):
        imatrix.weights(QUERY, 3)
    assert imatrix.weights("token_embd.weight", 3) is None


def test_an_imatrix_travels(tmp_path: Path) -> None:
    imatrix = open_imatrix(write_gguf(tmp_path / "imatrix.gguf"))
    assert weights(pickle.loads(pickle.dumps(imatrix)), QUERY, 4) == [[1, 2, 3, 4]]


BROKEN_LEGACY = {
    "empty": b"",
    "three bytes": b"abc",
    "no entries": struct.pack("<i", 0) + bytes(64),
    "fewer than none": struct.pack("<i", -1) + bytes(64),
    "more entries than bytes": struct.pack("<i", 2**31 - 1) + ENTRIES,
    "an entry too many": struct.pack("<i", 3) + ENTRIES,
    "a long name": struct.pack("<ii", 1, 2**31 - 1) + bytes(64),
    "a name of negative length": struct.pack("<ii", 1, -5) + bytes(64),
    "no values": struct.pack("<i", 1) + legacy_entry(b"x", 1, []) + bytes(16),
    "too many values": struct.pack("<iicii", 1, 1, b"x", 1, 2**31 - 1) + bytes(64),
    "negative values": struct.pack("<iicii", 1, 1, b"x", 1, -4) + bytes(64),
    "not a number": struct.pack("<i", 1) + legacy_entry(b"x", 1, [1, math.nan]),
    "infinite": struct.pack("<i", 1) + legacy_entry(b"x", 1, [math.inf]),
}


@pytest.mark.parametrize("data", BROKEN_LEGACY.values(), ids=list(BROKEN_LEGACY))
def test_a_broken_legacy_file(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError, match=r"imatrix\.dat"):
        opened(tmp_path, data)


@pytest.mark.parametrize("length", range(4 + len(ENTRIES)))
def test_a_legacy_file_cut_anywhere(tmp_path: Path, length: int) -> None:
    with pytest.raises(FormatError):
        opened(tmp_path, LEGACY[:length])


BROKEN_GGUF: Mapping[str, tuple[Sums, Mapping[str, object], str]] = {
    "no tensors": ({}, METADATA, "holds no importance matrix"),
    "no datasets": (MEASURED, {k: v for k, v in METADATA.items() if "data" not in k}, "no imatrix.datasets"),
    "no chunk count": (MEASURED, {k: v for k, v in METADATA.items() if "count" not in k}, "no imatrix.chunk_count"),
    "no chunk size": (MEASURED, {k: v for k, v in METADATA.items() if "size" not in k}, "no imatrix.chunk_size"),
    "a chunk count in words": (MEASURED, METADATA | {"imatrix.chunk_count": "9"}, "chunk_count is a STRING"),
    "counts that do not divide": ({QUERY: ([[1, 2, 3]], [1, 2])}, METADATA, "3 sums and 2 counts"),
    "sums that are no numbers": ({QUERY: ([[1, math.nan]], [1])}, METADATA, "not finite"),
    "counts that are no numbers": ({QUERY: ([[1, 2]], [math.inf])}, METADATA, "counts of .* not finite"),
}


@pytest.mark.parametrize(("measured", "metadata", "message"), BROKEN_GGUF.values(), ids=list(BROKEN_GGUF))
def test_a_broken_gguf(tmp_path: Path, measured: Sums, metadata: Mapping[str, object], message: str) -> None:
    path = write_gguf(tmp_path / "i.gguf", measured, metadata)
    with pytest.raises(FormatError, match=message):
        open_imatrix(path)


def test_sums_of_another_type(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "i.gguf", dtype="float16")
    with pytest.raises(FormatError, match="must be F32"):
        open_imatrix(path)


def test_sums_without_their_counts(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "i.gguf")
    path.write_bytes(path.read_bytes().replace(b"attn_q.weight.counts", b"attn_x.weight.counts"))
    with pytest.raises(FormatError, match="has no counterpart"):
        open_imatrix(path)


def test_datasets_of_another_type_are_not_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "i.gguf", metadata=METADATA | {"imatrix.datasets": [1, 2]})
    assert open_imatrix(path).datasets == ()


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_imatrix(tmp_path / "none.dat")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(LEGACY) - 1), value=st.binary(min_size=1, max_size=4))
def test_no_change_of_bytes_breaks_the_reader(tmp_path: Path, at: int, value: bytes) -> None:
    try:
        imatrix = opened(tmp_path, LEGACY[:at] + value + LEGACY[at + len(value) :])
    except AdaptoolError:
        return
    for name, entry in imatrix.entries.items():
        assert imatrix.weights(name, entry.size) is not None
