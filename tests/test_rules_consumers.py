"""The rules about runtimes: what each says of an adapter, when it keeps still, and PEFT's own word on its rules."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptool.adapters.adapter import PICKLE_NAME, WEIGHTS_NAME
from adaptool.adapters.base import open_base
from adaptool.rules.catalogue import RULES
from adaptool.rules.draft import (
    CONFIG,
    MODULES,
    RANK,
    VOCABULARY,
    WIDTH,
    Draft,
    Q,
    fields,
    file,
    numbers,
    together,
)
from adaptool.rules.engine import AdapterReport, Options, validate
from adaptool.rules.families.consumers.facts import CONSUMERS as FACTS
from adaptool.rules.families.consumers.mutations import (
    adapting,
    on_embedding,
    on_experts,
    on_head,
    renamed,
    tied,
    uneven_layers,
    with_tensor,
    without,
    wrap,
)
from adaptool.rules.families.consumers.peft import TYPES
from adaptool.rules.selection import CONSUMERS, Selection

Mutation = Callable[[Draft], object]

PREFIXES = {
    "vllm": "VLM", "sglang": "SGL", "lorax": "LRX", "tgi": "TGI", "tensorrt-llm": "TRT", "llama.cpp": "LCP",
    "ollama": "OLL", "mlx": "MLX", "peft": "PFT",
}  # fmt: skip

ALL = tuple(name.rpartition(".")[2] for name in MODULES)
HEAD = with_tensor("lm_head.weight", VOCABULARY, WIDTH)
NORM = with_tensor("model.norm.weight", WIDTH)
TOKENS = with_tensor("model.embed_tokens.token_adapter.trainable_tokens_delta", 2, WIDTH)
BIAS = with_tensor("model.layers.0.self_attn.o_proj.base_layer.bias", WIDTH)
MAGNITUDE = with_tensor("model.layers.0.self_attn.q_proj.lora_magnitude_vector", WIDTH)
COPY = with_tensor("model.embed_tokens.base_layer.weight", VOCABULARY, WIDTH)
SCORE = together(fields(modules_to_save=["classifier", "score"]), with_tensor("score.weight", 2, WIDTH))


def good(draft: Draft) -> None:
    """Nothing is changed."""


def whole_vocabulary(draft: Draft) -> None:
    on_embedding(draft, VOCABULARY)


def started_for(rank: int) -> Mutation:
    return lambda draft: setattr(draft, "max_rank", rank)


def of_gemma(draft: Draft) -> None:
    draft.base_config.update(architectures=["Gemma2ForCausalLM"], model_type="gemma2")


def as_bin(draft: Draft) -> None:
    draft.removed.add(WEIGHTS_NAME)
    draft.files[PICKLE_NAME] = b"PK\x03\x04"


def half_of_experts(draft: Draft) -> None:
    on_experts(draft)
    without("experts.base_layer.lora_A.weight")(draft)
    without("experts.base_layer.lora_B.weight")(draft)


def mixtral_names(draft: Draft) -> None:
    for name in ("w1", "w2", "w3"):
        wrap(draft, f"model.layers.0.block_sparse_moe.experts.0.{name}", WIDTH, WIDTH)


def mlx_layout(draft: Draft) -> None:
    draft.config.update(num_layers=2, lora_parameters={"rank": RANK, "scale": 1.0, "dropout": 0.0})
    draft.files["adapters.safetensors"] = draft.weights()


SAYS: dict[str, list[tuple[str, Mutation, str]]] = {
    "vllm": [
        ("a good one", good, ""),
        ("every projection", adapting(*ALL), ""),
        ("rsLoRA", fields(use_rslora=True), ""),
        ("patterns", fields(alpha_pattern={"q_proj": 3}), ""),
        ("a classification head", SCORE, ""),
        ("an embedding", whole_vocabulary, ""),
        ("an embedding and the base's own beside it", together(whole_vocabulary, COPY), ""),
        ("an output head", on_head, ""),
        ("an output head that is tied", together(on_head, tied), ""),
        ("keys without a prefix", renamed("base_model.model.", ""), ""),
        ("a harmless initialisation", fields(init_lora_weights="orthogonal"), ""),
        ("LoRA-GA, which PEFT loads as it is", fields(init_lora_weights="lora_ga"), ""),
        ("empty invocation tokens", fields(alora_invocation_tokens=[]), ""),
        ("rank 16, the default", adapting("q_proj", "v_proj", rank=16), ""),
        ("rank 17", adapting("q_proj", "v_proj", rank=17), "VLM008 warning"),
        ("rank 17, and a server for 32", together(adapting("q_proj", rank=17), started_for(32)), ""),
        ("rank 64, and a server for 32", together(adapting("q_proj", rank=64), started_for(32)), "VLM008 error"),
        ("rank 8, and a server for 4", started_for(4), "VLM008 error"),
        ("rank 600, beyond any server", fields(r=600), "VLM008 error"),
        ("one module of rank 64", fields(rank_pattern={"q_proj": 64}), "VLM008 warning"),
        ("DoRA", fields(use_dora=True), "VLM002 error"),
        ("DoRA and its magnitudes", together(fields(use_dora=True), MAGNITUDE), "VLM002 error"),
        ("trained biases", together(fields(bias="lora_only"), BIAS), "VLM003 error"),
        ("biases of B", fields(lora_bias=True), "VLM003 error"),
        ("a head trained whole", together(fields(modules_to_save=["lm_head"]), HEAD), "VLM004 error"),
        ("a head of two layers", together(fields(modules_to_save=["classifier"]),
                                          with_tensor("classifier.dense.weight", 2, WIDTH)), "VLM007 error"),
        ("two heads", together(SCORE, with_tensor("classifier.weight", 2, WIDTH)), "VLM004 error"),
        ("PiSSA", fields(init_lora_weights="pissa_niter_4"), "VLM005 error"),
        ("an initialisation of another PEFT", fields(init_lora_weights="novel"), "VLM005 error"),
        ("aLoRA", fields(alora_invocation_tokens=[1]), "VLM006 error"),
        ("replicated layers", fields(layer_replication=[[0, 2]]), "VLM006 error"),
        ("a resized vocabulary", with_tensor("model.embed_tokens.weight", VOCABULARY, WIDTH), "VLM007 error"),
        ("token rows", TOKENS, "VLM007 error"),
        ("an embedding of GPT-2 saved along", with_tensor("transformer.wte.base_layer.weight", 9, 9), "VLM007 error"),
        ("an embedding of more tokens", on_embedding, "VLM009 error"),
        ("experts of Mixtral", mixtral_names, "VLM011 error"),
        ("fused experts", on_experts, "VLM010 warning, VLM011 error"),
        ("half of the fused experts", half_of_experts, "VLM010 error, VLM011 error"),
        ("another prefix", renamed("model.model.layers", "model.model.decoder.layers"), "VLM011 error"),
        ("a vision tower", renamed("model.layers.1", "model.visual.blocks.1"), "VLM011 error, VLM012 warning"),
        ("no lora_alpha", lambda draft: draft.config.pop("lora_alpha"), "VLM013 error"),
        ("LoHa", fields(peft_type="LOHA"), "VLM001 error"),
    ],
    "sglang": [
        ("a good one", good, ""),
        ("every projection", adapting(*ALL), ""),
        ("gate without up", adapting("gate_proj"), ""),
        ("o alone", adapting("o_proj"), ""),
        ("all-linear", fields(target_modules="all-linear"), ""),
        ("whole names", fields(target_modules=["model.layers.0.self_attn.q_proj"]), ""),
        ("a pattern that matches nothing", fields(alpha_pattern={"other": 3}), ""),
        ("a pattern that says the same", fields(alpha_pattern={"q_proj": 8}), ""),
        ("the base's own added tokens", file("added_tokens.json", b'{"<x>": 39}'), ""),
        ("a broken list of tokens", file("added_tokens.json", b"{"), ""),
        ("rank 8, and a server for 8", started_for(8), ""),
        ("an embedding", together(whole_vocabulary, COPY), ""),
        ("rsLoRA", fields(use_rslora=True), "SGL003 error"),
        ("alpha_pattern", fields(alpha_pattern={"q_proj": 3}), "SGL003 error"),
        ("ranks that differ", uneven_layers, "SGL003 error, SGL004 error"),
        ("a regular expression", fields(target_modules=".*q_proj"), "SGL005 error"),
        ("no target_modules", fields(target_modules=None), "SGL005 error"),
        ("a new token", file("added_tokens.json", b'{"<x>": 40}'), "SGL006 error"),
        ("q without v", adapting("q_proj"), "SGL007 error"),
        ("q and k without v", adapting("q_proj", "k_proj"), "SGL007 error"),
        ("v without q", adapting("v_proj"), "SGL008 error"),
        ("up without gate", adapting("up_proj"), "SGL008 error"),
        ("a head trained whole", together(fields(modules_to_save=["lm_head"]), HEAD), "SGL009 error"),
        ("a bias that the config denies", BIAS, "SGL009 error"),
        ("token rows", TOKENS, "SGL009 error"),
        ("DoRA", together(fields(use_dora=True), MAGNITUDE), "SGL002 error"),
        ("OLoRA", fields(init_lora_weights="olora"), "SGL010 error"),
        ("QA-LoRA", fields(use_qalora=True), "SGL011 error"),
        ("rank 8, and a server for 4", started_for(4), "SGL012 error"),
        ("AdaLoRA", fields(peft_type="ADALORA"), "SGL001 error"),
        ("names of BERT", renamed("self_attn.q_proj", "attention.query"), "SGL008 error, SGL014 warning"),
        ("experts of Mixtral", mixtral_names, ""),
    ],
    "lorax": [
        ("a good one", good, ""),
        ("one projection, padded", adapting("q_proj", rank=4), ""),
        ("rank 32", adapting("q_proj", "v_proj", rank=32), ""),
        ("an output head", on_head, ""),
                ("rank 4", adapting("q_proj", "v_proj", rank=4), "LRX004 error"),
        ("rank 24", adapting("q_proj", "v_proj", rank=24), "LRX004 error"),
        ("rsLoRA", fields(use_rslora=True), "LRX003 error"),
        ("the first layer only", adapting("q_proj", layers=range(1)), "LRX005 error"),
        ("the last layer only", adapting("q_proj", layers=range(1, 2)), "LRX005 error"),
        ("token rows", TOKENS, "LRX006 error"),
        ("fused experts", on_experts, "LRX007 error"),
        ("an embedding", whole_vocabulary, "LRX007 error"),
    ],
    "tgi": [
        ("a good one", good, ""),
        ("rsLoRA", fields(use_rslora=True), ""),
        ("rank 144", adapting("q_proj", "v_proj", rank=144), "TGI011 info"),
        ("rank 12", adapting("q_proj", "v_proj", rank=12), "TGI004 error"),
        ("ranks that differ", uneven_layers, "TGI003 error, TGI008 error"),
        ("alpha_pattern under rsLoRA", fields(use_rslora=True, alpha_pattern={"v_proj": 3}), "TGI003 error"),
        ("a layer without v", without("layers.0.self_attn.v_proj.lora_A.weight"), "TGI005 error"),
        ("a model within another", renamed("model.layers", "language_model.model.layers"), "TGI007 error"),
        ("a pickle", as_bin, "TGI012 error"),
        ("DoRA", together(fields(use_dora=True), MAGNITUDE), "TGI002 error"),
    ],
    "tensorrt-llm": [
        ("a good one", good, ""),
        ("rsLoRA", fields(use_rslora=True), ""),
        ("ranks that differ", uneven_layers, ""),
        ("DoRA on a dense layer", together(fields(use_dora=True), MAGNITUDE), ""),
        ("experts of Mixtral", mixtral_names, ""),
        ("alpha_pattern", fields(alpha_pattern={"q_proj": 3}), "TRT005 error"),
        ("an output head", on_head, "TRT006 error"),
        ("a head trained whole", HEAD, "TRT006 error"),
        ("a norm", NORM, "TRT002 error"),
        ("a bias", BIAS, "TRT002 error"),
        ("names of BERT", renamed("self_attn.q_proj", "attention.query"), "TRT003 error"),
        ("half a pair", without("layers.0.self_attn.q_proj.lora_A.weight"), "TRT004 error"),
        ("rank 128", adapting("q_proj", rank=128), "TRT007 warning"),
        ("rank 128, and an engine for 64", together(adapting("q_proj", rank=128), started_for(64)), "TRT007 error"),
        ("rank 128, and an engine for 128", together(adapting("q_proj", rank=128), started_for(128)), ""),
    ],
    "llama.cpp": [
        ("a good one", good, ""),
        ("ranks that differ, and one alpha", uneven_layers, ""),
        ("an embedding", together(whole_vocabulary, COPY), ""),
        ("an output head", on_head, ""),
        ("aLoRA, which it has", fields(alora_invocation_tokens=[1, 2]), ""),
        ("rsLoRA", fields(use_rslora=True), "LCP005 error"),
        ("alpha 0", fields(lora_alpha=0), "LCP005 error"),
        ("an output head that is tied", together(on_head, tied), "LCP006 error"),
        ("a norm", NORM, "LCP004 error"),
        ("a head trained whole", HEAD, "LCP003 error"),
        ("fused experts", on_experts, "LCP009 error"),
        ("a bias", BIAS, "LCP003 error"),
        ("DoRA", together(fields(use_dora=True), MAGNITUDE), "LCP002 error"),
        ("an audio tower", renamed("model.layers.1", "model.audio_tower.layers.1"), "LCP011 error"),
    ],
    "ollama": [
        ("v and o", adapting("v_proj", "o_proj"), ""),
        ("q and k of a Gemma 2", together(adapting("q_proj", "k_proj"), of_gemma), ""),
        ("a good one, of a Llama", good, "OLL003 error"),
        ("a Qwen", lambda draft: draft.base_config.update(architectures=["Qwen2ForCausalLM"]), "OLL002 error"),
        ("alpha 8.0", together(adapting("v_proj"), fields(lora_alpha=8.0)), "OLL004 error"),
        ("alpha -8", together(adapting("v_proj"), fields(lora_alpha=-8)), "OLL004 error"),
        ("no lora_alpha", together(adapting("v_proj", rank=16), lambda draft: draft.config.pop("lora_alpha")),
         "OLL005 error"),
        ("an output head", together(adapting("v_proj"), on_head), "OLL007 error"),
        ("a norm", together(adapting("v_proj"), NORM), "OLL007 error"),
        ("rsLoRA", together(adapting("v_proj"), fields(use_rslora=True)), "OLL005 error"),
    ],
    "mlx": [
        ("PEFT's layout", good, "MLX001 error"),
        ("its own layout", mlx_layout, ""),
        ("rsLoRA", fields(use_rslora=True), "MLX001 error"),
        ("alpha_pattern", fields(alpha_pattern={"q_proj": 3}), "MLX001 error, MLX003 warning"),
        ("token rows", TOKENS, "MLX001 error, MLX004 error"),
    ],
    "peft": [
        ("replicated layers", fields(layer_replication=[[0, 2]]), "PFT007 error"),
        ("aLoRA", fields(alora_invocation_tokens=[1]), "PFT010 info"),
        ("fast PiSSA", fields(init_lora_weights="pissa_niter_4"), "PFT011 warning"),
        ("prompts", fields(peft_type="PROMPT_TUNING"), "PFT002 info"),
        ("experts under rsLoRA", together(mixtral_names, fields(use_rslora=True)), "PFT005 error, PFT009 error"),
    ],
}  # fmt: skip
"""Runtime → (what the adapter is, how it is made, what is found with the base given, and how grave)."""


def report(draft: Draft, folder: Path, consumer: str, *, base: bool = True) -> AdapterReport:
    """What the rules of one runtime, and no others, say of a draft."""
    adapter, beside = draft.write(folder)
    selection = Selection((PREFIXES[consumer],), consumers=frozenset([consumer]))
    options = Options(selection, max_rank=draft.max_rank, workers=1)
    return validate([adapter], open_base(beside) if base else None, options).results[0]


@pytest.mark.parametrize(
    ("consumer", "mutate", "expected"),
    [pytest.param(name, row[1], row[2], id=f"{name}-{row[0]}") for name, rows in SAYS.items() for row in rows],
)
def test_what_a_runtime_makes_of_it(consumer: str, mutate: Mutation, expected: str, tmp_path: Path):
    draft = Draft()
    mutate(draft)
    found = report(draft, tmp_path, consumer)
    said = sorted({f"{finding.code} {finding.severity}" for finding in found.findings})
    assert said == [text for text in expected.split(", ") if text]
    lost = [unchecked.code for unchecked in found.unchecked]
    assert lost == [] or "pickle" in expected or mutate is as_bin


def test_without_a_base_ollamas_rules_warn(tmp_path: Path):
    found = report(Draft(), tmp_path, "ollama", base=False)
    assert {finding.code: finding.severity for finding in found.findings} == {"OLL002": "info", "OLL003": "warning"}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_every_runtime_has_its_version_and_its_rules(consumer: str):
    facts = FACTS[consumer]
    rules = [rule for rule in RULES.values() if rule.consumer == consumer]
    assert len(rules) >= 6
    assert {rule.family for rule in rules} == {PREFIXES[consumer]}
    # a test's name, a version or a commit stands in every docstring
    version = facts.version.split(" ")[0]
    wanted = (f"{facts.title} {version}", f"{facts.title} main", "llama.cpp at 0c1e57098", "with PEFT 0.21.2")
    assert [rule.code for rule in rules if not any(words in rule.why for words in wanted)] == []


@pytest.mark.parametrize("consumer", ["sglang", "lorax", "tgi", "tensorrt-llm", "llama.cpp", "ollama"])
def test_the_numbers_of_a_wrong_scale_are_told(consumer: str, tmp_path: Path):
    draft = Draft()
    fields(lora_alpha=16, alpha_pattern={"v_proj": 4})(draft)
    texts = [finding.message for finding in report(draft, tmp_path, consumer).findings]
    told = f"{FACTS[consumer].title} multiplies model.layers.0.self_attn.v_proj by 2 where PEFT multiplies by 0.5"
    assert f"{told} (and 1 more module)" in texts


ODD: tuple[Any, ...] = (None, True, -1, 1e308, "((", [], {}, [[]], {"((": []}, [None, "q"])


def test_any_value_of_any_field_is_looked_at(tmp_path: Path):
    broken = []
    for number, name in enumerate(CONFIG):
        draft = Draft()
        folder = tmp_path / str(number)
        adapter, beside = draft.write(folder)
        base = open_base(beside)
        for value in ODD:
            (adapter / "adapter_config.json").write_text(json.dumps({**draft.config, name: value}))
            options = Options(Selection(("VLM",), consumers=frozenset(CONSUMERS)), workers=1)
            result = validate([adapter], base, options).results[0]
            broken += [(name, value, one) for one in result.unchecked if "internal error" in one.reason]
    assert broken == []


SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (3,), (0, WIDTH), (RANK, 0), (RANK, WIDTH, 3, 3), (1, 2, 3, 4, 5))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["<f4", "<i8", "?"])
def test_any_tensor_is_looked_at(shape: tuple[int, ...], kind: str, tmp_path: Path):
    broken = []
    for number, mutate in enumerate((good, on_head, whole_vocabulary, on_experts, HEAD)):
        for end in ("A", "B"):
            draft = Draft()
            mutate(draft)
            for key in list(draft.tensors):
                if f"lora_{end}" in key or f"embedding_{end}" in key or "lm_head" in key:
                    draft.tensors[key] = np.zeros(shape, kind)
            adapter, beside = draft.write(tmp_path / f"{number}{end}")
            options = Options(Selection(("VLM",), consumers=frozenset(CONSUMERS)), workers=1)
            result = validate([adapter], open_base(beside), options).results[0]
            broken += [one for one in result.unchecked if "internal error" in one.reason]
    assert broken == []


def test_patterns_that_run_away_are_given_up(tmp_path: Path):
    draft = Draft()
    adapting(*ALL)(draft)
    draft.config["alpha_pattern"] = {f"(a|aa|a?)+b{number}": 3 for number in range(50)}
    draft.config["alpha_pattern"] |= {r"(.*.*.*.*.*.*)*!": 3}
    found = report(draft, tmp_path, "sglang")
    assert all("internal error" not in one.reason for one in found.unchecked)


LOADING: dict[str, Mutation] = {
    "a good one": good,
    "every projection": adapting(*ALL),
    "an unknown type": fields(peft_type="BONE"),
    "a type in small letters": fields(peft_type="lora"),
    "an unknown field": fields(mystery=1),
    "half a pair": without("layers.0.self_attn.q_proj.lora_B.weight"),
    "a module that is not saved": without("layers.0.self_attn.q_proj.lora_A.weight"),
    "keys without a prefix": renamed("base_model.model.", ""),
    "keys with two": renamed("base_model.model.", "base_model.model.base_model.model."),
    "another rank": fields(r=16),
    "another rank for some": fields(rank_pattern={"q_proj": 4}),
    "rank 0": fields(r=0),
    "a rank that is no whole number": fields(r=8.0),
    "alpha in words": fields(lora_alpha="8"),
    "dropout of 150 %": fields(lora_dropout=1.5),
    "an unknown bias": fields(bias="some"),
    "biases that are not saved": fields(bias="all"),
    "DoRA without magnitudes": fields(use_dora=True),
    "KaSA without its diagonal": fields(kasa_config={}),
    "no targets": fields(target_modules=[]),
    "targets that are nowhere": fields(target_modules=["nope"]),
    "targets of which one is nowhere": fields(target_modules=["q_proj", "v_proj", "nope"]),
    "targets by default": fields(target_modules=None),
    "every layer's targets": fields(target_modules="all-linear"),
    "everything excluded": fields(exclude_modules=["q_proj", "v_proj"]),
    "a pattern and layers": fields(target_modules=".*q_proj", layers_to_transform=[0]),
    "layers_pattern alone": fields(layers_pattern="layers"),
    "one target parameter": fields(target_parameters="mlp.experts"),
    "CorDA": fields(init_lora_weights="corda"),
    "an unknown initialisation": fields(init_lora_weights="novel"),
    "OLoRA": fields(init_lora_weights="olora"),
    "an unknown task": fields(task_type="NOVEL"),
    "an Arrow router": fields(arrow_config={"top_k": 1}),
    "BD-LoRA that is not": fields(
        use_bdlora={"nblocks": 2, "target_modules_bd_a": ["q_proj"], "target_modules_bd_b": ["v_proj"]}
    ),
    "a head that is not saved": fields(modules_to_save=["lm_head"]),
    "a head that is": together(fields(modules_to_save=["lm_head"]), HEAD),
    "token rows that are not saved": fields(trainable_token_indices=[1]),
    "a larger vocabulary": with_tensor("model.embed_tokens.weight", VOCABULARY + 2, WIDTH),
    "an output head": on_head,
    "an embedding": together(whole_vocabulary, COPY),
    "A and B exchanged": lambda draft: draft.tensors.update(
        {f"{Q}.lora_A.weight": draft.tensors[f"{Q}.lora_A.weight"].T.copy()}
    ),
    "a flat A": lambda draft: draft.tensors.update({f"{Q}.lora_A.weight": numbers((RANK * WIDTH,), 1)}),
}
"""Adapters that PEFT itself is asked to load."""

LOAD_RULES = ("PFT001", "PFT003", "PFT004", "PFT005", "PFT006", "PFT012")


@pytest.mark.parametrize("name", LOADING)
def test_peft_complains_where_its_rules_do(name: str, tmp_path: Path):
    pytest.importorskip("peft")
    draft = Draft()
    LOADING[name](draft)
    found = report(draft, tmp_path, "peft")
    said = sorted({finding.code for finding in found.findings} & {*LOAD_RULES})
    complaint = _complaint_of_peft(tmp_path)
    assert bool(said) == bool(complaint), f"rules: {said}; PEFT: {complaint}"


def _complaint_of_peft(folder: Path) -> str:
    """What PEFT raises, or warns of, as it loads the adapter onto its base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            PeftModel.from_pretrained(base, str(folder / "adapter"))
        except Exception as error:  # PEFT raises whatever its parts do
            return f"{type(error).__name__}: {error}"
    texts = [str(warning.message) for warning in warned]
    words = ("missing adapter keys", "Unexpected keyword")
    return next((text for text in texts if any(word in text for word in words)), "")


def test_peft_merges_a_tied_head_wrongly(tmp_path: Path):
    torch, peft, transformers = (pytest.importorskip(name) for name in ("torch", "peft", "transformers"))
    draft = Draft()
    together(on_head, tied)(draft)
    assert {"PFT008"} <= {finding.code for finding in report(draft, tmp_path, "peft").findings}
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    tokens = torch.arange(6)[None]
    before = model(tokens).logits
    assert (model.merge_and_unload()(tokens).logits - before).abs().max() > 1e-3


def test_a_model_without_a_head_ties_nothing(tmp_path: Path):
    draft = Draft()
    together(on_head, tied, fields(task_type="FEATURE_EXTRACTION"))(draft)
    assert "PFT008" not in {finding.code for finding in report(draft, tmp_path, "peft").findings}


def test_the_types_are_pefts():
    types = pytest.importorskip("peft").PeftType
    assert {kind.value for kind in types} == TYPES


def test_layers_are_counted_in_the_base(tmp_path: Path):
    draft = Draft()
    adapting("q_proj", "v_proj", layers=range(1))(draft)
    assert [finding.code for finding in report(draft, tmp_path / "with", "lorax").findings] == ["LRX005", "LRX005"]
    assert report(draft, tmp_path / "without", "lorax", base=False).findings == ()
