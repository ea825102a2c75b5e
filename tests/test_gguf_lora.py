"""An adapter as a GGUF LoRA: hot-swapped in llama.cpp it gives the merged model's answers, or it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from making import Tensors, edit_json, numbers, write_json, write_tensors
from making_gguf import (
    HEADS,
    KV_HEADS,
    LAYERS,
    TOKENS,
    WIDTH,
    adapter,
    contents,
    converted,
    converted_lora,
    merged_gguf,
    metadata,
    model,
    write_tokenizer,
)

from adaptool import api
from adaptool.adapters.base import open_base
from adaptool.errors import AdaptoolError, FormatError, MismatchError, NotFoundError, UnsupportedError, UsageError
from adaptool.gguf.merged import gguf_export
from adaptool.merging.options import MergeOptions
from adaptool.tensors.dtypes import dtype, widen

if TYPE_CHECKING:
    from zoo_case import Built

HALF_CONTEXT = 2e-2
"""Nats: the runtime keeps keys and values in 16 bits."""

ROW = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model nobody may write into."""
    return model(tmp_path_factory.mktemp("base") / "base", "F32")


def arrays(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a GGUF LoRA, outermost axis first."""
    return {name: np.frombuffer(data, "<f4").reshape(shape[::-1]) for name, (_, shape, data) in contents(path).items()}


def factors(folder: Path, layer: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A and B as they were made."""
    found = open_base(folder / "adapter_model.safetensors").store
    return found.array(ROW.format(layer, name, "A")), found.array(ROW.format(layer, name, "B"))


def paired(values: np.ndarray, heads: int) -> np.ndarray:
    """Halves of each head laid as neighbours."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


SCALES: dict[str, tuple[dict[str, Any], float, Callable[[int, str], float]]] = {
    "plain": ({}, 1.0, lambda layer, name: 8 / 4),
    "weighted": ({}, -0.5, lambda layer, name: -0.5 * 8 / 4),
    "rslora": ({"use_rslora": True}, 1.0, lambda layer, name: 8 / 4**0.5),
    "alpha_pattern": ({"alpha_pattern": {"k_proj": 3}}, 1.0, lambda layer, name: (3 if name == "k_proj" else 8) / 4),
    "rank_pattern and rslora": (
        {"use_rslora": True, "rank_pattern": {"layers.1.self_attn.q_proj": 4, "q_proj": 4}, "r": 16},
        2.0,
        lambda layer, name: 2 * 8 / (4 if name == "q_proj" else 16) ** 0.5,
    ),
}


@pytest.mark.parametrize("case", SCALES)
def test_scales_are_in_b_and_rows_where_a_gguf_has_them(case: str, base: Path, tmp_path: Path):
    fields, weight, scale = SCALES[case]
    ranks = {"q_proj": 4, "k_proj": fields.get("r", 4)}
    lora = adapter(tmp_path / "lora", targets=["q_proj", "k_proj"], ranks=ranks, **fields)
    path = converted_lora(lora, base, tmp_path / "lora.gguf", weight)
    found = arrays(path)
    expected = {}
    for layer in range(LAYERS):
        for name, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
            A, B = factors(lora, layer, name)
            key = f"blk.{layer}.attn_{name[0]}.weight"
            expected[f"{key}.lora_a"] = A
            expected[f"{key}.lora_b"] = paired(B * np.float32(scale(layer, name)), heads)
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
    keys = metadata(path)
    told = ("general.type", "adapter.type", "general.architecture", "general.file_type")
    assert [keys[name] for name in told] == ["adapter", "lora", "llama", 0]
    assert "adapter.lora.alpha" not in keys  # without it the runtime's scale is 1
    assert (keys["adaptool.adapter.0.name"], keys["adaptool.adapter.0.weight"]) == ("lora", weight)


@pytest.mark.parametrize(("kind", "number"), [("float16", 1), ("bfloat16", 30)])
def test_factors_in_16_bits(kind: str, number: int, base: Path, tmp_path: Path):
    lora = adapter(tmp_path / "lora")
    wide = converted_lora(lora, base, tmp_path / "wide.gguf")
    narrow = converted_lora(lora, base, tmp_path / "narrow.gguf", dtype=dtype(kind))
    for name, (stored, shape, data) in contents(narrow).items():
        assert stored == number
        raw = np.frombuffer(data, "<u2" if number == 30 else "<f2").reshape(shape[::-1])
        np.testing.assert_allclose(widen(raw, dtype(kind)), arrays(wide)[name], rtol=2**-8, atol=2**-24)


def test_a_gguf_base_gives_the_same_lora(base: Path, tmp_path: Path):
    lora = adapter(tmp_path / "lora")
    expected = contents(converted_lora(lora, base, tmp_path / "expected.gguf"))
    for kind in ("bf16", "q4_k_m"):
        gguf = converted(base, tmp_path / f"{kind}.gguf", kind)
        assert contents(converted_lora(lora, gguf, tmp_path / f"on-{kind}.gguf")) == expected


LIKE = {
    "llama_patterns_rslora": "alpha_pattern and rank_pattern under rsLoRA",
    "llama_embed_head": "an embedding is looked up, a head multiplied; PEFT saves both whole beside the factors",
    "llama_bdlora": "factors that are block-diagonal",
    "llama_mica": "factors of another initialisation",
    "llama_parameter": "a weight targeted as a parameter",
    "plain_weighted": "a negative weight",
    "three_plain": "three adapters at once",
    "qwen2_all": "rows that stay in place",
    "gemma2_all": "norms that are shifted, and a tied head that nothing touches",
    "phi3_fused": "q, k and v in one matrix, gate and up in one",
    "gpt2_fan_false": "Conv1D: the factors change places",
    "gpt_neox_all": "rows of fused heads by turns, and biases",
    "gpt_neox_head": "a head of another name",
    "bloom_all": "the same without rotation",
    "mixtral_experts": "target_parameters: an axis of experts",
    "mixtral_rslora": "experts of two ranks",
    "mixtral_v4_experts_rslora": "experts one by one, as transformers 4 saved them",
    "mixtral_router": "a router",
    "qwen3_moe_experts": "experts, and queries beside them",
}
"""Cases of the zoo, and what each is about."""


def widened(built: Built, target: Path) -> Path:
    """A zoo base in float32, so that merging rounds nothing, with a tokenizer."""
    given = open_base(built.base_dir)
    tensors: Tensors = {
        name: ("F32", widen(given.store.read(name), info.dtype).astype(np.float32).reshape(info.shape))
        for name, info in given.store.infos.items()
    }
    write_tensors(target / "model.safetensors", tensors)
    config = dict(given.config or {}) | {"dtype": "float32"}
    if config["model_type"] == "gpt_neox":  # a quarter of 12 is odd, and llama.cpp rotates pairs
        config["rope_parameters"] = {"rope_theta": 10000, "rope_type": "default", "partial_rotary_factor": 0.5}
    write_json(target / "config.json", config)
    write_tokenizer(target, config["vocab_size"])
    return target


@pytest.mark.parametrize("name", LIKE)
def test_llama_cpp_with_the_lora_answers_like_the_merged_model(name: str, zoo: Callable[[str], Built], tmp_path: Path):
    pytest.importorskip("xllamacpp")
    from adaptool.parity.runtime import open_runtime

    built = zoo(name)
    base = widened(built, tmp_path / "base")
    gguf = converted(base, tmp_path / "base.gguf", "f32")
    given = list(zip(built.adapter_dirs, built.weights, strict=True))
    loras = [
        (converted_lora(folder, base, tmp_path / f"{number}.gguf", weight), 1.0)
        for number, (folder, weight) in enumerate(given)
    ]
    export = gguf_export(api.gguf_options("f32"))
    for _ in api.merge(given, base, tmp_path / "m", options=MergeOptions(exports=(export,), safetensors=False)):
        pass
    tokens = np.random.default_rng(3).integers(3, 80, 24).tolist()

    def answers(path: Path, lora: list[tuple[Path, float]]) -> np.ndarray:
        with open_runtime(path, lora=lora, threads=1) as runtime:
            return runtime.log_probabilities(tokens)

    expected = answers(tmp_path / "m" / "m-F32.gguf", [])
    np.testing.assert_allclose(answers(gguf, loras), expected, atol=HALF_CONTEXT / 20)
    assert np.abs(answers(gguf, []) - expected).max() > HALF_CONTEXT / 2, "the adapter does nothing"


def whole(name: str, shape: tuple[int, ...], seed: int = 7) -> Tensors:
    return {f"base_model.model.{name}": ("F32", numbers("F32", shape, seed))}


def low_rank(module: str, rows: int, columns: int, a: str = "lora_A.weight", b: str = "lora_B.weight") -> Tensors:
    return {
        f"base_model.model.{module}.{a}": ("F32", numbers("F32", (4, columns), 1, 0.2)),
        f"base_model.model.{module}.{b}": ("F32", numbers("F32", (rows, 4), 2, 0.2)),
    }


VOCABULARY = len(TOKENS)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": (
        {
            "targets": ["q_proj"],
            "use_dora": True,
            "extra": {
                f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_magnitude_vector": (
                    "F32",
                    numbers("F32", (WIDTH,), layer, 0.1) + 1,
                )
                for layer in range(LAYERS)
            },
        },
        "changed by DoRA",
    ),
    "modules_to_save": (
        {"modules_to_save": ["lm_head"], "extra": whole("lm_head.weight", (VOCABULARY, WIDTH))},
        r"holds lm_head\.weight whole",
    ),
    "a trained norm": (
        {"modules_to_save": ["norm"], "extra": whole("model.norm.weight", (WIDTH,))},
        r"holds model\.norm\.weight whole",
    ),
    "a resized vocabulary": (
        {
            "extra": whole("model.embed_tokens.weight", (VOCABULARY + 3, WIDTH))
            | whole("lm_head.weight", (VOCABULARY + 3, WIDTH), 8)
        },
        "whole",
    ),
    "token rows": (
        {
            "trainable_token_indices": [3, 5],
            "extra": {
                "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": (
                    "F32",
                    numbers("F32", (2, WIDTH), 1),
                )
            },
        },
        "changed by token rows",
    ),
    "a classifier": (
        {"task_type": "SEQ_CLS", "modules_to_save": ["score"], "extra": whole("score.weight", (3, WIDTH))},
        r"holds score\.weight whole",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_lora_cannot_say_is_refused_with_the_reason(name: str, base: Path, tmp_path: Path):
    fields, words = REFUSED[name]
    lora = adapter(tmp_path / "lora", **fields)
    with pytest.raises(UnsupportedError, match=words) as caught:
        converted_lora(lora, base, tmp_path / "lora.gguf")
    assert "adaptool merge --to-gguf" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]


@pytest.mark.parametrize("name", ["llama_lora_bias_f32", "llama_kasa_f32", "llama_bias_all", "llama_embed_dora_f32"])
def test_relatives_of_lora_that_change_more_are_refused(name: str, zoo: Callable[[str], Built], tmp_path: Path):
    built = zoo(name)
    with pytest.raises(UnsupportedError, match="GGUF LoRA"):
        converted_lora(built.adapter_dirs[0], built.base_dir, tmp_path / "lora.gguf")


@pytest.mark.parametrize("name", ["tied_embed_f32", "tied_head_f32", "tied_both_f32", "tied_ensured_f32"])
def test_a_tied_embedding_is_refused(name: str, zoo: Callable[[str], Built], tmp_path: Path):
    """llama.cpp ends the process where a head that is the embedding meets its factors."""
    built = zoo(name)
    with pytest.raises(UnsupportedError, match="ties them"):
        converted_lora(built.adapter_dirs[0], built.base_dir, tmp_path / "lora.gguf")


def test_an_embedding_saved_whole_and_unchanged_is_no_change(base: Path, tmp_path: Path):
    """PEFT saves an embedding that a LoRA was trained on, although it is the base's."""
    head = ("F32", open_base(base).store.array("lm_head.weight"))
    trained = low_rank("lm_head", VOCABULARY, WIDTH)
    fields = {"target_modules": ["q_proj", "k_proj", "down_proj", "lm_head"]}
    lora = adapter(tmp_path / "a", extra=trained, **fields)
    saved = adapter(tmp_path / "b", extra=trained | {"base_model.model.lm_head.base_layer.weight": head}, **fields)
    expected = contents(converted_lora(lora, base, tmp_path / "a.gguf"))
    assert "output.weight.lora_a" in expected
    assert contents(converted_lora(saved, base, tmp_path / "b.gguf")) == expected
    changed = head[1].copy()
    changed[-1, -1] += 1
    other = {"base_model.model.lm_head.base_layer.weight": ("F32", changed)}
    with pytest.raises(UnsupportedError, match=r"holds lm_head\.weight whole"):
        converted_lora(adapter(tmp_path / "c", extra=trained | other, **fields), base, tmp_path / "c.gguf")


def bert(folder: Path) -> Path:
    """An encoder of one layer, and words for it."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    ids = {"pad_token_id": 0, "unk_token_id": 1, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    letters = [chr(97 + number) for number in range(26)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    write_json(
        folder / "config.json",
        {
            "architectures": ["BertModel"], "model_type": "bert", "vocab_size": len(words), "type_vocab_size": 2,
            "max_position_embeddings": 64, "hidden_act": "gelu", "layer_norm_eps": 1e-12, **sizes, **ids,
        },
    )  # fmt: skip
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    layer = "encoder.layer.0"
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(words), 64),
        "embeddings.position_embeddings.weight": (64, 64),
        "embeddings.token_type_embeddings.weight": (2, 64),
        f"{layer}.intermediate.dense.weight": (96, 64),
        f"{layer}.intermediate.dense.bias": (96,),
        f"{layer}.output.dense.weight": (64, 96),
        f"{layer}.output.dense.bias": (64,),
    }
    for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
        shapes |= {f"{layer}.{name}.weight": (64, 64), f"{layer}.{name}.bias": (64,)}
    norms = ["embeddings.LayerNorm", f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    tensors: Tensors = {
        name: ("F32", numbers("F32", shape, seed, 0.3)) for seed, (name, shape) in enumerate(shapes.items())
    }
    for name in norms:
        tensors |= {f"{name}.weight": ("F32", np.ones(64, "f4")), f"{name}.bias": ("F32", np.zeros(64, "f4"))}
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def encoder_adapter(folder: Path, targets: Mapping[str, tuple[int, int]], **fields: Any) -> Path:
    tensors: Tensors = {}
    for module, (rows, columns) in targets.items():
        embedding = "embeddings" in module
        tensors |= low_rank(module, *((columns, rows) if embedding else (rows, columns)),
                            *(("lora_embedding_A", "lora_embedding_B") if embedding else ()))  # fmt: skip
    write_tensors(folder / "adapter_model.safetensors", tensors)
    names = [module.rpartition(".")[2] for module in targets]
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": names, "task_type": "FEATURE_EXTRACTION"}
    write_json(folder / "adapter_config.json", config | fields)
    return folder


def test_an_encoders_embedding_may_have_one(tmp_path: Path):
    pytest.importorskip("xllamacpp")
    from adaptool.parity.runtime import open_runtime

    base = bert(tmp_path / "base")
    words = len((base / "vocab.txt").read_text().split())
    lora = encoder_adapter(
        tmp_path / "lora", {"embeddings.word_embeddings": (words, 64), "encoder.layer.0.attention.self.query": (64, 64)}
    )
    gguf = converted(base, tmp_path / "base.gguf", "f32")
    merged = merged_gguf(lora, base, tmp_path / "m", "f32") / "m-F32.gguf"
    path = converted_lora(lora, base, tmp_path / "lora.gguf")
    assert {name.rpartition(".")[0] for name in contents(path)} == {"token_embd.weight", "blk.0.attn_q.weight"}
    with open_runtime(merged, threads=1) as expected, open_runtime(gguf, lora=[(path, 1.0)], threads=1) as found:
        np.testing.assert_allclose(found.embedding("a cab"), expected.embedding("a cab"), atol=HALF_CONTEXT)
    with open_runtime(gguf, threads=1) as before, open_runtime(merged, threads=1) as after:
        assert np.abs(before.embedding("a cab") - after.embedding("a cab")).max() > 10 * HALF_CONTEXT


@pytest.mark.parametrize(
    ("module", "shape", "named"),
    [
        ("embeddings.position_embeddings", (64, 64), "position_embd.weight"),
        ("embeddings.token_type_embeddings", (2, 64), "token_types.weight"),
    ],
)
def test_matrices_the_runtime_only_looks_up_are_refused(
    module: str, shape: tuple[int, int], named: str, tmp_path: Path
):
    """It would load the factors, and never use them."""
    base = bert(tmp_path / "base")
    lora = encoder_adapter(tmp_path / "lora", {module: shape})
    with pytest.raises(UnsupportedError, match=f"which is {named} in a GGUF"):
        converted_lora(lora, base, tmp_path / "lora.gguf")


def test_another_dtype_is_refused(base: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="holds no F64"):
        converted_lora(adapter(tmp_path / "lora"), base, tmp_path / "lora.gguf", dtype=dtype("float64"))


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        (np.nan, None, r"layers\.1\.self_attn\.q_proj\.lora_B\.weight holds NaN or Inf$"),
        (3e38, None, r"blk\.1\.attn_q\.weight\.lora_b holds NaN or Inf$"),
        (1e5, "float16", "lora_b holds NaN or Inf as F16"),
    ],
)
def test_factors_that_are_no_numbers_are_named(bad: float, kind: str | None, words: str, base: Path, tmp_path: Path):
    B = numbers("F32", (WIDTH, 4), 1)
    B[3, 2] = bad
    lora = adapter(tmp_path / "lora", extra={ROW.format(1, "q_proj", "B"): ("F32", B)})
    with pytest.raises(FormatError, match=words):
        converted_lora(lora, base, tmp_path / "lora.gguf", dtype=dtype(kind) if kind else None)
    assert not (tmp_path / "lora.gguf").exists()


def nothing_trained(lora: Path, base: Path) -> None:
    config = json.loads((lora / "adapter_config.json").read_text())
    write_json(lora / "adapter_config.json", config | {"lora_alpha": 0})


def another_base(lora: Path, base: Path) -> None:
    write_tensors(
        lora / "adapter_model.safetensors",
        low_rank("model.layers.0.self_attn.q_proj", 512, WIDTH)
        | low_rank("model.layers.0.self_attn.k_proj", 99, WIDTH),
    )


def more_layers(lora: Path, base: Path) -> None:
    write_tensors(lora / "adapter_model.safetensors", low_rank("model.layers.7.self_attn.q_proj", WIDTH, WIDTH))


def another_architecture(lora: Path, base: Path) -> None:
    edit_json(base / "config.json", architectures=["MambaForCausalLM"])


def another_tuner(lora: Path, base: Path) -> None:
    edit_json(lora / "adapter_config.json", peft_type="LLAMA_ADAPTER")


def no_config(lora: Path, base: Path) -> None:
    (lora / "adapter_config.json").unlink()


def no_base_config(lora: Path, base: Path) -> None:
    (base / "config.json").unlink()


def cut_short(lora: Path, base: Path) -> None:
    path = lora / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (nothing_trained, MismatchError),
        (another_base, MismatchError),
        (more_layers, MismatchError),
        (another_architecture, UnsupportedError),
        (another_tuner, UnsupportedError),
        (no_config, NotFoundError),
        (no_base_config, UnsupportedError),
        (cut_short, FormatError),
    ],
)
def test_what_does_not_fit_is_an_error_before_anything_is_written(
    damage: Callable[[Path, Path], None], kind: type[AdaptoolError], tmp_path: Path
):
    base, lora = model(tmp_path / "base"), adapter(tmp_path / "lora")
    damage(lora, base)
    with pytest.raises(kind) as caught:
        converted_lora(lora, base, tmp_path / "lora.gguf")
    assert "\n" not in caught.value.message
    assert {path.name for path in tmp_path.iterdir()} == {"base", "lora"}
