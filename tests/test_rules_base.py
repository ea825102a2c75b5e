"""Rules against a base: they agree with the merge, whatever is done to an adapter, and say what a base it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adaptool.adapters.adapter import open_adapter
from adaptool.adapters.base import open_base
from adaptool.errors import AdaptoolError
from adaptool.merging.merged import merge
from adaptool.rules.draft import HIDDEN, LAYERS, MODULES, PREFIX, RANK, VOCABULARY, WIDTH, Draft, numbers
from adaptool.rules.engine import AdapterReport, Options, validate
from adaptool.rules.selection import Selection
from adaptool.summary.expected import trained_config
from adaptool.summary.summary import open_model

EMBED, HEAD = f"{PREFIX}model.embed_tokens", f"{PREFIX}lm_head"


def checked(draft: Draft, folder: Path, *select: str) -> AdapterReport:
    """What rules say of a draft on its base."""
    adapter, base = draft.write(folder)
    result = validate([adapter], open_base(base), Options(Selection(select)))
    assert result.failures == ()
    return result.results[0]


def refusal_of(draft: Draft, folder: Path) -> AdaptoolError | None:
    """What a merge of a draft, already written, ends with."""
    try:
        merge(open_base(folder / "base"), [(open_adapter(folder / "adapter"), 1.0)])
    except AdaptoolError as error:
        return error
    return None


# What a healthy adapter may be made of, beside its factors.


def plain(draft: Draft) -> None:
    pass


def dora(draft: Draft) -> None:
    draft.config["use_dora"] = True
    for key in [key for key in draft.tensors if key.endswith("lora_B.weight")]:
        rows = draft.tensors[key].shape[0]
        draft.tensors[key.replace("lora_B.weight", "lora_magnitude_vector")] = 1 + numbers((rows,), rows)


def embeddings(draft: Draft) -> None:
    draft.config["target_modules"] += ["embed_tokens", "lm_head"]
    draft.tensors |= {
        f"{EMBED}.lora_embedding_A": numbers((RANK, VOCABULARY), 1),
        f"{EMBED}.lora_embedding_B": numbers((WIDTH, RANK), 2),
        f"{EMBED}.base_layer.weight": numbers((VOCABULARY, WIDTH), 3),
        f"{HEAD}.lora_A.weight": numbers((RANK, WIDTH), 4),
        f"{HEAD}.lora_B.weight": numbers((VOCABULARY, RANK), 5),
        f"{HEAD}.base_layer.weight": numbers((VOCABULARY, WIDTH), 6),
    }


def resized(draft: Draft) -> None:
    for number, key in enumerate((EMBED, HEAD)):
        draft.tensors[f"{key}.weight"] = numbers((VOCABULARY + 8, WIDTH), number)


def head(draft: Draft) -> None:
    draft.config["modules_to_save"] = ["lm_head", "norm"]
    draft.tensors[f"{HEAD}.weight"] = numbers((VOCABULARY, WIDTH), 1)
    draft.tensors[f"{PREFIX}model.norm.weight"] = numbers((WIDTH,), 2)


def tokens(draft: Draft) -> None:
    draft.config["trainable_token_indices"] = [3, 5, 1]
    draft.tensors[f"{EMBED}.token_adapter.trainable_tokens_delta"] = numbers((3, WIDTH), 1)


def biases(draft: Draft) -> None:
    draft.config["bias"] = "lora_only"
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.self_attn.q_proj"
        draft.base_tensors[f"{name}.bias"] = numbers((WIDTH,), layer)
        draft.tensors[f"{PREFIX}{name}.base_layer.bias"] = numbers((WIDTH,), layer + 9)


def patterns(draft: Draft) -> None:
    draft.config |= {"rank_pattern": {r"0\.self_attn\.v_proj": 3}, "alpha_pattern": {"v_proj": 2.5}, "use_rslora": True}
    name = f"{PREFIX}model.layers.0.self_attn.v_proj"
    draft.tensors[f"{name}.lora_A.weight"] = numbers((3, WIDTH), 1)
    draft.tensors[f"{name}.lora_B.weight"] = numbers((MODULES["self_attn.v_proj"][0], 3), 2)


KINDS: tuple[Callable[[Draft], None], ...] = (plain, dora, embeddings, resized, head, tokens, biases, patterns)


# What happens to it.


def dropped(draft: Draft, dice: random.Random) -> None:
    del draft.tensors[dice.choice(list(draft.tensors))]


SPELLINGS: tuple[tuple[str, str], ...] = (
    (PREFIX, ""), (PREFIX, PREFIX * 2), (PREFIX, "base_model."), (PREFIX, f"{PREFIX}_orig_mod."),
    (PREFIX, f"module.{PREFIX}"), (PREFIX, f"{PREFIX}model."), ("model.layers", "transformer.h"),
    ("layers.1.", "layers.9."), ("self_attn", "attn"), ("q_proj", "Q_proj"), ("q_proj", "k_proj"),
    ("v_proj", "up_proj"), ("q_proj", "o_proj"), ("lora_A.weight", "lora_A.default.weight"),
    ("lora_B.weight", "lora_B"), ("lora_A.weight", "lora_C.weight"), ("lora_A.weight", "lora_down.weight"),
    ("lora_B", "lora_b"), ("lora_A.weight", "lokr_w1"), ("lora_B.weight", "lora_B.bias"), (".weight", ".bias"),
    (".weight", ""), ("lora_", "base_layer."), ("lora_B.weight", "lora_diag"), (".self_attn.", "."),
    ("lora_A.weight", "weight"), ("lora_embedding_A", "lora_A.weight"), ("base_layer.weight", "weight"),
)  # fmt: skip


def respelt(draft: Draft, dice: random.Random) -> None:
    """One key, or every key, spelt otherwise."""
    old, new = dice.choice(SPELLINGS)
    chosen = set(draft.tensors) if dice.random() < 0.5 else {dice.choice(list(draft.tensors))}
    draft.tensors = {
        key.replace(old, new) if key in chosen else key: array for key, array in draft.tensors.items()
    }  # fmt: skip


def reshaped(draft: Draft, dice: random.Random) -> None:
    shapes: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
        lambda a: a.T, lambda a: a.reshape(-1), lambda a: a[:-1], lambda a: a[..., :-1], lambda a: a[:0],
        lambda a: a.reshape(-1)[0], lambda a: a[None], lambda a: a[..., None], lambda a: np.concatenate([a, a]),
        lambda a: a[..., None, None], lambda a: np.concatenate([a, a], axis=-1),
    )  # fmt: skip
    change = dice.choice(shapes)
    part = dice.choice(["lora_A", "lora_B", ""])
    chosen = [key for key in draft.tensors if part in key]
    for key in chosen if dice.random() < 0.3 else chosen[:1]:
        draft.tensors[key] = np.ascontiguousarray(change(draft.tensors[key]))


def swapped(draft: Draft, dice: random.Random) -> None:
    one, other = dice.sample(list(draft.tensors), 2)
    draft.tensors[one], draft.tensors[other] = draft.tensors[other], draft.tensors[one]


def retyped(draft: Draft, dice: random.Random) -> None:
    kind = dice.choice(["float16", "float64", "int64", "uint8", "bool"])
    chosen = list(draft.tensors) if dice.random() < 0.5 else [dice.choice(list(draft.tensors))]
    for key in chosen:
        draft.tensors[key] = (30 * draft.tensors[key]).astype(kind)


def added(draft: Draft, dice: random.Random) -> None:
    tails = ("mlp.up_proj.weight", "mlp.up_proj.bias", "self_attn.q_proj.lora_diag", "self_attn.q_proj.surprise",
             "self_attn.q_proj.base_layer.weight", "mlp.up_proj.lora_magnitude_vector", "self_attn.q_proj.lora_B.bias",
             "mlp.extra.weight", "mlp.down_proj.lora_A.weight", "self_attn.q_proj.ia3_l")  # fmt: skip
    shape = dice.choice([(HIDDEN, WIDTH), (WIDTH, WIDTH), (WIDTH,), (RANK,), (RANK, WIDTH), ()])
    draft.tensors[f"{PREFIX}model.layers.0.{dice.choice(tails)}"] = numbers(shape, 5)


def reconfigured(draft: Draft, dice: random.Random) -> None:
    changes = (
        {"r": RANK * 2}, {"r": 1}, {"rank_pattern": {"q_proj": 3}}, {"use_dora": True}, {"use_dora": False},
        {"kasa_config": {}}, {"lora_bias": True}, {"modules_to_save": ["up_proj"]}, {"modules_to_save": None},
        {"bias": "none"}, {"bias": "all"}, {"trainable_token_indices": [3, VOCABULARY, 1]},
        {"trainable_token_indices": [3]}, {"trainable_token_indices": None},
        {"target_parameters": ["self_attn.q_proj.weight"]},
        {"use_bdlora": {"nblocks": 2, "target_modules_bd_a": ["q"]}},
    )  # fmt: skip
    draft.config |= dice.choice(changes)


def rebased(draft: Draft, dice: random.Random) -> None:
    """The base is another one."""
    name = dice.choice([name for name in draft.base_tensors if name.endswith("proj.weight") or "embed" in name])
    what = dice.randrange(4)
    if what == 0:
        del draft.base_tensors[name]
    elif what == 1:
        draft.base_tensors[name] = draft.base_tensors[name][:-2]
    elif what == 2:
        draft.base_tensors[name] = np.ascontiguousarray(draft.base_tensors[name][:, :-2])
    else:
        draft.base_config["tie_word_embeddings"] = True
        draft.base_tensors.pop("lm_head.weight", None)


ACCIDENTS: tuple[Callable[[Draft, random.Random], None], ...] = (
    dropped, respelt, reshaped, swapped, retyped, added, reconfigured, rebased,
)  # fmt: skip

STRICTER = {
    "TEN013": "a weight the config does not name is loaded over the base's all the same",
    "TEN014": "a bias of LoRA's own that lora_bias does not announce: PEFT drops it",
    "TEN015": "biases that bias=none does not announce",
    "TEN026": "lora_bias is set and the biases are lost",
    "TEN027": "trained tokens announced and not saved, or one of them twice",
    "TEN031": "whole numbers and truth values can be added to weights",
    "BAS004": "shapes that fit only transposed, on a model without Conv1D",
    "BAS007": "biases trained and not saved",
}
"""Errors of validate's that a merge has no reason to refuse, and what they are about."""


def accident(seed: int) -> Draft:
    """A healthy adapter of some kind, to which one or two things have happened."""
    dice, draft = random.Random(seed), Draft()
    for kind in dict.fromkeys((KINDS[seed % len(KINDS)], dice.choice(KINDS))):
        kind(draft)
    for happens in dice.choices(ACCIDENTS, k=dice.choice([1, 1, 2])):
        if len(draft.tensors) > 1:
            happens(draft, dice)
    return draft


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_healthy_adapter_merges_and_has_no_error(kind, tmp_path):
    draft = Draft()
    kind(draft)
    report = checked(draft, tmp_path, "TEN", "BAS")
    assert [finding for finding in report.findings if finding.severity != "info"] == []
    assert report.unchecked == ()
    assert refusal_of(draft, tmp_path) is None


@pytest.mark.parametrize("first", range(0, 160, 20))
def test_what_a_merge_refuses_is_an_error_and_nothing_else(first, tmp_path):
    for seed in range(first, first + 20):
        draft, folder = accident(seed), tmp_path / str(seed)
        report = checked(draft, folder)
        refusal = refusal_of(draft, folder)
        errors = {finding.code for finding in report.findings if finding.severity == "error"}
        own = {code for code in errors if code.startswith(("TEN", "BAS"))} - STRICTER.keys()
        assert [unchecked for unchecked in report.unchecked if "internal error" in unchecked.reason] == [], seed
        if refusal is None:
            assert own == set(), seed
        else:
            assert errors != set(), (seed, refusal)


def findings(draft: Draft, folder: Path, code: str) -> list[str]:
    """The messages of one rule."""
    return [finding.message for finding in checked(draft, folder, "BAS", "TEN").findings if finding.code == code]


def renamed(draft: Draft, old: str, new: str) -> Draft:
    draft.tensors = {key.replace(old, new): array for key, array in draft.tensors.items()}
    return draft


def test_another_architecture_is_named(tmp_path):
    draft = renamed(renamed(Draft(), "model.layers", "transformer.h"), "self_attn.q_proj", "attn.c_attn")
    draft = renamed(draft, "self_attn.v_proj", "mlp.c_fc")
    (message,) = findings(draft, tmp_path, "BAS001")
    assert "a llama" in message
    assert "(as in gpt2)" in message


def test_a_prefix_that_differs_is_shown(tmp_path):
    draft = renamed(Draft(), "model.layers", "policy.model.layers")
    (message,) = findings(draft, tmp_path, "BAS001")
    assert "it has model.layers.0.self_attn.q_proj" in message


def test_layers_past_the_last(tmp_path):
    (message,) = findings(renamed(Draft(), "layers.1.", "layers.31."), tmp_path, "BAS002")
    assert "reaches layer 31, and the base has 2 layers, up to 1" in message


def test_another_hidden_size(tmp_path):
    draft = Draft()
    for key, array in draft.tensors.items():
        wide = "lora_A" in key
        draft.tensors[key] = np.concatenate([array, array], axis=1 if wide else 0)
    (message,) = findings(draft, tmp_path, "BAS003")
    assert f"made for a hidden size of {2 * WIDTH}, and the base's is {WIDTH}" in message


def test_another_number_of_heads_for_keys_and_values(tmp_path):
    draft = renamed(Draft(), "v_proj", "k_proj")
    for key in [key for key in draft.tensors if "k_proj.lora_B" in key]:
        draft.tensors[key] = numbers((WIDTH, RANK), 1)
    (message,) = findings(draft, tmp_path, "BAS003")
    assert "number of key/value heads differs" in message


def test_a_failure_without_a_name_of_its_own_is_said_once(tmp_path):
    draft = Draft()
    draft.config["alpha_pattern"] = {"q_proj": "high"}
    assert len(findings(draft, tmp_path, "BAS019")) == 1


def test_a_grouped_convolution_is_served_and_not_merged(tmp_path):
    draft, name = Draft(), "model.layers.0.self_attn.q_proj"
    draft.base_tensors[f"{name}.weight"] = numbers((WIDTH, WIDTH // 4, 3, 3), 1)
    draft.tensors[f"{PREFIX}{name}.lora_A.weight"] = numbers((RANK, WIDTH, 3, 3), 2)
    draft.tensors[f"{PREFIX}{name}.lora_B.weight"] = numbers((WIDTH, RANK, 1, 1), 3)
    report = checked(draft, tmp_path, "BAS")
    assert [(finding.code, finding.severity) for finding in report.findings] == [("BAS019", "info")]


@pytest.mark.parametrize("fields", [{"layers_to_transform": [0]}, {"target_modules": r".*\.0\..*(q|v)_proj"},
                                    {"exclude_modules": ["model.layers.1.self_attn.q_proj"]}])  # fmt: skip
def test_layers_left_out_on_purpose(fields, tmp_path):
    draft = Draft()
    draft.config |= fields
    draft.tensors = {key: array for key, array in draft.tensors.items() if "layers.0." in key}
    assert findings(draft, tmp_path, "BAS033") == []


def test_layers_left_out(tmp_path):
    draft = Draft()
    draft.tensors = {key: array for key, array in draft.tensors.items() if "layers.0." in key}
    (message,) = findings(draft, tmp_path, "BAS033")
    assert "only the first 1 of the base's 2 layers" in message


def test_layers_of_replicas_are_those_they_copy(tmp_path):
    draft = Draft()
    draft.config["layer_replication"] = [[0, 2], [1, 2]]
    for key in [key for key in draft.tensors if "layers.1." in key]:
        draft.tensors[key.replace("layers.1.", "layers.2.")] = draft.tensors[key]
    report = checked(draft, tmp_path / "fits", "BAS")
    assert [(finding.code, finding.severity) for finding in report.findings] == [("BAS034", "info")]
    assert findings(renamed(draft, "layers.2.", "layers.3."), tmp_path / "past", "BAS002") != []


def test_a_tied_head_shares_its_trained_tokens(tmp_path):
    draft = Draft()
    draft.config = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 5], "target_modules": ["embed_tokens"]}
    draft.tensors = {f"{name}.token_adapter.trainable_tokens_delta": numbers((2, WIDTH), 1) for name in (EMBED, HEAD)}
    draft.base_config["tie_word_embeddings"] = True
    del draft.base_tensors["lm_head.weight"]
    assert checked(draft, tmp_path, "BAS").findings == ()


def test_a_layer_before_the_classifier_has_no_labels(tmp_path):
    draft = Draft()
    draft.config |= {"task_type": "SEQ_CLS", "modules_to_save": ["pre_classifier", "classifier"]}
    draft.tensors[f"{PREFIX}pre_classifier.weight"] = numbers((WIDTH, WIDTH), 1)
    draft.tensors[f"{PREFIX}classifier.weight"] = numbers((2, WIDTH), 2)
    assert findings(draft, tmp_path, "BAS025") == []
    adapter = open_adapter(tmp_path / "adapter")
    shapes = {name: adapter.store[key].shape for name, key in adapter.full_tensors.items()}
    assert trained_config({"model_type": "distilbert"}, adapter.config, shapes)["num_labels"] == 2


def test_a_batch_norm_brings_its_count(tmp_path):
    draft = Draft()
    draft.config["modules_to_save"] = ["bn"]
    for name, array in {"weight": numbers((WIDTH,), 1), "num_batches_tracked": np.array([7])}.items():
        draft.base_tensors[f"model.bn.{name}"] = 0 * array
        draft.tensors[f"{PREFIX}model.bn.{name}"] = array
    assert checked(draft, tmp_path, "BAS").findings == ()
    merged = merge(open_base(tmp_path / "base"), [(open_adapter(tmp_path / "adapter"), 1.0)])
    assert merged.read("model.bn.num_batches_tracked").ravel().tolist() == [7]


def test_tokens_that_came_with_the_embedding(tmp_path):
    draft = Draft()
    resized(draft)
    draft.config["trainable_token_indices"] = [VOCABULARY + 1]
    draft.tensors[f"{EMBED}.token_adapter.trainable_tokens_delta"] = numbers((1, WIDTH), 1)
    assert findings(draft, tmp_path, "BAS021") == []


def test_a_base_that_is_only_a_config(tmp_path):
    draft = renamed(Draft(), "layers.1.", "layers.7.")
    adapter, base = draft.write(tmp_path)
    (base / "model.safetensors").unlink()
    (report,) = validate([adapter], open_model(base), Options(Selection(("BAS",)))).results
    assert [finding.code for finding in report.findings] == ["BAS002"]
    (base / "config.json").write_text('{"model_type": "unheard_of"}')
    (report,) = validate([adapter], open_model(base), Options(Selection(("BAS",)))).results
    assert report.verdict == "unchecked"


def test_a_base_quantised_into_another_layout(tmp_path):
    draft = Draft()
    draft.base_config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    for name in [name for name in draft.base_tensors if name.endswith("_proj.weight")]:
        rows, columns = draft.base_tensors.pop(name).shape
        draft.base_tensors[name.replace(".weight", ".qweight")] = np.zeros((columns // 8, rows), np.int32)
    for layer, codes in ((1, ["BAS032"]), (7, ["BAS002", "BAS032"])):
        adapter, base = renamed(draft, "layers.1.", f"layers.{layer}.").write(tmp_path / str(layer))
        (report,) = validate([adapter], open_model(base), Options(Selection(("BAS",)))).results
        assert codes == [finding.code for finding in report.findings]


@pytest.mark.parametrize(("named", "folder", "severity"), [
    ("meta-llama/Llama-3.1-8B", "models--meta-llama--Llama-3.1-8B/snapshots/abc", None),
    ("NousResearch/Llama-3.1-8B", "models--meta-llama--Llama-3.1-8B/snapshots/abc", None),
    ("Qwen/Qwen2.5-7B", "models--meta-llama--Llama-3.1-8B/snapshots/abc", "warning"),
    ("Qwen/Qwen2.5-7B", "Mistral-7B-v0.1", "info"), ("meta-llama/Llama-2-7b", "llama-2-13b", "info"),
    ("meta-llama/Meta-Llama-3-8B", "llama-3-8B", None), ("meta-llama/Llama-2-7b", "base", None),
    ("unsloth/llama-3-8b-bnb-4bit", "llama-3-8b", None), ("sentence-transformers/all-MiniLM-L6-v2", "model", None),
])  # fmt: skip
def test_which_base_is_another_one(named, folder, severity, tmp_path):
    draft = Draft()
    draft.config["base_model_name_or_path"] = named
    adapter, base = draft.write(tmp_path / "draft")
    (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
    base.rename(tmp_path / folder)
    (report,) = validate([adapter], open_base(tmp_path / folder), Options(Selection(("BAS030",)))).results
    assert ([severity] if severity else []) == [finding.severity for finding in report.findings]


ZOO = ("llama_resized_tokens", "llama_kasa", "llama_bdlora", "llama_layers", "tied_tokens_dict", "mixtral_experts",
       "gpt2_dora", "bert_seqcls_on_bare", "mha_bias_all", "conv2d_dora", "refuse_layer_replication")  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_what_peft_makes_is_fine_on_its_base(name, zoo):
    built = zoo(name)
    for adapter in built.adapter_dirs:
        (report,) = validate([adapter], open_base(built.base_dir), Options(Selection(("TEN", "BAS")))).results
        assert [finding for finding in report.findings if finding.severity != "info"] == []
        assert report.unchecked == ()
