"""The GGUF reader: what the specification allows is read as it is, a broken or hostile file is an error in words."""

from __future__ import annotations

import pickle
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from making import refusal_of

from adaptool.errors import AdaptoolError, FormatError, NotFetchedError, NotFoundError, UnsupportedError
from adaptool.gguf.back import model_folder
from adaptool.tensors.dtypes import BF16, F16, F32
from adaptool.tensors.ggml import codec
from adaptool.tensors.ggml.codec import encoded_value
from adaptool.tensors.ggml.types import ggml_type
from adaptool.tensors.ggml.values import Value, ValueType
from adaptool.tensors.gguf import open_gguf
from adaptool.tensors.store import Extent

U32, F32_KEY, STRING, ARRAY = 4, 6, 8, 9
WIDTH, HIDDEN, LAYERS, VOCABULARY = 32, 64, 2, 24


def text(words: bytes | str) -> bytes:
    raw = words.encode() if isinstance(words, str) else words
    return struct.pack("<Q", len(raw)) + raw


def key(name: bytes | str, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def u32(name: str, number: int) -> bytes:
    return key(name, U32, struct.pack("<I", number))


def f32(name: str, number: float) -> bytes:
    return key(name, F32_KEY, struct.pack("<f", number))


def string(name: str, words: bytes | str) -> bytes:
    return key(name, STRING, text(words))


def info(name: bytes | str, dims: Sequence[int], kind: int, offset: int) -> bytes:
    """A tensor's entry; ``dims`` innermost first, as the file has them."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf(
    keys: Sequence[bytes] = (),
    infos: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensors: int | None = None,
    pairs: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file, by the specification's own words; counts may be lied about."""
    head = magic + struct.pack("<I", version)
    head += struct.pack("<QQ", len(infos) if tensors is None else tensors, len(keys) if pairs is None else pairs)
    head += b"".join((*keys, *infos))
    return head + b"\0" * (-len(head) % alignment) + data


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


LLAMA_TENSORS = {
    "token_embd.weight": (WIDTH, VOCABULARY),
    "output_norm.weight": (WIDTH,),
    **{f"blk.{n}.attn_norm.weight": (WIDTH,) for n in range(LAYERS)},
    **{f"blk.{n}.ffn_norm.weight": (WIDTH,) for n in range(LAYERS)},
    **{f"blk.{n}.attn_q.weight": (WIDTH, WIDTH) for n in range(LAYERS)},
    **{f"blk.{n}.attn_k.weight": (WIDTH, WIDTH // 2) for n in range(LAYERS)},
    **{f"blk.{n}.attn_v.weight": (WIDTH, WIDTH // 2) for n in range(LAYERS)},
    **{f"blk.{n}.attn_output.weight": (WIDTH, WIDTH) for n in range(LAYERS)},
    **{f"blk.{n}.ffn_gate.weight": (WIDTH, HIDDEN) for n in range(LAYERS)},
    **{f"blk.{n}.ffn_up.weight": (WIDTH, HIDDEN) for n in range(LAYERS)},
    **{f"blk.{n}.ffn_down.weight": (HIDDEN, WIDTH) for n in range(LAYERS)},
}
LLAMA_KEYS = {
    "general.architecture": string("general.architecture", "llama"),
    "llama.block_count": u32("llama.block_count", LAYERS),
    "llama.context_length": u32("llama.context_length", 64),
    "llama.embedding_length": u32("llama.embedding_length", WIDTH),
    "llama.feed_forward_length": u32("llama.feed_forward_length", HIDDEN),
    "llama.attention.head_count": u32("llama.attention.head_count", 4),
    "llama.attention.head_count_kv": u32("llama.attention.head_count_kv", 2),
    "llama.attention.layer_norm_rms_epsilon": f32("llama.attention.layer_norm_rms_epsilon", 1e-5),
    "llama.rope.freq_base": f32("llama.rope.freq_base", 10000.0),
    "llama.rope.dimension_count": u32("llama.rope.dimension_count", 8),
}


def llama(
    keys: dict[str, bytes | None] | None = None, tensors: dict[str, Sequence[int] | None] | None = None, kind: int = 0
) -> bytes:
    """A whole float32 model of two blocks; ``keys`` and ``tensors`` change, add or (None) leave out some."""
    pairs = [pair for pair in (LLAMA_KEYS | (keys or {})).values() if pair is not None]
    infos, offset = [], 0
    for name, dims in (LLAMA_TENSORS | (tensors or {})).items():
        if dims is not None:
            infos.append(info(name, dims, kind, offset))
            offset += int(np.prod(dims)) * 4 + -int(np.prod(dims)) * 4 % 32
    return gguf(pairs, infos, bytes(offset))


# What is allowed.


@pytest.mark.parametrize(
    "value",
    [
        Value(ValueType.UINT8, 200),
        Value(ValueType.INT8, -3),
        Value(ValueType.UINT16, 60000),
        Value(ValueType.INT16, -300),
        Value(ValueType.UINT32, 2**32 - 1),
        Value(ValueType.INT32, -(2**31)),
        Value(ValueType.UINT64, 2**64 - 1),
        Value(ValueType.INT64, -(2**63)),
        Value(ValueType.FLOAT32, 0.5),
        Value(ValueType.FLOAT64, 0.1),
        Value(ValueType.BOOL, True),
        Value(ValueType.STRING, "naïve ▁"),
        Value(ValueType.STRING, b"\xff\xfe"),
        Value(ValueType.ARRAY, [1, 2, 3], ValueType.INT32),
        Value(ValueType.ARRAY, [True, False], ValueType.BOOL),
        Value(ValueType.ARRAY, ["a", "", b"\x80", "▁b"], ValueType.STRING),
        Value(ValueType.ARRAY, [], ValueType.FLOAT32),
    ],
)
def test_every_kind_of_value_comes_back_as_it_was_written(value: Value, tmp_path: Path):
    found = open_gguf(written(tmp_path / "a.gguf", gguf([text("the.key") + encoded_value(value)])))
    assert found.keys == {"the.key": value}
    assert type(found.keys["the.key"].data) is type(value.data)


@pytest.mark.parametrize("version", [2, 3])
def test_tensors_are_read_by_rows_wherever_they_lie(version: int, tmp_path: Path):
    first = np.arange(12, dtype=np.float32).reshape(3, 4)
    second = np.arange(64, dtype=np.uint16).reshape(2, 32)
    data = second.tobytes() + first.tobytes()  # the file's order is not the header's
    content = gguf([], [info("a", (4, 3), 0, 128), info("b", (32, 2), 30, 0)], data, version=version)
    found = open_gguf(written(tmp_path / "a.gguf", content))
    assert {name: (one.shape, one.dtype) for name, one in found.infos.items()} == {
        "a": ((3, 4), F32),
        "b": ((2, 32), BF16),
    }
    assert found.read("a").tolist() == first.tolist()
    assert found.read("a", 1, 2).tolist() == first[1:2].tolist()
    assert found.read("b", 1).tolist() == second[1:].tolist()
    assert found.extent("a") == Extent(tmp_path / "a.gguf", len(content) - 48, 48)
    assert pickle.loads(pickle.dumps(found)).read("b").tolist() == second.tolist()


def test_rows_of_blocks_are_their_bytes(tmp_path: Path):
    raw = bytes(range(2 * 34 * 2))
    found = open_gguf(written(tmp_path / "a.gguf", gguf([], [info("q", (64, 2), 8, 0)], raw)))
    assert found["q"].dtype == ggml_type("q8_0")
    assert found.read("q", 1, 2).tobytes() == raw[68:]


def test_another_alignment_is_heeded(tmp_path: Path):
    keys = [u32("general.alignment", 128)]
    infos = [info("a", (1,), 1, 0), info("b", (1,), 1, 128)]
    content = gguf(keys, infos, b"\x00\x3c".ljust(128, b"\0") + b"\x00\x40", alignment=128)
    found = open_gguf(written(tmp_path / "a.gguf", content))
    assert (found["a"].dtype, found.array("a").tolist(), found.array("b").tolist()) == (F16, [1.0], [2.0])


def test_long_vocabularies_are_read_across_the_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codec, "CHUNK", 61)
    tokens = ["x" * (n % 90) for n in range(500)]
    value = Value(ValueType.ARRAY, tokens, ValueType.STRING)
    found = open_gguf(written(tmp_path / "a.gguf", gguf([text("t") + encoded_value(value), u32("after", 7)])))
    assert found.keys["t"].data == tokens
    assert found.keys["after"].data == 7


def split(folder: Path, *, count: int = 2, total: int = 2, missing: int | None = None) -> Path:
    for number in range(1, count + 1):
        keys = [
            key("split.no", 2, struct.pack("<H", number - 1)),
            key("split.count", 2, struct.pack("<H", count)),
            key("split.tensors.count", 5, struct.pack("<i", total)),
        ]
        if number != missing:
            content = gguf(keys, [info(f"t{number}", (1,), 0, 0)], struct.pack("<f", number))
            (folder / f"m-{number:05d}-of-{count:05d}.gguf").write_bytes(content)
    return folder / f"m-00001-of-{count:05d}.gguf"


def test_the_parts_of_a_split_file_are_one(tmp_path: Path):
    found = open_gguf(split(tmp_path))
    assert [found.array(name).tolist() for name in found] == [[1.0], [2.0]]
    assert found.files == set(tmp_path.iterdir())


def test_a_split_file_lacks_nothing(tmp_path: Path):
    assert "m-00002-of-00003.gguf" in str(refusal_of(lambda: open_gguf(split(tmp_path, count=3, total=3, missing=2))))
    assert "hold 2 tensors of 5" in str(refusal_of(lambda: open_gguf(split(tmp_path, total=5))))
    second = refusal_of(lambda: open_gguf(tmp_path / "m-00002-of-00002.gguf"))
    assert second is not None
    assert second.hint == "give the first part"
    renamed = (tmp_path / "m-00001-of-00002.gguf").rename(tmp_path / "model.gguf")
    assert "does not say which" in str(refusal_of(lambda: open_gguf(renamed)))


# What is not.

ONE = [info("a", (4, 2), 0, 0)]
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a GGUF"),
    "another format": (b"\x80\x02}q\x00." * 10, "not a GGUF"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
    "version 1": (gguf(version=1), "GGUF version 1"),
    "version 9": (gguf(version=9), "GGUF version 9"),
    "big-endian": (gguf(version=3 << 24), "big-endian"),
    "too many keys": (gguf([u32("a", 1)], pairs=2**40), "claims 1099511627776 things"),
    "too many tensors": (gguf(tensors=2**63), "claims 9223372036854775808 things"),
    "a count of keys past the end": (gguf([u32("a", 1)], pairs=9), "the key '' is there twice"),
    "a count of tensors past the end": (gguf([], ONE, bytes(32), tensors=4), "the tensor '' is there twice"),
    "a key twice": (gguf([u32("a", 1), u32("a", 2)]), "the key 'a' is there twice"),
    "a tensor twice": (gguf([], [*ONE, info("a", (4, 2), 0, 32)], bytes(64)), "the tensor 'a' is there twice"),
    "a value of no type": (gguf([key("a", 13, b"")]), "the unknown type 13"),
    "a list of no type": (gguf([key("a", ARRAY, struct.pack("<IQ", 99, 0))]), "the unknown type 99"),
    "a list of lists": (gguf([key("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]), "an array of arrays"),
    "an endless list": (gguf([key("a", ARRAY, struct.pack("<IQ", 0, 2**62))]), "claims"),
    "an endless text": (gguf([key("a", STRING, struct.pack("<Q", 2**63))]), "claims"),
    "a text past the end": (gguf([key("a", STRING, struct.pack("<Q", 60))]), "where the file ends"),
    "a key that is no text": (gguf([key(b"\xff\xfe", U32, bytes(4))]), "is not UTF-8"),
    "a tensor's name that is no text": (gguf([], [info(b"\xc3", (4, 2), 0, 0)], bytes(32)), "is not UTF-8"),
    "five axes": (gguf([], [info("a", (1, 1, 1, 1, 1), 0, 0)], bytes(32)), "claims 5 axes"),
    "2³² axes": (gguf([], [text("a") + struct.pack("<I", 2**32 - 1)], bytes(64)), "axes"),
    "an unknown type": (gguf([], [info("a", (4, 2), 77, 0)], bytes(32)), "the type 77"),
    "a removed type": (gguf([], [info("a", (4, 2), 4, 0)], bytes(32)), "the type 4"),
    "too many elements": (
        gguf([], [info("a", (2**32, 2**32), 0, 0)], bytes(32)),
        "more elements than can be addressed",
    ),
    "part of a block": (gguf([], [info("a", (48, 2), 8, 0)], bytes(128)), "no multiple of Q8_0's block"),
    "an odd offset": (gguf([], [info("a", (4, 2), 0, 4)], bytes(64)), "not aligned to 32"),
    "an offset past the end": (gguf([], [info("a", (4, 2), 0, 2**40)], bytes(64)), "'a' is cut off"),
    "an offset past all": (gguf([], [info("a", (4, 2), 0, 2**63)], bytes(64)), "more elements than can be addressed"),
    "tensors over each other": (gguf([], [*ONE, info("b", (4, 2), 0, 0)], bytes(64)), "'a' overlaps 'b'"),
    "tensors into each other": (
        gguf([], [info("a", (4, 4), 0, 0), info("b", (4, 2), 0, 32)], bytes(96)),
        "'a' overlaps 'b'",
    ),
    "a cut tensor": (gguf([], ONE, bytes(31)), "'a' is cut off"),
    "an alignment of 0": (gguf([u32("general.alignment", 0)]), "general.alignment is 0"),
    "an alignment of 24": (gguf([u32("general.alignment", 24)]), "general.alignment is 24"),
    "an alignment in words": (gguf([string("general.alignment", "32")]), "general.alignment is '32'"),
    "parts in words": (gguf([string("split.count", "two")]), "split.count is no number"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_words(name: str, tmp_path: Path):
    content, words = BROKEN[name]
    path = written(tmp_path / "broken.gguf", content)
    with pytest.raises((FormatError, NotFetchedError, UnsupportedError)) as caught:
        open_gguf(path)
    assert words in caught.value.message
    assert str(path) in caught.value.message


def test_what_is_no_file_is_refused(tmp_path: Path):
    with pytest.raises(NotFoundError):
        open_gguf(tmp_path / "none.gguf")
    with pytest.raises(FormatError, match="not a regular file"):
        open_gguf(tmp_path)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path):
    keys = [u32("a", 1), string("b", "words"), key("c", ARRAY, struct.pack("<IQ", STRING, 2) + text("x") + text("yz"))]
    keys.append(key("d", ARRAY, struct.pack("<IQ3I", U32, 3, 1, 2, 3)))
    whole = gguf(keys, [*ONE, info("b", (32,), 8, 32)], bytes(32 + 34))
    path = tmp_path / "cut.gguf"
    assert refusal_of(lambda: open_gguf(written(path, whole))) is None
    accepted = [n for n in range(len(whole)) if refusal_of(lambda n=n: open_gguf(written(path, whole[:n]))) is None]
    assert accepted == []


def test_limits_hold_for_headers_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codec, "HEADER_LIMIT", 4096)
    path = written(tmp_path / "a.gguf", gguf([string(f"key.{n}", "x" * 1000) for n in range(9)], [], bytes(9999)))
    assert "claims more than 4096 bytes" in str(refusal_of(lambda: open_gguf(path)))


# A model's metadata and its tensors.

LYING: dict[str, tuple[Callable[[], bytes], str]] = {
    "no architecture": (lambda: llama({"general.architecture": None}), "no general.architecture"),
    "a strange architecture": (
        lambda: llama({"general.architecture": string("general.architecture", "perceptron")}),
        "'perceptron' cannot be read back",
    ),
    "an architecture that is no text": (
        lambda: llama({"general.architecture": string("general.architecture", b"\xff")}),
        "general.architecture is not UTF-8",
    ),
    "an adapter": (lambda: llama({"general.type": string("general.type", "adapter")}), "of the type 'adapter'"),
    "no blocks": (lambda: llama({"llama.block_count": u32("llama.block_count", 0)}), "llama.block_count is 0"),
    "too many blocks": (lambda: llama({"llama.block_count": u32("llama.block_count", 3)}), "is 3, and 2 blocks"),
    "endless blocks": (
        lambda: llama({"llama.block_count": u32("llama.block_count", 2**31)}),
        "llama.block_count is 2147",
    ),
    "too few blocks": (lambda: llama({"llama.block_count": u32("llama.block_count", 1)}), "is 1, and 2 blocks"),
    "blocks in words": (
        lambda: llama({"llama.block_count": string("llama.block_count", "2")}),
        "where a count belongs",
    ),
    "no width": (lambda: llama({"llama.embedding_length": None}), "no llama.embedding_length"),
    "another width": (lambda: llama({"llama.embedding_length": u32("llama.embedding_length", 64)}), "by the metadata"),
    "an endless width": (
        lambda: llama({"llama.embedding_length": u32("llama.embedding_length", 2**30)}),
        "the file holds",
    ),
    "no heads": (
        lambda: llama({"llama.attention.head_count": u32("llama.attention.head_count", 0)}),
        "llama.attention.head_count is 0",
    ),
    "heads of different number": (
        lambda: llama(
            {"llama.attention.head_count": key("llama.attention.head_count", ARRAY, struct.pack("<IQ2I", U32, 2, 4, 2))}
        ),
        "differs from layer to layer",
    ),
    "heads that do not divide": (
        lambda: llama({"llama.attention.head_count": u32("llama.attention.head_count", 7)}),
        "by the metadata",
    ),
    "other value heads": (
        lambda: llama(
            {
                "a": u32("llama.attention.key_length", 8),
                "b": u32("llama.attention.value_length", 16),
            }
        ),
        "llama.attention.value_length is 16",
    ),
    "an epsilon that is no number": (
        lambda: llama(
            {"llama.attention.layer_norm_rms_epsilon": f32("llama.attention.layer_norm_rms_epsilon", float("nan"))}
        ),
        "layer_norm_rms_epsilon is nan",
    ),
    "a base in words": (
        lambda: llama({"llama.rope.freq_base": string("llama.rope.freq_base", "10000")}),
        "where a number belongs",
    ),
    "experts that are not there": (
        lambda: llama({"llama.expert_count": u32("llama.expert_count", 8)}),
        "8 experts, and no tensor",
    ),
    "a scaling nobody knows": (
        lambda: llama({"llama.rope.scaling.type": string("llama.rope.scaling.type", "magic")}),
        "'magic'",
    ),
    "factors of no scaling": (lambda: llama(tensors={"rope_freqs.weight": (4,)}), "rope_freqs.weight holds"),
    "no embedding": (lambda: llama(tensors={"token_embd.weight": None}), "no matrix token_embd.weight"),
    "a missing tensor": (lambda: llama(tensors={"blk.1.ffn_up.weight": None}), "no tensor blk.1.ffn_up.weight"),
    "a stranger": (lambda: llama(tensors={"blk.1.attn_sinks.weight": (4,)}), "blk.1.attn_sinks.weight"),
    "another shape": (
        lambda: llama(tensors={"blk.1.ffn_up.weight": (HIDDEN, WIDTH)}),
        "blk.1.ffn_up.weight is (32, 64)",
    ),
    "products": (lambda: llama(kind=9), "Q8_1, which is no type of weights"),
    "integers": (lambda: llama(kind=26), "I32"),
}


def test_the_model_that_is_lied_about_is_sound(tmp_path: Path):
    folder = model_folder(written(tmp_path / "sound.gguf", llama()))
    assert (folder.config["model_type"], len(folder.store)) == ("llama", len(LLAMA_TENSORS))


@pytest.mark.parametrize("name", LYING)
def test_metadata_that_lie_are_refused_in_words(name: str, tmp_path: Path):
    content, words = LYING[name]
    path = written(tmp_path / "lying.gguf", content())
    with pytest.raises(AdaptoolError) as caught:
        model_folder(path)
    assert words in caught.value.message
    assert str(path) in caught.value.message


HOSTILE_NUMBERS = (0, 1, 2**20, 2**31 - 1, 2**32 - 1, 2**40, 2**62 + 1, 2**63, 2**64 - 1)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_a_header_is_more_than_an_error(seed: int, tmp_path: Path):
    whole = llama(
        {
            "tokens": key(
                "tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 3) + text("a") + text("b") + text("")
            ),
            "name": string("general.name", "a model"),
            "eos": u32("tokenizer.ggml.eos_token_id", 2),
        }
    )
    header = len(whole) - sum(4 * int(np.prod(dims)) + -4 * int(np.prod(dims)) % 32 for dims in LLAMA_TENSORS.values())
    draw, path = random.Random(seed), tmp_path / "damaged.gguf"
    for _ in range(250):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 4))):
            at, length = draw.randrange(header), draw.choice((1, 4, 8))
            number = draw.choice((*HOSTILE_NUMBERS, draw.getrandbits(64)))
            damaged[at : at + length] = number.to_bytes(9, "little")[:length]
        written(path, bytes(damaged))
        refusal_of(lambda: [folder.store.read(name) for folder in [model_folder(path)] for name in folder.store])
