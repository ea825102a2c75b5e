"""Rules for an adapter's tensors: every key in one place, LoRA's factors against each other and the config."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptool.rules.draft import HIDDEN, LAYERS, PREFIX, RANK, VOCABULARY, WIDTH, Draft, Q, V, numbers
from adaptool.rules.engine import AdapterReport, Options, validate
from adaptool.rules.selection import Selection

A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
EMBED, HEAD = f"{PREFIX}model.embed_tokens", f"{PREFIX}lm_head"
TOKENS = f"{EMBED}.token_adapter.trainable_tokens_delta"
FIXTURES = Path(__file__).parent.parent / "fixtures"


def checked(draft: Draft, folder: Path) -> AdapterReport:
    """What the rules on tensors say of a draft, without its base."""
    adapter, _ = draft.write(folder)
    result = validate([adapter], None, Options(Selection(("TEN",))))
    assert result.failures == ()
    return result.results[0]


def codes(draft: Draft, folder: Path) -> list[str]:
    """What they find, the gravest first."""
    report = checked(draft, folder)
    assert report.unchecked == ()
    return [finding.code for finding in report.findings]


def spelt(draft: Draft, spell: Callable[[str], str]) -> Draft:
    draft.tensors = {spell(key): array for key, array in draft.tensors.items()}
    return draft


SPELLINGS = {
    "no prefix": (lambda key: key.removeprefix(PREFIX), ["TEN001"]),
    "a runtime's prefix": (lambda key: key.replace(PREFIX, "language_model."), ["TEN001"]),
    "the adapter's name": (lambda key: key.replace(".weight", ".default.weight"), ["TEN002"]),
    "another name": (lambda key: key.replace(".weight", ".my-adapter.weight"), ["TEN002"]),
    "torch.compile": (lambda key: key.replace(PREFIX, f"{PREFIX}_orig_mod."), ["TEN003"]),
    "compiled outside": (lambda key: f"_orig_mod.{key}", ["TEN003"]),
    "FSDP": (lambda key: key.replace(".self_attn.", "._fsdp_wrapped_module.self_attn."), ["TEN003"]),
    "checkpointing": (lambda key: key.replace("layers.0.", "layers.0._checkpoint_wrapped_module."), ["TEN003"]),
    "DDP": (lambda key: f"module.{key}", ["TEN003"]),
    "DeepSpeed inside": (lambda key: key.replace(PREFIX, f"{PREFIX}module."), ["TEN003"]),
    "an attribute before it": (lambda key: f"policy.{key}", ["TEN003"]),
    "kohya": (lambda key: "lora_unet_" + key.replace(".", "_").replace("_lora_A_weight", ".lora_down.weight")
              .replace("_lora_B_weight", ".lora_up.weight"), ["TEN004"]),
    "diffusers of old": (lambda key: key.removeprefix(PREFIX).replace("lora_A", "lora.down")
                         .replace("lora_B", "lora.up"), ["TEN004"]),
    "diffusers": (lambda key: key.replace(f"{PREFIX}model.layers", "unet.down_blocks"), ["TEN004"]),
    "ComfyUI": (lambda key: key.replace(f"{PREFIX}model", "diffusion_model"), ["TEN004"]),
    "MLX": (lambda key: key.removeprefix(PREFIX).replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b"),
            ["TEN004"]),
    "llama.cpp": (lambda key: key.replace(f"{PREFIX}model.layers", "blk").replace("self_attn.q_proj", "attn_q")
                  .replace("self_attn.v_proj", "attn_v").replace("lora_A.weight", "weight.lora_a")
                  .replace("lora_B.weight", "weight.lora_b"), ["TEN004"]),
    "torchtune": (lambda key: key.removeprefix(PREFIX).replace("lora_A", "lora_a").replace("lora_B", "lora_b"),
                  ["TEN004"]),
    "PEFT twice": (lambda key: PREFIX + key, ["TEN005"]),
    "GPT-2 without a prefix": (lambda key: key.replace(f"{PREFIX}model.layers", "transformer.h"), ["TEN001"]),
    "LoKr": (lambda key: key.replace("lora_A.weight", "lokr_w1").replace("lora_B.weight", "lokr_w2"), ["TEN011"]),
    "IA3": (lambda key: key.replace("lora_A.weight", "ia3_l").replace("lora_B.weight", "ia3_m"), ["TEN011"]),
    "bare parts": (lambda key: key.removesuffix(".weight"), ["TEN012"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_is_recognised_as_one_problem(name, tmp_path):
    spell, expected = SPELLINGS[name]
    report = checked(spelt(Draft(), spell), tmp_path)
    assert expected == [finding.code for finding in report.findings]
    assert report.findings[0].severity == "error"


def test_a_fix_says_what_the_tool_was(tmp_path):
    report = checked(spelt(Draft(), SPELLINGS["MLX"][0]), tmp_path)
    (finding,) = report.findings
    assert "MLX-LM" in finding.message
    assert "transpose" in finding.fix
    assert len(finding.tensors) == 4 * LAYERS


def test_adalora_in_a_lora_config(tmp_path):
    draft = spelt(Draft(), lambda key: key.removesuffix(".weight"))
    for module in (Q, V):
        draft.tensors[f"{module}.lora_E"] = numbers((RANK, 1), 1)
    report = checked(draft, tmp_path)
    assert [finding.code for finding in report.findings] == ["TEN011"]
    assert "AdaLoRA" in report.findings[0].message


def added(*tensors: tuple[str, tuple[int, ...]], **fields: Any) -> Draft:
    draft = Draft()
    draft.config |= json.loads(json.dumps(fields))
    draft.tensors |= {key: numbers(shape, number) for number, (key, shape) in enumerate(tensors)}
    return draft


def without(*ends: str) -> Draft:
    draft = Draft()
    draft.tensors = {key: array for key, array in draft.tensors.items() if not key.endswith(ends)}
    return draft


def changed(key: str, change: Callable[[np.ndarray], np.ndarray], **fields: Any) -> Draft:
    draft = added(**fields)
    for name in [name for name in draft.tensors if key in name]:
        draft.tensors[name] = np.ascontiguousarray(change(draft.tensors[name]))
    return draft


FULL_RANK = [(f"{Q}.lora_A.weight", (WIDTH, WIDTH)), (f"{Q}.lora_B.weight", (WIDTH, WIDTH))]
EMBEDDING = [(f"{EMBED}.lora_embedding_A", (RANK, VOCABULARY)), (f"{EMBED}.lora_embedding_B", (WIDTH, RANK))]
MAGNITUDES = [
    (f"{module.replace('layers.0.', f'layers.{layer}.')}.lora_magnitude_vector", (rows,))
    for layer in range(LAYERS)
    for module, rows in ((Q, WIDTH), (V, WIDTH // 2))
]

BROKEN: dict[str, tuple[Draft, list[str]]] = {
    "an empty key": (added(("", (1,))), ["TEN010"]),
    "only the prefix": (added((PREFIX, (1,))), ["TEN010"]),
    "a buffer": (added((f"{PREFIX}model.rotary.inv_freq", (4,))), ["TEN010"]),
    "a shared part": (added(("base_model.vera_A", (4, 4))), ["TEN011"]),
    "an unknown part": (added((f"{Q}.lora_C.weight", (4, 64))), ["TEN012"]),
    "a weight": (added((f"{PREFIX}model.layers.0.mlp.up_proj.weight", (HIDDEN, WIDTH))), ["TEN013"]),
    "a wrapped weight": (added((f"{Q}.base_layer.weight", (WIDTH, WIDTH))), ["TEN013"]),
    "magnitudes": (added(*MAGNITUDES), ["TEN014"]),
    "a diagonal": (added((f"{Q}.lora_diag", (RANK,))), ["TEN014"]),
    "a bias of LoRA's": (added((f"{Q}.lora_B.bias", (WIDTH,))), ["TEN014"]),
    "VeLoRA": (added((f"{Q}.lora_velora_embed", (4,))), ["TEN014"]),
    "tokens": (added((TOKENS, (3, WIDTH))), ["TEN014"]),
    "a bias": (added((f"{PREFIX}model.layers.0.mlp.up_proj.bias", (HIDDEN,))), ["TEN015"]),
    "a wrapped bias": (added((f"{Q}.base_layer.bias", (WIDTH,))), ["TEN015"]),
    "a head alone": (added((f"{HEAD}.weight", (VOCABULARY, WIDTH))), ["TEN016"]),
    "no lora_B": (without("lora_B.weight"), ["TEN020"]),
    "no lora_A in one": (without(A), ["TEN020"]),
    "half an embedding": (added(EMBEDDING[0]), ["TEN020"]),
    "ZeRO-3": (changed("lora_", lambda a: a.reshape(-1)[:0]), ["TEN021"]),
    "flat": (changed("lora_A", lambda a: a.reshape(-1)), ["TEN021"]),
    "a number": (changed(A, lambda a: a.reshape(-1)[0]), ["TEN021"]),
    "no rows": (changed(A, lambda a: a[:0]), ["TEN021"]),
    "an empty head": (added((f"{HEAD}.weight", (0,)), modules_to_save=["lm_head"]), ["TEN021"]),
    "two ranks": (changed(B, lambda b: b[:, :-2]), ["TEN022"]),
    "A transposed": (changed("lora_A", np.transpose), ["TEN023"]),
    "B transposed": (changed("lora_B", np.transpose), ["TEN023"]),
    "both transposed": (changed("lora_", np.transpose), ["TEN023"]),
    "swapped": (spelt(Draft(), lambda key: key.replace("lora_A" if "lora_A" in key else "lora_B",
                                                       "lora_B" if "lora_A" in key else "lora_A")), ["TEN023"]),
    "transposed, of another rank": (changed("lora_", np.transpose, r=3), ["TEN023"]),
    "another rank": (added(r=2 * RANK), ["TEN024"]),
    "another rank in one": (added(rank_pattern={"layers.1.self_attn.v_proj": 3}), ["TEN024"]),
    "magnitudes too short": (added(*[(key, (3,)) for key, _ in MAGNITUDES], use_dora=True), ["TEN025"]),
    "a convolution's B": (changed("lora_B", lambda b: b[..., None, None]), ["TEN025"]),
    "a diagonal too long": (added(*[(key.replace("magnitude_vector", "diag"), (RANK + 1,)) for key, _ in MAGNITUDES],
                                  kasa_config={}), ["TEN025"]),
    "DoRA without magnitudes": (added(use_dora=True), ["TEN026"]),
    "DoRA with one missing": (added(*MAGNITUDES[1:], use_dora=True), ["TEN026"]),
    "KaSA without diagonals": (added(kasa_config={}), ["TEN026"]),
    "lora_bias without biases": (added(lora_bias=True), ["TEN026"]),
    "too few rows": (added((TOKENS, (2, WIDTH)), trainable_token_indices=[1, 2, 3]), ["TEN027"]),
    "a token twice": (added((TOKENS, (3, WIDTH)), trainable_token_indices=[1, 2, 1]), ["TEN027"]),
    "a negative token": (added((TOKENS, (2, WIDTH)), trainable_token_indices=[1, -2]), ["TEN027"]),
    "no rows at all": (added(trainable_token_indices=[1, 2]), ["TEN027"]),
    "rows of another module": (added((TOKENS, (2, WIDTH)), trainable_token_indices={"wte": [1, 2]}), ["TEN027"]),
    "half in 16 bits": (changed("lora_A", lambda a: a.astype("float16")), ["TEN030"]),
    "a layer in 16 bits": (changed("layers.1.", lambda a: a.astype("float16")), ["TEN030"]),
    "integers": (changed("lora_", lambda a: (99 * a).astype("int8")), ["TEN031"]),
    "truth values": (changed(A, lambda a: a > 0), ["TEN030", "TEN031"]),
    "doubles": (changed("lora_", lambda a: a.astype("float64")), ["TEN031"]),
    "no biases": (added(bias="all"), ["TEN034"]),
    "only a head": (without("lora_A.weight", "lora_B.weight"), ["TEN035"]),
}  # fmt: skip
BROKEN["only a head"][0].tensors[f"{PREFIX}score.weight"] = numbers((2, WIDTH), 1)
BROKEN["only a head"][0].config["modules_to_save"] = ["score"]


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_found_once_by_its_rule(name, tmp_path):
    draft, expected = BROKEN[name]
    assert sorted(expected) == sorted(codes(draft, tmp_path))


def layered(*layers: Sequence[str]) -> Draft:
    """A model whose layers have different projections."""
    draft = Draft()
    shapes = {"lora_A.weight": (RANK, WIDTH), "lora_B.weight": (WIDTH, RANK)}
    draft.config["target_modules"] = sorted({name.rpartition(".")[2] for names in layers for name in names})
    draft.tensors = {
        f"{PREFIX}model.layers.{layer}.{name}.{part}": numbers(shape, layer)
        for layer, names in enumerate(layers) for name in names for part, shape in shapes.items()
    }  # fmt: skip
    return draft


BLOCK = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")

SOUND: dict[str, Draft] = {
    "full rank": added(*FULL_RANK, rank_pattern={"layers.0.self_attn.q_proj": WIDTH}),
    "a pattern": added((A, (3, WIDTH)), (B, (WIDTH, 3)), rank_pattern={r"0\.self_attn\.q_proj": 3}),
    "the first pattern wins": added((A, (3, WIDTH)), (B, (WIDTH, 3)),
                                    rank_pattern={"layers.0.self_attn.q_proj": 3, "q_proj": RANK}),
    "DoRA": added(*MAGNITUDES, use_dora=True),
    "an embedding": added(*EMBEDDING),
    "tokens": added((TOKENS, (3, WIDTH)), trainable_token_indices=[5, 1, 3]),
    "a classifier": added((f"{PREFIX}score.weight", (2, WIDTH)), task_type="SEQ_CLS", modules_to_save=["score"]),
    "a classifier of PEFT 0.10": added((f"{PREFIX}score.weight", (2, WIDTH)), task_type="SEQ_CLS"),
    "layers chosen": added((f"{Q.replace('s.0.', 's.5.')}.lora_A.weight", (RANK, WIDTH)),
                           (f"{Q.replace('s.0.', 's.5.')}.lora_B.weight", (WIDTH, RANK)),
                           layers_to_transform=[0, 1, 5]),
    "biases": added((f"{Q}.base_layer.bias", (WIDTH,)), bias="lora_only"),
    "parameters by bare names": added(target_parameters=["gate_up_proj", "down_proj"], rank_pattern={"down_proj": 2}),
    "parameters beside a pattern": added(target_modules=r".*\.[qv]_proj", target_parameters=["gate_up_proj"],
                                         rank_pattern={".*.gate_up_proj": 2}),
    "a small Jamba's one attention": layered(*[["mamba.in_proj"]] * 4, ["self_attn.q_proj"], *[["mamba.in_proj"]] * 3),
    "a layer without attention": layered(*[BLOCK] * 5, BLOCK[2:], *[BLOCK] * 2),
    "a double in a whole module": changed("nothing", lambda a: a),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_is_not_talked_of(name, tmp_path):
    report = checked(SOUND[name], tmp_path)
    assert report.unchecked == ()
    assert [finding for finding in report.findings if finding.severity != "info"] == []


def test_a_projection_lost_in_a_layer(tmp_path):
    draft = layered(*[BLOCK] * 5, BLOCK[1:], *[BLOCK] * 2)
    assert [(finding.code, finding.severity) for finding in checked(draft, tmp_path).findings] == [
        ("TEN032", "warning")
    ]


def test_convolutions_widen_from_stage_to_stage(tmp_path):
    draft = spelt(Draft(), lambda key: key.replace("model.layers.", "net.stages.").replace("self_attn", "layers.0"))
    draft.tensors[f"{PREFIX}net.stages.1.layers.0.q_proj.lora_A.weight"] = numbers((RANK, WIDTH // 2), 1)
    assert codes(draft, tmp_path) == []


def test_the_wrong_scale_is_given_as_a_factor(tmp_path):
    (finding,) = checked(added(r=4 * RANK), tmp_path / "lora").findings
    assert "scales them ×0.25" in finding.message
    assert f"set r to {RANK}" == finding.fix
    (finding,) = checked(added(r=4 * RANK, use_rslora=True), tmp_path / "rslora").findings
    assert "scales them ×0.5" in finding.message


def test_two_adapters_by_their_names(tmp_path):
    draft = Draft()
    for key in list(draft.tensors):
        draft.tensors[key.replace(".weight", ".other.weight")] = draft.tensors[key]
    report = checked(draft, tmp_path)
    assert [finding.code for finding in report.findings] == ["TEN007"]
    assert "'other', one without a name" in report.findings[0].message


def test_two_adapters_by_what_is_before_the_prefix(tmp_path):
    draft = Draft()
    draft.tensors = {f"{name}.{key}": array for name in ("sql", "chat") for key, array in draft.tensors.items()}
    (finding,) = checked(draft, tmp_path).findings
    assert finding.code == "TEN007"


def deep(missing: set[int], layers: int = 8, **fields: Any) -> Draft:
    """A draft of more layers, some of them missing."""
    draft = added(**fields)
    for layer in range(layers):
        for module, rows in ((Q, WIDTH), (V, WIDTH // 2)):
            key = module.replace("layers.0.", f"layers.{layer}.")
            draft.tensors[f"{key}.lora_A.weight"] = numbers((RANK, WIDTH), layer)
            draft.tensors[f"{key}.lora_B.weight"] = numbers((rows, RANK), layer, 0.01)
    gone = tuple(f"layers.{layer}." for layer in missing)
    draft.tensors = {key: array for key, array in draft.tensors.items() if not any(one in key for one in gone)}
    return draft


@pytest.mark.parametrize(("draft", "severity"), [
    (deep({4}), "warning"), (deep({4, 5}), "warning"), (deep({1, 3, 5}), "info"), (deep(set()), None),
    (deep({4}, layers_to_transform=[0, 1]), "info"), (deep({0}), None), (deep({7}), None),
    (deep({4}, target_modules=".*_proj"), "info"), (deep({4}, exclude_modules=["k_proj"]), "info"),
])  # fmt: skip
def test_a_hole_in_the_layers(draft, severity, tmp_path):
    report = checked(draft, tmp_path)
    assert ([severity] if severity else []) == [finding.severity for finding in report.findings]


def test_every_key_is_in_one_bucket_at_most(tmp_path):
    draft = Draft()
    draft.tensors |= {key: numbers((2,), 1) for key in ODD_KEYS}
    report = checked(draft, tmp_path)
    told = [key for finding in report.findings if finding.code < "TEN019" for key in finding.tensors]
    assert sorted(ODD_KEYS) == sorted(told)


ODD_KEYS = (
    "", "x", ".", "..", "weight", "base_model", "base_model.", PREFIX, f"{PREFIX}.", f"{PREFIX}.weight", "a" * 300,
    f"{PREFIX}x", f"{PREFIX}model.layers.0.lora_A", f"{PREFIX}model.layers.0.mlp.gate_proj.weight.absmax",
    "model.layers.0.weight", "module.weight", f"{PREFIX}model.\x1b[31m.weight", "lora_te1_x.alpha",
    f"{Q}.lora_A.default.bias", f"{Q}.hada_w1_a", f"{Q}.lora_", "base_model.lora_A.weight",
    f"{PREFIX}a.modules_to_save.default.weight", "ü.lora_A.weight",
)  # fmt: skip


def test_a_type_nobody_knows_is_not_analysed(tmp_path):
    report = checked(added(peft_type="FUTURELORA"), tmp_path)
    assert "TEN010" in [unchecked.code for unchecked in report.unchecked]
    assert "not analysed" in report.unchecked[0].reason
    assert report.verdict == "unchecked"


@pytest.mark.parametrize("name", ["smollm2-lora", "minilm-lora", "minilm-seqcls-lora"])
def test_the_trained_adapters_are_sound(name):
    (report,) = validate([FIXTURES / name], None, Options(Selection(("TEN",)))).results
    assert report.findings == ()
    assert report.unchecked == ()
