"""Which type each tensor gets: what ``llama-quantize --dry-run`` (llama.cpp b11434) prints, tensor for tensor."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from adaptool.errors import FormatError, UsageError
from adaptool.gguf.imatrix import Imatrix
from adaptool.gguf.mixture_rules import ALL, MIXTURES
from adaptool.gguf.mixtures import Choice, ModelShape, choose, fitted, kept, quantize_order
from adaptool.gguf.places import model_shape
from adaptool.gguf.recipe import (
    ALIASES,
    FILE_TYPES,
    Recipe,
    parse_overrides,
    parse_recipes,
    quantized_keys,
)
from adaptool.tensors.dtypes import BF16, F32
from adaptool.tensors.ggml.types import ggml_type
from adaptool.tensors.ggml.values import ValueType, array, text, u32
from adaptool.tensors.store import TensorInfo

Model = tuple[list[TensorInfo], ModelShape]


class EveryTensor(Imatrix):
    """An imatrix that measured everything: only that there is one counts here."""

    def fits(self, tensor_name: str, columns: int, experts: int = 1) -> bool:
        return True


IMATRIX = EveryTensor(Path("all.gguf"), {})


def model(
    arch: str,
    layers: int,
    heads: tuple[int, int],
    width: int = 512,
    hidden: int = 1024,
    experts: int = 0,
    leave: str = "",
    fused: bool = False,
    apart: bool = False,
) -> Model:
    """A model's tensors: ``leave`` names the kinds it has not, ``fused`` joins q, k and v, ``apart`` splits experts."""
    key_rows = width // heads[0] * heads[1]
    matrices = {"attn_output": (width, width), "attn_q": (width, width)}
    matrices |= {"attn_k": (key_rows, width), "attn_v": (key_rows, width)}
    if fused:
        matrices = {"attn_output": (width, width), "attn_qkv": (width + 2 * key_rows, width)}
    feed = {"ffn_gate": (hidden, width), "ffn_up": (hidden, width), "ffn_down": (width, hidden)}
    if apart:
        matrices |= {f"{name}.{number}": shape for name, shape in feed.items() for number in range(experts)}
    elif experts:
        matrices |= {f"{name}_exps": (experts, *shape) for name, shape in feed.items()}
    else:
        matrices |= feed
    vectors = ("attn_norm", "ffn_norm", "attn_q_norm")

    def tensors() -> Iterator[TensorInfo]:
        for name in ("token_embd", "output"):
            yield TensorInfo(f"{name}.weight", BF16, (1000, width))
        yield TensorInfo("output_norm.weight", F32, (width,))
        yield TensorInfo("position_embd.weight", F32, (128, width))
        yield TensorInfo("token_types.weight", F32, (2, width))
        for layer in range(layers):
            for name, shape in matrices.items():
                yield TensorInfo(f"blk.{layer}.{name}.weight", BF16, shape)
            for name in vectors:
                yield TensorInfo(f"blk.{layer}.{name}.weight", F32, (width,))
            yield TensorInfo(f"blk.{layer}.ffn_down.bias", F32, (width,))
            if experts:
                yield TensorInfo(f"blk.{layer}.ffn_gate_inp.weight", F32, (experts, width))

    gone = leave.split()
    has = [info for info in tensors() if not any(info.name in (f"{name}.weight", name) for name in gone)]
    if "ffn_gate" in gone:
        has = [info for info in has if "ffn_gate" not in info.name]
    return has, ModelShape(arch, layers, *heads, experts)


MODELS: Mapping[str, Model] = {
    "llama, shared heads": model("llama", 32, (8, 2)),
    "llama, 16 layers": model("llama", 16, (8, 8)),
    "llama, tied": model("llama", 22, (8, 4), leave="output"),
    "llama, one layer": model("llama", 1, (8, 8)),
    "llama, seven layers": model("llama", 7, (8, 2)),
    "SmolLM2": model("llama", 30, (9, 3), 576, 1536, leave="output"),
    "576 and 1000 columns": model("llama", 9, (9, 3), 576, 1000),
    "48 and 80 columns": model("llama", 3, (4, 2), 48, 80, leave="output"),
    "80 and 52 columns": model("llama", 2, (4, 1), 80, 52),
    "96 and 288 columns": model("llama", 5, (4, 1), 96, 288),
    "llama 70B": model("llama", 80, (64, 8), 1024),
    "llama 65B": model("llama", 80, (8, 8)),
    "llama, 80 layers, 8 experts": model("llama", 80, (8, 4), experts=8),
    "qwen2 72B": model("qwen2", 80, (8, 8)),
    "qwen2": model("qwen2", 24, (14, 2), 896, 4864, leave="output"),
    "qwen3": model("qwen3", 36, (8, 2)),
    "qwen3moe": model("qwen3moe", 48, (8, 1), 512, 256, experts=128),
    "qwen2moe": model("qwen2moe", 24, (8, 8), 512, 256, experts=60),
    "mixtral": model("llama", 32, (8, 2), experts=8),
    "mixtral, experts apart": model("llama", 16, (8, 2), experts=8, apart=True),
    "four experts": model("llama", 16, (8, 8), experts=4),
    "eight experts, 576 columns": model("llama", 10, (9, 3), 576, 320, experts=8),
    "gemma": model("gemma", 18, (8, 1), leave="output"),
    "gemma2": model("gemma2", 26, (8, 4), leave="output"),
    "gemma3, 1152 columns": model("gemma3", 26, (4, 1), 1152, 6912, leave="output"),
    "phi3": model("phi3", 32, (8, 8), leave="ffn_gate", fused=True),
    "gpt2": model("gpt2", 12, (12, 12), 768, 3072, leave="output ffn_gate", fused=True),
    "gptneox": model("gptneox", 16, (8, 8), leave="ffn_gate", fused=True),
    "falcon": model("falcon", 32, (8, 1), leave="ffn_gate", fused=True),
    "falcon 40B": model("falcon", 60, (16, 8), 1024, 4096, leave="output ffn_gate", fused=True),
    "starcoder2": model("starcoder2", 30, (8, 2), leave="ffn_gate"),
    "bert": model("bert", 12, (12, 12), 384, 1536, leave="output ffn_gate"),
    "granite": model("granite", 40, (8, 2), leave="output"),
    "olmo2": model("olmo2", 16, (8, 8)),
    "smollm3": model("smollm3", 36, (8, 2), leave="output"),
}


def types(which: Model, recipe: Recipe) -> dict[str, str]:
    return {name: choice.dtype.name for name, choice in choose(*which, recipe).items()}


WITHOUT = ["Q4_0", "Q5_0", "Q2_K_S", "IQ4_NL", "IQ4_XS", "IQ2_M", "IQ3_XXS", "IQ3_S"]
"""File types that an imatrix changes, or that need one for some tensors or for none."""


def listing(which: Model, imatrix: Imatrix | None) -> str:
    """Every file type's tensors and types, in the order written; "imatrix!" where llama-quantize asks for one."""

    def lines() -> Iterator[str]:
        for label in FILE_TYPES if imatrix else WITHOUT:
            needs = False
            try:
                chosen = types(which, Recipe(FILE_TYPES[label], imatrix=imatrix))
            except UsageError:
                needs, chosen = True, {}
            yield f"{label} {'imatrix!' if needs else ''}"
            yield from (f"{name} {kind}" for name, kind in chosen.items())

    return "\n".join(lines())


def digest(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:12]


DIGESTS = {
    "llama, shared heads": ("6d65351dad57", "d88bb185067e"),
    "llama, 16 layers": ("ca7a7881f931", "f255e7edc227"),
    "llama, tied": ("41de2277dba2", "5e8348b38526"),
    "llama, one layer": ("1adfb425eb1f", "272256cfda43"),
    "llama, seven layers": ("982e9909b109", "7cc712014653"),
    "SmolLM2": ("7137612df3f9", "3ee45c455dc8"),
    "576 and 1000 columns": ("f955e4232e0b", "06cebacb1314"),
    "48 and 80 columns": ("fe6f9a9876dd", "16ffc903e91d"),
    "80 and 52 columns": ("4d6c477802c8", "409e67f9dfca"),
    "96 and 288 columns": ("1668121dc1fb", "41d2c1191880"),
    "llama 70B": ("f8faf251ba3e", "876b100d8f55"),
    "llama 65B": ("5e9d3a43b0c2", "827aa9e12a49"),
    "llama, 80 layers, 8 experts": ("aceccb5f07e1", "f971a2bf6b55"),
    "qwen2 72B": ("5e9d3a43b0c2", "fda3ae48cafd"),
    "qwen2": ("340c7c8e9e8d", "fd1b83c31890"),
    "qwen3": ("3da98e538303", "ebe339a7d6f8"),
    "qwen3moe": ("9b5def16f392", "f1a1f46a0bca"),
    "qwen2moe": ("7fd4ed8008c0", "1869e5f55ee0"),
    "mixtral": ("ce6a85a02f58", "7a6ef465043e"),
    "mixtral, experts apart": ("1e270fda4206", "de00b8e1dfce"),
    "four experts": ("de089ffa3c55", "d4424faa657f"),
    "eight experts, 576 columns": ("47e9a65fe51d", "94efe423fc89"),
    "gemma": ("0a9aa3d457e1", "3688af65f1dd"),
    "gemma2": ("7495df21c2ab", "a62eca914eea"),
    "gemma3, 1152 columns": ("f594a0f96047", "8d8f03c06c55"),
    "phi3": ("c126c6c86826", "27c84792f222"),
    "gpt2": ("3f2cbc1cd4c2", "95cf276541b1"),
    "gptneox": ("7bc7e0c5ac33", "a244146b56b6"),
    "falcon": ("62d8b7fa01b1", "4be2c0e6969a"),
    "falcon 40B": ("431cb6bffe1e", "47baf4938b2f"),
    "starcoder2": ("caaddd1fd080", "787affa01ee8"),
    "bert": ("3219236b917c", "3ddbc598cf22"),
    "granite": ("3b6968a2ee7e", "63ad1be92e1a"),
    "olmo2": ("ca7a7881f931", "f255e7edc227"),
    "smollm3": ("2ca262c65af7", "c59fdfea1e6e"),
}
"""Of each model's listing without an imatrix and with one, from llama-quantize's own words."""

COUNTS = {
    "F32": "F32:226",
    "F16": "F16:226",
    "BF16": "BF16:226",
    "Q8_0": "Q8_0:226",
    "Q4_0": "Q4_0:221 Q4_1:4 Q6_K:1",
    "Q4_1": "Q4_1:225 Q6_K:1",
    "Q5_0": "Q5_0:221 Q5_1:4 Q6_K:1",
    "Q5_1": "Q5_1:225 Q6_K:1",
    "Q2_K": "Q2_K:129 Q3_K:64 Q4_K:32 Q6_K:1",
    "Q2_K_S": "Q2_K:189 Q4_K:36 Q6_K:1",
    "Q3_K_S": "Q3_K:225 Q6_K:1",
    "Q3_K_M": "Q3_K:129 Q4_K:92 Q5_K:4 Q6_K:1",
    "Q3_K_L": "Q3_K:129 Q5_K:96 Q6_K:1",
    "Q4_K_S": "Q4_K:217 Q5_K:8 Q6_K:1",
    "Q4_K_M": "Q4_K:193 Q6_K:33",
    "Q5_K_S": "Q5_K:225 Q6_K:1",
    "Q5_K_M": "Q5_K:193 Q6_K:33",
    "Q6_K": "Q6_K:226",
    "IQ4_NL": "IQ4_NL:193 Q5_K:32 Q6_K:1",
    "IQ4_XS": "IQ4_XS:193 Q5_K:32 Q6_K:1",
    "IQ1_S": "IQ1_S:156 IQ2_XXS:32 Q2_K:5 Q4_K:32 Q5_K:1",
    "IQ1_M": "IQ1_M:156 IQ2_XXS:32 Q2_K:5 Q4_K:32 Q5_K:1",
    "IQ2_XXS": "IQ2_XXS:188 Q2_K:5 Q4_K:32 Q5_K:1",
    "IQ2_XS": "IQ2_XS:188 Q2_K:5 Q4_K:32 Q5_K:1",
    "IQ2_S": "IQ2_XS:156 IQ3_S:37 Q4_K:32 Q5_K:1",
    "IQ2_M": "IQ2_S:156 IQ3_S:37 Q4_K:32 Q5_K:1",
    "IQ3_XXS": "IQ2_S:64 IQ3_S:33 IQ3_XXS:96 Q4_K:32 Q5_K:1",
    "IQ3_XS": "IQ3_S:81 IQ3_XXS:112 Q4_K:32 Q6_K:1",
    "IQ3_S": "IQ3_S:193 Q4_K:32 Q6_K:1",
    "IQ3_M": "IQ3_S:157 Q4_K:68 Q6_K:1",
    "TQ1_0": "Q4_K:1 Q6_K:1 TQ1_0:224",
    "TQ2_0": "Q4_K:1 Q6_K:1 TQ2_0:224",
    "MXFP4_MOE": "Q8_0:226",
}
"""Matrices by type, 32 layers of a llama with shared heads, with an imatrix."""

MORE_BITS = ["0", "1", "2", "3", "6", "9", "12", "15", "18", "21", "24", "27", "28", "29", "30", "31"]
"""The layers of 32 whose values and down projections a Q4_K_M gives six bits."""


@pytest.mark.parametrize("name", MODELS)
def test_every_file_type_is_llama_quantize_s(name: str) -> None:
    assert DIGESTS[name] == (digest(listing(MODELS[name], None)), digest(listing(MODELS[name], IMATRIX)))


def matrices(which: Model, recipe: Recipe) -> str:
    """How many matrices of each type: "Q4_K:193 Q6_K:33"."""
    chosen = types(which, recipe)
    counts = Counter(chosen[info.name] for info in which[0] if info.dtype == BF16)
    return " ".join(f"{kind}:{count}" for kind, count in sorted(counts.items()))


@pytest.mark.parametrize("label", FILE_TYPES)
def test_a_llama_s_matrices_by_type(label: str) -> None:
    assert COUNTS[label] == matrices(MODELS["llama, shared heads"], Recipe(FILE_TYPES[label], imatrix=IMATRIX))


@pytest.mark.parametrize("kind", ["attn_v", "ffn_down"])
def test_the_layers_with_more_bits(kind: str) -> None:
    chosen = types(MODELS["llama, shared heads"], parse_recipes("q4_k_m")[0])
    assert [name.split(".")[1] for name, got in chosen.items() if kind in name and got == "Q6_K"] == MORE_BITS


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["attn_v=q8_0"], "Q4_K:177 Q6_K:17 Q8_0:32"),
        (["Attn_V=Q8_0", "ffn=q4_1"], "Q4_1:96 Q4_K:97 Q6_K:1 Q8_0:32"),
        ([r"blk\.[0-3]\.attn_v=f16"], "F16:4 Q4_K:193 Q6_K:29"),
        (["output=q6_k"], "Q4_K:161 Q6_K:65"),  # attn_output, too
        (["^token_embd=bf16", "weight$=q5_1"], "BF16:1 Q5_1:225"),
        ([r"blk\.\D=q8_0"], "Q4_K:1 Q6_K:1 Q8_0:224"),  # lower-cased, so it says \d
        (["norm=q8_0"], "Q4_K:193 Q6_K:33"),
    ],
)
def test_overrides(pairs: list[str], expected: str) -> None:
    assert expected == matrices(MODELS["llama, shared heads"], parse_recipes("q4", overrides=pairs)[0])


def test_an_overridden_tensor_is_not_counted() -> None:
    """The rules count what they decide: with the first four values taken out, "the first eighth" is the next four."""
    recipe = parse_recipes("q4", overrides=[r"blk\.[0-3]\.attn_v=f16"])[0]
    six_bits = {name for name, kind in types(MODELS["llama, shared heads"], recipe).items() if kind == "Q6_K"}
    layers = [4, 5, 6, 7, 10, 13, 16, 19, 22, 25, 28, 31]
    assert {f"blk.{layer}.attn_v.weight" for layer in layers} == {name for name in six_bits if "attn_v" in name}


def test_plain_types_know_no_override() -> None:
    assert matrices(MODELS["llama, shared heads"], parse_recipes("f16", overrides=["attn_v=q8_0"])[0]) == "F16:226"


ROWS = "columns are no multiple of"


@pytest.mark.parametrize(
    ("columns", "wanted", "expected", "reason"),
    [
        (512, "Q4_K", "Q4_K", None),
        (576, "Q4_K", "Q5_0", f"576 {ROWS} 256"),
        (576, "Q5_K", "Q5_1", f"576 {ROWS} 256"),
        (576, "Q6_K", "Q8_0", f"576 {ROWS} 256"),
        (576, "Q3_K", "Q4_0", f"576 {ROWS} 256"),
        (576, "TQ1_0", "Q4_0", f"576 {ROWS} 256"),
        (576, "IQ2_XXS", "IQ4_NL", f"576 {ROWS} 256"),
        (576, "Q8_0", "Q8_0", None),
        (48, "Q4_K", "F16", f"48 {ROWS} 32"),
        (48, "Q8_0", "F16", f"48 {ROWS} 32"),
        (48, "MXFP4", "F16", f"48 {ROWS} 32"),
        (48, "BF16", "BF16", None),
    ],
)
def test_what_stands_in_where_blocks_do_not_fit(columns: int, wanted: str, expected: str, reason: str | None) -> None:
    info = TensorInfo("blk.0.attn_q.weight", BF16, (4, columns))
    assert Choice(ggml_type(expected), reason) == fitted(info, ggml_type(wanted))


def test_reasons() -> None:
    which = MODELS["SmolLM2"]
    chosen = choose(*which, parse_recipes("q4", overrides=["0.attn_k=q6_k", "0.attn_q=q8_0"])[0])
    assert {
        "token_embd.weight": Choice(ggml_type("Q8_0"), f"576 {ROWS} 256"),
        "output_norm.weight": Choice(F32, "kept: one row"),
        "position_embd.weight": Choice(F32, "kept: small and sensitive"),
        "blk.0.attn_q.weight": Choice(ggml_type("Q8_0"), "--tensor-type 0.attn_q"),
        "blk.0.attn_k.weight": Choice(ggml_type("Q8_0"), f"--tensor-type 0.attn_k; 576 {ROWS} 256"),
        "blk.1.attn_k.weight": Choice(ggml_type("Q5_0"), f"576 {ROWS} 256"),
        "blk.4.ffn_down.weight": Choice(ggml_type("Q4_K")),
    }.items() <= chosen.items()


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.1.some.weight", (1, 512), "kept: one row"),
        ("blk.1.some.weight", (1, 1, 512), "kept: one row"),
        ("blk.1.some.weight", (), "kept: one row"),
        ("blk.1.some.weight", (512, 1), None),
        ("blk.1.some.weight", (4, 1, 512), None),
        ("blk.1.some", (4, 512), "kept: no weight"),
        ("blk.1.some.weights", (4, 512), "kept: no weight"),
        ("blk.1.ssm_conv1d.weight", (4, 512), "kept: small and sensitive"),
        ("per_layer_token_embd.weight", (4, 512), None),
    ],
)
def test_what_is_never_quantised(name: str, shape: tuple[int, ...], expected: str | None) -> None:
    assert expected == kept(TensorInfo(name, BF16, shape))


def test_the_order_tensors_are_written_in() -> None:
    ordered = ["Z.weight", "a.weight", "enc.blk.0.x", "token_embd.weight", "blk.0.b", "blk.2.a", "blk.10.a", "blk.10.b"]
    assert ordered == quantize_order(reversed(ordered))


def test_tables_name_only_file_types_and_tensor_types() -> None:
    quantised = [label for label, file_type in FILE_TYPES.items() if Recipe(file_type).quantises]
    assert sorted(quantised) == sorted(ALL.split())
    assert {label for table in MIXTURES.values() for line in table for label in line.files} <= set(quantised)
    kinds = {line.kind for table in MIXTURES.values() for line in table if line.kind}
    assert kinds == {ggml_type(kind).name for kind in kinds}


@pytest.mark.parametrize("words", ["iq2_xxs", "q2_k_s", "iq3_xxs", "iq1_m"])
def test_low_bits_without_an_imatrix_are_refused(words: str) -> None:
    with pytest.raises(UsageError, match="needs an imatrix") as caught:
        choose(*MODELS["llama, one layer"], parse_recipes(words)[0])
    assert "--imatrix" in str(caught.value.hint)


def test_an_override_to_low_bits_needs_an_imatrix_too() -> None:
    with pytest.raises(UsageError, match=r"token_embd\.weight IQ2_XS, which needs an imatrix"):
        choose(*MODELS["llama, one layer"], parse_recipes("q8_0", overrides=["token_embd=iq2_xs"])[0])


def test_a_tensor_the_imatrix_lacks() -> None:
    with pytest.raises(UsageError, match=r"some\.gguf has no weights for it"):
        choose(*MODELS["llama, one layer"], parse_recipes("iq2_xxs", imatrix=Imatrix(Path("some.gguf"), {}))[0])


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ("q4", ["Q4_K_M"]),
        ("q4,q8_0", ["Q4_K_M", "Q8_0"]),
        (" Q4_K_m , BF16", ["Q4_K_M", "BF16"]),
        ("q2,q3,q5,q6,q8", ["Q2_K", "Q3_K_M", "Q5_K_M", "Q6_K", "Q8_0"]),
        ("q3_k,mxfp4", ["Q3_K_M", "MXFP4_MOE"]),
    ],
)
def test_recipes_by_name(words: str, labels: list[str]) -> None:
    assert labels == [recipe.label for recipe in parse_recipes(words)]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("q4_km", "unknown file type 'q4_km'", "did you mean q4_k_m?"),
        ("fp16", "unknown file type 'fp16'", "did you mean f16?"),
        ("zebra", "unknown file type 'zebra'", "one of: f32, f16, bf16, q8_0"),
        ("", "no file type", "one of: "),
        ("q4,,q8_0", "no file type", "one of: "),
        ("q4,q8_0,q4_k_m", "Q4_K_M is asked for 2 times", "once"),
    ],
)
def test_recipes_that_are_none(words: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_recipes(words)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("pair", "message", "hint"),
    [
        ("attn_v", "not PATTERN=TYPE", "attn_v=q8_0"),
        ("=q8_0", "not PATTERN=TYPE", "attn_v=q8_0"),
        ("attn_v=", "not PATTERN=TYPE", "attn_v=q8_0"),
        ("attn_v=q9", "unknown type 'q9'", "q8_0"),
        ("attn_v=q4_k_m", "unknown type 'q4_k_m'", "say q4_k"),
        ("attn_v=q4", "unknown type 'q4'", "say q4_k"),
        ("attn_v=q8_k", "no type to store weights in", "q8_0"),
        ("attn_v=i32", "no type to store weights in", "q8_0"),
        ("attn_(v=q8_0", "not a regular expression", "searched in names"),
        ("a)(b=q8_0", "not a regular expression", "searched in names"),
        ("((((a{9999}){9999}){9999}))=q8_0", "repeats absurdly often", "searched in names"),
    ],
)
def test_overrides_that_are_none(pair: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_overrides([pair])
    assert hint in str(caught.value.hint)


def test_a_pattern_that_runs_away_is_stopped() -> None:
    recipe = parse_recipes("q4", overrides=["(a|aa)+$=q8_0"])[0]
    with pytest.raises(UsageError, match="takes too long"):
        recipe.override("a" * 64 + "b")


def test_aliases_lead_to_file_types() -> None:
    assert {label.upper() for label in ALIASES.values()} <= FILE_TYPES.keys()


def test_numbers_are_gguf_s_own() -> None:
    from gguf import LlamaFileType

    by_name = {kind.name.removeprefix("MOSTLY_").removeprefix("ALL_"): int(kind) for kind in LlamaFileType}
    assert {label: by_name[label] for label in FILE_TYPES} == {kind.label: kind.number for kind in FILE_TYPES.values()}


def test_a_recipe_travels() -> None:
    recipe = parse_recipes("q4", overrides=["attn_v=q8_0"], imatrix=Imatrix(Path("i"), {}))[0]
    assert recipe == pickle.loads(pickle.dumps(recipe))


KEYS = {
    "general.file_type": u32(32),
    "general.architecture": text("llama"),
    "general.quantization_version": u32(2),
    "split.no": u32(0),
    "split.count": u32(2),
    "split.tensors.count": u32(9),
    "llama.block_count": u32(32),
}


def test_metadata_as_llama_quantize_rewrites_it() -> None:
    assert list(
        {
            "general.architecture": text("llama"),
            "llama.block_count": u32(32),
            "general.quantization_version": u32(2),
            "general.file_type": u32(15),
        }.items()
    ) == list(quantized_keys(KEYS, parse_recipes("q4")[0]).items())


def test_metadata_of_an_imatrix() -> None:
    name = "é" * 70  # its 127th byte is half a letter
    imatrix = Imatrix(Path("some.gguf"), {}, (name, "second"), 9)
    added = list(quantized_keys(KEYS, parse_recipes("q4", imatrix=imatrix)[0]).items())[-4:]
    assert added == [
        ("quantize.imatrix.file", text("some.gguf")),
        ("quantize.imatrix.dataset", text(name.encode()[:127])),
        ("quantize.imatrix.entries_count", u32(0)),
        ("quantize.imatrix.chunks_count", u32(9)),
    ]


def test_an_imatrix_that_says_little() -> None:
    added = quantized_keys({}, parse_recipes("q4", imatrix=Imatrix(Path("some.dat"), {}))[0])
    assert list(added)[2:] == ["quantize.imatrix.file", "quantize.imatrix.entries_count"]


HEADS = "llama.attention.head_count"


def test_the_shape_of_a_model() -> None:
    keys = KEYS | {HEADS: u32(32), f"{HEADS}_kv": u32(8), "llama.expert_count": u32(8)}
    assert ModelShape("llama", 32, 32, 8, 8) == model_shape(keys)


def test_the_shape_of_a_model_with_a_head_count_per_layer() -> None:
    keys = KEYS | {HEADS: array(ValueType.UINT32, [16, 32])}
    assert ModelShape("llama", 32, 16, 16, 0) == model_shape(keys)


@pytest.mark.parametrize(
    "keys",
    [{}, {"general.architecture": text("llama")}, KEYS | {"llama.block_count": text("many")}],
)
def test_metadata_without_a_shape(keys: Mapping[str, object]) -> None:
    with pytest.raises(FormatError, match="the metadata"):
        model_shape(keys)
