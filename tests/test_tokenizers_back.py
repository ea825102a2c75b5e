"""A GGUF's tokenizer as a folder's files: the ids that ``tokenizers`` gives are those of before, and llama.cpp's."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from adaptool.errors import FormatError, NotFoundError, UnsupportedError
from adaptool.tensors.ggml.values import Value, ValueType, array, boolean, f32, text, u32
from adaptool.tokenizers import Style, tokenizer_files, tokenizer_keys
from adaptool.tokenizers.families import BY_NAME, FAMILIES, UNSPLIT, Family
from adaptool.tokenizers.rebuild_bpe import pre_tokenizer
from adaptool.tokenizers.sentencepiece import parse_sentencepiece

MIXED = """def foo(x):
    return x**2 + 12345678 - 0.001e10  # naïve café
\r\n\tHello,   world!!  I'LL we've DON'T it's  \n   x = {'a': [1,2,3]};;  camelCase HTTPServer  ４５６ ²³½ Ⅻ
日本語テキスト、漢字とカタカナ。한국어 문장입니다. 中文，标点。 русский ελληνικά עברית العربية हिन्दी ไทย
😀👩‍👩‍👧‍👦🏳️‍🌈 a  b   c    d     e\t\tf\n\n\n   3 33 333 3333 ------====''''''```\"\"\"......!!!!?? trailing   """
"""Code, contractions, digits, runs of spaces, many scripts and emoji: what pre-tokenizers differ in."""

CORPUS = [*MIXED.splitlines(keepends=True), *(MIXED[start : start + 40] for start in range(0, len(MIXED), 9))] * 2
VOCABULARY = 600

needs_runtime = pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs adaptool[runtime]: xllamacpp")


def changed(tokenizer: Tokenizer, **parts: Any) -> Tokenizer:
    """A tokenizer with parts of its serialisation replaced; ``model`` is merged into the model."""
    whole = json.loads(tokenizer.to_str())
    whole["model"] |= parts.pop("model", {})
    return Tokenizer.from_str(json.dumps(whole | parts))


def trained(family: Family) -> Tokenizer:
    """A small byte-level BPE that splits as ``family`` does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer = changed(tokenizer, pre_tokenizer=pre_tokenizer(family))
    special = ["<s>", "</s>", *([family.marker] if family.marker else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["<user>"])
    return changed(tokenizer, model={"ignore_merges": family.ignore_merges})


def saved(folder: Path, tokenizer: Tokenizer, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"} | settings))
    return folder


def rebuilt(folder: Path, keys: dict[str, Value]) -> Tokenizer:
    """The tokenizer of ``keys`` written to ``folder`` and read by the ``tokenizers`` library."""
    for name, content in tokenizer_files(keys).items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def ids(tokenizer: Tokenizer, words: str = MIXED, *, special: bool = False) -> list[int]:
    return tokenizer.encode(words, add_special_tokens=special).ids


def plain(keys: dict[str, Value]) -> dict[str, Any]:
    return {key: list(value.data) if value.kind is ValueType.ARRAY else value.data for key, value in keys.items()}


def into(folder: Path, keys: dict[str, Value], style: Style) -> dict[str, Value]:
    """``keys`` again, from the files they were written to."""
    rebuilt(folder, keys)
    size = len(keys["tokenizer.ggml.tokens"].data)
    return tokenizer_keys(folder, vocab_size=size, style=style, config={})


@pytest.mark.parametrize("family", dict.fromkeys(BY_NAME.values()), ids=lambda family: family.names[0])
def test_byte_level_tokenizers_come_back(family: Family, tmp_path: Path):
    before = trained(family)
    folder = saved(tmp_path / "before", before, clean_up_tokenization_spaces=family.clean_spaces)
    keys = tokenizer_keys(folder, vocab_size=VOCABULARY + 4, style=Style.BPE, config={})
    keys["tokenizer.ggml.pre"] = text(family.names[0])
    after = rebuilt(tmp_path / "after", keys)
    if family.nfc:
        after.normalizer = normalizers.Sequence([])
    assert ids(before) == ids(after)
    assert ids(before, "a <s>b<user> c") == ids(after, "a <s>b<user> c")
    assert after.decode(ids(after)) == MIXED
    again = into(tmp_path / "after", keys, Style.BPE)
    assert (plain(keys) | {"tokenizer.ggml.pre": ""}).items() <= (plain(again) | {"tokenizer.ggml.pre": ""}).items()


@pytest.mark.parametrize("name", UNSPLIT[:2])
def test_a_split_that_is_not_a_pattern_is_refused(name: str):
    with pytest.raises(UnsupportedError, match=name) as caught:
        tokenizer_files(small("gpt2", pre=name))
    assert caught.value.hint


TYPES = {"<unk>": 2, "<s>": 3, "</s>": 3, "<user>": 4, "[PAD9]": 5}


def small(model: str, *tokens: str, pre: str = "default", **more: Value) -> dict[str, Value]:
    """Keys of a few tokens."""
    texts = list(tokens) or ["<unk>", "<s>", "</s>", "a", "b", "ab", "▁", "▁ab", "<user>", "[PAD9]"]
    keys = {"model": text(model), "pre": text(pre), "tokens": array(ValueType.STRING, texts)}
    keys["token_type"] = array(ValueType.INT32, [TYPES.get(token, 1) for token in texts])
    keys["scores"] = array(ValueType.FLOAT32, [-float(number) for number in range(len(texts))])
    return {f"tokenizer.ggml.{name}": value for name, value in (keys | more).items()}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ["a"]),
        ({"add_bos_token": True}, ["<s>", "a"]),
        ({"add_bos_token": True, "add_eos_token": True}, ["<s>", "a", "</s>"]),
        ({"add_bos_token": False, "add_eos_token": True}, ["a", "</s>"]),
        ({"add_bos_token": True, "add_eos_token": True, "add_sep_token": True}, ["<s>", "a", "</s>"]),
    ],
)
def test_what_is_put_around_a_text_comes_back(flags: dict[str, bool], expected: list[str], tmp_path: Path):
    more = {name: boolean(flag) for name, flag in flags.items()}
    keys = small("gpt2", "<s>", "</s>", "a", "b", "ab", pre="gpt-2", bos_token_id=u32(0), eos_token_id=u32(1), **more)
    keys["tokenizer.ggml.merges"] = array(ValueType.STRING, ["a b"])
    del keys["tokenizer.ggml.scores"]
    after = rebuilt(tmp_path, keys)
    assert expected == after.encode("a").tokens
    again = into(tmp_path, keys, Style.BPE)
    assert flags.items() <= {key.removeprefix("tokenizer.ggml."): value.data for key, value in again.items()}.items()


def test_llama3_adds_its_bos_where_the_file_is_silent(tmp_path: Path):
    keys = small("gpt2", "<s>", "</s>", "a", pre="llama-bpe", bos_token_id=u32(0))
    assert rebuilt(tmp_path, keys).encode("a").tokens == ["<s>", "a"]


PIECES = [
    "▁w",
    "or",
    "▁wor",
    "ld",
    "▁world",
    "he",
    "ll",
    "▁t",
    "ra",
    "▁tra",
    "il",
    "in",
    "ing",
    "camel",
    "ca",
    "me",
    "▁x",
    "re",
    "tu",
    "rn",
    "▁▁",
    "▁▁▁▁",
    "33",
    "語",
    "日本",
    "русс",
    "ру",
    "сс",
    "é",
]


def sentencepiece_like(prefix: bool) -> Tokenizer:
    """What transformers makes of a Llama 2 tokenizer.model: each way to make a piece is a merge, in their order."""
    letters = sorted({letter for piece in PIECES for letter in piece} | set("defoHW(),!'0123456789 =\n") - {" "})
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    longer = [piece for piece in PIECES if len(piece) > 1]
    vocab = {token: number for number, token in enumerate([*special, *longer, *letters])}
    ways = [(piece[:cut], piece[cut:]) for piece in longer for cut in range(1, len(piece))]
    merges = [way for way in ways if way[0] in vocab and way[1] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replaced = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if prefix else replaced
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(special[:3])
    return tokenizer


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_comes_back_with_its_ids_and_its_model_file(prefix: bool, tmp_path: Path):
    before = sentencepiece_like(prefix)
    folder = saved(tmp_path / "before", before, add_bos_token=True, unk_token="<unk>")
    keys = tokenizer_keys(folder, vocab_size=910, style=Style.LLAMA, config={})
    after = rebuilt(tmp_path / "after", keys)
    assert ids(before) == ids(after)
    assert before.token_to_id("<s>") == ids(after, special=True)[0]
    model = parse_sentencepiece((tmp_path / "after" / "tokenizer.model").read_bytes(), "x")
    assert keys["tokenizer.ggml.tokens"].data[: before.get_vocab_size()] == [piece.text for piece in model.pieces]
    assert (2, prefix) == (model.model_type, model.add_dummy_prefix)
    again = plain(into(tmp_path / "after", keys, Style.LLAMA))
    for name in ("tokens", "token_type", "add_space_prefix", "bos_token_id", "add_bos_token"):
        key = f"tokenizer.ggml.{name}"
        assert plain(keys).get(key) == again.get(key)
    normal = np.array(plain(keys)["tokenizer.ggml.token_type"]) == 1
    scores = [np.float32(found["tokenizer.ggml.scores"])[normal] for found in (plain(keys), again)]
    np.testing.assert_array_equal(*scores)


def test_lost_scores_are_regained_from_the_ids(tmp_path: Path):
    keys = small("llama", scores=array(ValueType.FLOAT32, [-1000.0] * 10))
    merges = json.loads(tokenizer_files(keys)["tokenizer.json"])["model"]["merges"]
    assert merges == ["a b", "▁ ab"]


def test_sentencepiece_can_load_the_model_file(tmp_path: Path):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = saved(tmp_path / "before", sentencepiece_like(True), unk_token="<unk>")
    keys = tokenizer_keys(folder, vocab_size=900, style=Style.LLAMA, config={})
    after = rebuilt(tmp_path / "after", keys)
    loaded = sentencepiece.SentencePieceProcessor()
    loaded.LoadFromFile(str(tmp_path / "after" / "tokenizer.model"))
    assert ids(after) == loaded.encode(MIXED)


def test_wordpiece_comes_back(tmp_path: Path):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    before = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    before.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=None)
    before.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    before.decoder = decoders.WordPiece()
    before.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    frame = [("[CLS]", 2), ("[SEP]", 3)]
    before.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=frame)
    names = {"cls": "[CLS]", "sep": "[SEP]", "unk": "[UNK]", "pad": "[PAD]", "mask": "[MASK]"}
    folder = saved(tmp_path / "before", before, **{f"{role}_token": name for role, name in names.items()})
    (folder / "tokenizer_config.json").write_text(json.dumps({f"{role}_token": name for role, name in names.items()}))
    keys = tokenizer_keys(folder, vocab_size=304, style=Style.WPM, config={"type_vocab_size": 2})
    after = rebuilt(tmp_path / "after", keys)
    assert ids(before, special=True) == ids(after, special=True)
    assert before.encode("one", "two").type_ids == after.encode("one", "two").type_ids
    again = tokenizer_keys(tmp_path / "after", vocab_size=304, style=Style.WPM, config={"type_vocab_size": 2})
    assert plain(keys) == plain(again)


def test_unigram_comes_back(tmp_path: Path):
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    before = Tokenizer(models.Unigram())
    before.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    before.decoder = decoders.Metaspace()
    before.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    frame = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    before.post_processor = frame
    folder = saved(tmp_path / "before", before, unk_token="<unk>", pad_token="<pad>")
    size = before.get_vocab_size() + 3
    keys = tokenizer_keys(folder, vocab_size=size, style=Style.UNIGRAM, config={})
    after = rebuilt(tmp_path / "after", keys)
    assert ids(before, special=True) == ids(after, special=True)
    again = plain(into(tmp_path / "after", keys, Style.UNIGRAM))
    assert plain(keys) == {key: value for key, value in again.items() if key in keys}


def test_gemma4_works_on_whole_lines(tmp_path: Path):
    keys = small("gemma4", "<unk>", "a", "b", "▁", "\n", "ab", "▁ab", "\n\n", unknown_token_id=u32(0))
    keys["tokenizer.ggml.merges"] = array(ValueType.STRING, ["a b", "▁ ab", "\n \n"])
    assert rebuilt(tmp_path, keys).encode(" ab\n\nab ").tokens == ["▁ab", "\n\n", "ab", "▁"]


def test_transformers_loads_the_files_and_their_templates(tmp_path: Path):
    from transformers import AutoTokenizer

    keys = small("llama", bos_token_id=u32(1), eos_token_id=u32(2), add_bos_token=boolean(True))
    keys |= {
        "tokenizer.chat_template": text("{{ bos_token }}{{ messages[0].content }}"),
        "tokenizer.chat_template.tool_use": text("tools"),
        "tokenizer.chat_template.../evil": text("x"),
    }
    rebuilt(tmp_path, keys)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "chat_template.jinja",
        "tool_use.jinja",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode("ab") == [1, 7]
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id) == (1, 2, 0)
    assert loaded.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "<s>ab"
    assert "token_type_ids" not in loaded("ab")


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"model": None}, NotFoundError, "no tokenizer"),
        ({"tokens": None}, NotFoundError, "no vocabulary"),
        ({"model": text("rwkv")}, UnsupportedError, "'rwkv'"),
        ({"model": u32(3)}, FormatError, "a UINT32 where a STRING"),
        ({"tokens": array(ValueType.INT32, [1])}, FormatError, "not a list of STRING"),
        ({"tokens": array(ValueType.STRING, [b"\xff"])}, FormatError, "token 0 is not UTF-8"),
        ({"tokens": array(ValueType.STRING, ["a", "a"])}, UnsupportedError, "same text"),
        ({"token_type": array(ValueType.INT32, [1])}, FormatError, "1 entries for 10 tokens"),
        ({"scores": f32(1.0)}, FormatError, "not a list of FLOAT32"),
        ({"add_bos_token": u32(1)}, FormatError, "a UINT32 where a BOOL"),
        ({"bos_token_id": text("<s>")}, FormatError, "a STRING where a UINT32"),
    ],
)
def test_broken_keys_say_so(change: dict[str, Value | None], kind: type, said: str):
    changes = {f"tokenizer.ggml.{name}": value for name, value in change.items()}
    keys = {name: value for name, value in (small("llama") | changes).items() if value is not None}
    with pytest.raises(kind, match=said):
        tokenizer_files(keys)


def model_file(path: Path, keys: dict[str, Value]) -> Path:
    """A one-layer Llama with this tokenizer, written by the gguf package, that llama.cpp will load."""
    import gguf

    width, size = 32, len(keys["tokenizer.ggml.tokens"].data)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(size)
    for key, value in keys.items():
        element = gguf.GGUFValueType(int(value.element)) if value.element is not None else None
        content = list(value.data) if element is not None else value.data
        writer.add_key_value(key, content, gguf.GGUFValueType(int(value.kind)), sub_type=element)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {"token_embd": (size, width), "output": (size, width), "output_norm": (width,)}
    shapes |= {f"blk.0.{name}": (width, width) for name in square}
    shapes |= {f"blk.0.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SEEN = ("gpt-2", "starcoder", "llama-bpe", "qwen2", "qwen35", "gpt-4o", "tekken", "deepseek-v3", "falcon", "bloom")


MARKLESS = ("gpt-4o", "tekken")
"""llama.cpp's own spelling of these patterns leaves combining marks outside words."""


@needs_runtime
@pytest.mark.parametrize("name", SEEN)
def test_llama_cpp_gives_the_same_ids(name: str, tmp_path: Path):
    from adaptool.parity.runtime import open_runtime

    family = next(family for family in FAMILIES if name in family.names)
    tokenizer = trained(family)
    folder = saved(tmp_path / "folder", tokenizer, clean_up_tokenization_spaces=family.clean_spaces)
    keys = tokenizer_keys(folder, vocab_size=VOCABULARY + 1, style=Style.BPE, config={})
    with open_runtime(model_file(tmp_path / "x.gguf", keys), threads=1) as runtime:
        words = MIXED.replace("हिन्दी", "") if name in MARKLESS else MIXED
        assert ids(tokenizer, words) == runtime.tokenize(words, add_special=False)
        assert ids(tokenizer, "a<user> b</s>") == runtime.tokenize("a<user> b</s>", add_special=False)


@needs_runtime
@pytest.mark.parametrize("prefix", [True, False])
def test_llama_cpp_gives_the_same_pieces_without_a_model_file(prefix: bool, tmp_path: Path):
    from adaptool.parity.runtime import open_runtime

    tokenizer = sentencepiece_like(prefix)
    folder = saved(tmp_path / "folder", tokenizer, unk_token="<unk>")
    keys = tokenizer_keys(folder, vocab_size=900, style=Style.LLAMA, config={})
    with open_runtime(model_file(tmp_path / "x.gguf", keys), threads=1) as runtime:
        assert ids(tokenizer) == runtime.tokenize(MIXED, add_special=False)
