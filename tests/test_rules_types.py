"""Every PEFT type: healthy adapters pass every rule, and whatever is broken in one is found, or said why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("peft")

from peft_types import CASES, build_all, peft_type_of
from safetensors.numpy import load_file

from adaptool.adapters.adapter import open_adapter
from adaptool.adapters.names import FULL, parse
from adaptool.adapters.tuners.unmergeable import LATER, PROMPTS, ROUTED
from adaptool.rules.draft import Draft, fields, packed, remade
from adaptool.rules.engine import AdapterReport, Options, validate
from adaptool.rules.forms import FORMS, all_features, emptied, features, type_of
from adaptool.rules.forms.checks import category_of, factorization
from adaptool.rules.selection import Selection
from adaptool.summary.contents import ANY_PART
from adaptool.summary.summary import inspect_path

OLD = {"bone": ["CFG026"], "bone-bat": ["CFG026"], "oft-before-0.14": ["CFG104"], "oft-before-0.16": ["TEN209"]}
"""Sound, and said to be loaded by an older PEFT only."""

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
OTHERS = [name for name in CASES if name != "lora"]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return build_all(tmp_path_factory.mktemp("types"))


def report(folder: Path, *select: str) -> AdapterReport:
    result = validate([folder], None, Options(Selection(select), workers=1))
    assert result.failures == ()
    return result.results[0]


def codes(folder: Path, *severities: str) -> list[str]:
    """The findings of some severities by the rules on tensors."""
    found = report(folder, "TEN")
    assert [unchecked for unchecked in found.unchecked if "internal error" in unchecked.reason] == []
    return [finding.code for finding in found.findings if finding.severity in severities]


def parts_of(folder: Path):
    """An adapter's tensors and its config, to be changed."""
    return load_file(folder / "adapter_model.safetensors"), json.loads((folder / "adapter_config.json").read_text())


def rewritten(tensors, config, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    arrays = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    (folder / "adapter_model.safetensors").write_bytes(packed(arrays, {}, {"format": "pt"}))
    return folder


def test_every_peft_type_has_a_form_and_a_healthy_adapter():
    import peft

    known = {kind.value for kind in peft.PeftType}
    assert known <= {peft_type_of(name) for name in CASES}
    assert known | {"BONE"} == {*FORMS, "LORA"}
    assert FORMS.keys() == PROMPTS | ROUTED | LATER


@pytest.mark.parametrize("name", CASES)
def test_healthy(adapters, name):
    found = report(adapters[name])
    wrong = {(finding.code, finding.message) for finding in found.findings if finding.severity != "info"}
    assert {code for code, _ in wrong} == set(OLD.get(name, [])), wrong
    assert found.unchecked == ()
    assert inspect_path(adapters[name]).peft_type == peft_type_of(name)


def broken(tensors, config):
    """(what was done, tensors, config) for everything that can be done to the first tensor of each part.

    A shadow's backbone is a model of its own, of any architecture: its tensors may be any.
    """
    own = [key for key in tensors if parse(key, ANY_PART).part != FULL and "base_layer" not in key]
    own = [key for key in own if not key.startswith(("base_model.classifier.", "base_model.shadow_backbone."))]
    for key in {parse(key, ANY_PART).part or key: key for key in reversed(own)}.values():
        array, rest = tensors[key], {other: value for other, value in tensors.items() if other != key}
        part = parse(key, ANY_PART).part or key
        if rest:
            yield f"drop {part}", rest, config
        yield f"rename {part}", {**rest, f"{key}x": array}, config
        yield f"flatten {part}", tensors | {key: array.reshape(*(1 for _ in array.shape), -1)}, config
        yield f"whole numbers {part}", tensors | {key: (100 * array).astype(bool)}, config
        if array.ndim > 1 and array.shape != array.T.shape:
            yield f"transpose {part}", tensors | {key: array.T}, config
        if array.ndim:
            yield f"cut {part}", tensors | {key: array[:-1]}, config
            yield f"empty {part}", tensors | {key: array[:0]}, config
    yield "foreign lora_A.weight", tensors | {f"{MODULE}.lora_A.weight": np.ones((4, 32), "f4")}, config
    yield "foreign hada_w9", tensors | {f"{MODULE}.hada_w9": np.ones((4, 32), "f4")}, config


FREE = {
    # a base tells how many outputs (or inputs) there are, nothing else does
    "cut": "adalora.lora_B adamss.adamss_B boft.boft_s bone.bone_block c3a.c3a_kernel deft.deft_P delora.delora_B "
           "glora.glora_C hira.hira_B hira.hira_embedding_B hra.hra_u ia3.ia3_l ln_tuning.ln_tuning_layers.weight "
           "lokr.lokr_w miss.miss_block oft.oft_ osf.osf_svd_params.U_low "
           "psoft.psoft_R.weight pvera.pvera_lambda_b supertuning.supertuning_lora_B.weight "
           "supertuning.supertuning_values tinylora.tinylora_B vblora.vblora_logits_B vera.vera_lambda_b "
           "waveft.waveft_spectrum frod.frod_lambda",
    # another split of the same features, or either way round is right
    "transpose": "boft.boft_s lokr.lokr_w",
    # a module without any tensor is a module that was not adapted; these have one part, or one that need not be there
    "drop": "beft.beft_bias bone.bone_block c3a.c3a_kernel deft.deft_P delora.delora_w_norm fourierft. hra. ia3. "
            "ln_tuning.ln_tuning_layers miss. oft. psoft.psoft_R.weight supertuning.supertuning_values "
            "shadow.shadow_projection trainable_tokens. waveft.",
    # a module without ranks is what AdaLoRA's pruning may leave, and OSF's; a layer may have any shape at all
    "empty": "",
    "flatten": "ln_tuning.",
}  # fmt: skip
"""What no look at an adapter alone can tell: by what is done, the type and the beginning of the part."""


def untold(name: str, done: str) -> bool:
    what, _, part = done.partition(" ")
    return f"{name.partition('-')[0]}.{part}".startswith(tuple(FREE.get(what, "").split()) or ("-",))


@pytest.mark.parametrize("name", OTHERS)
def test_broken(adapters, name, tmp_path):
    tensors, config = parts_of(adapters[name])
    silent = {
        done
        for done, changed, fields in broken(tensors, config)
        if not codes(rewritten(changed, fields, tmp_path / "a"), "error")
    }
    assert {done for done in silent if not untold(name, done)} == set()


CONFIGS = [
    ("adalora", "init_r", 7, "TEN207"),
    ("adalora-pruned", "rank_pattern", None, "TEN207"),
    ("adamss", "num_subspaces", 2, "TEN204"),
    ("adamss-biased", "subspace_rank", 1, "TEN204"),
    ("adaption_prompt", "adapter_layers", 3, "TEN204"),
    ("adaption_prompt", "adapter_len", 4, "TEN204"),
    ("boft", "boft_block_size", 4, "TEN204"),
    ("boft-conv", "boft_block_num", 4, "TEN204"),
    ("c3a", "block_size", 4, "TEN204"),
    ("c3a-pattern", "block_size_pattern", {}, "TEN204"),
    ("cartridge", "num_virtual_tokens", 5, "TEN206"),
    ("cpt", "cpt_token_ids", [1, 2], "TEN206"),
    ("deft", "para", True, "TEN202"),
    ("deft-para", "para", False, "TEN201"),
    ("delora-pattern", "rank_pattern", {"q_proj": 6}, "TEN204"),
    ("fourierft", "n_frequency", 21, "TEN204"),
    ("frod-unsaved", "save_projection", True, "TEN205"),
    ("glora", "config_A_B", "vector", "TEN201"),
    ("gralora", "gralora_k", 4, "TEN204"),
    ("gralora", "hybrid_r", 2, "TEN201"),
    ("hira", "r", 8, "TEN204"),
    ("hra", "r", 8, "TEN204"),
    ("ia3", "feedforward_modules", [], "TEN203"),
    ("lily", "num_B", 4, "TEN204"),
    ("loha-pattern", "rank_pattern", {}, "TEN204"),
    ("lokr", "r", 2, "TEN204"),
    ("lokr-small", "r", 3, "TEN204"),
    ("lokr-small", "r", 64, "TEN204"),
    ("lokr", "decompose_factor", 2, "TEN203"),
    ("lokr-both", "decompose_both", False, "TEN202"),
    ("miss", "init_weights", "bat", "TEN203"),
    ("miss-mini", "mini_r", 4, "TEN204"),
    ("multitask_prompt_tuning", "num_tasks", 2, "TEN206"),
    ("oft", "oft_block_size", 16, "TEN204"),
    ("oft-blocks", "r", 2, "TEN204"),
    ("osf", "effective_rank", 9, "TEN204"),
    ("osf-default", "effective_rank", 0.25, "TEN204"),
    ("p_tuning-t5", "num_transformer_submodules", 1, "TEN206"),
    ("peanut-deep", "depth", 1, "TEN204"),
    ("poly", "n_skills", 4, "TEN204"),
    ("prefix_tuning", "num_layers", 3, "TEN206"),
    ("prompt_tuning", "token_dim", 64, "TEN206"),
    ("psoft", "psoft_mag_a", False, "TEN202"),
    ("psoft", "r", 8, "TEN204"),
    ("pvera", "r", 8, "TEN204"),
    ("randlora", "r", 8, "TEN204"),
    ("road", "variant", "road_2", None),  # the same tensors, of a layer half as wide
    ("road", "group_size", 24, "TEN204"),
    ("shadow", "r", 8, "TEN204"),
    ("shira", "r", 5, "TEN204"),
    ("supertuning", "r", 4, "TEN201"),
    ("supertuning-unsaved", "save_precomputed_indices", True, "TEN201"),
    ("tinylora", "weight_tying", 1.0, "TEN204"),
    ("tinylora", "u", 9, "TEN204"),
    ("trainable_tokens", "token_indices", [1], "TEN204"),
    ("unilora", "theta_d_length", 9, "TEN204"),
    ("vblora", "num_vectors", 13, "TEN204"),
    ("vblora", "save_only_topk_weights", True, "TEN201"),
    ("vera", "r", 8, "TEN204"),
    ("vera-unsaved", "save_projection", True, "TEN205"),
    ("waveft-pattern", "n_frequency_pattern", {}, "TEN204"),
    ("xlora", "xlora_depth", 2, "TEN205"),
    ("xlora", "hidden_size", 64, "TEN203"),
    # what does no harm, or is as PEFT itself reads it
    ("adalora-pruned", "r", 4, None),
    ("frod", "save_projection", False, None),
    ("hira-pattern", "rank_pattern", {"v_proj": 99}, None),
    ("lokr", "r", 64, None),
    ("oft", "oft_block_size", 7, None),
    ("shira", "r", 2, None),
    ("vera", "save_projection", False, None),
    ("waveft-proportional", "n_frequency", 9, None),
]


@pytest.mark.parametrize(("name", "field", "value", "code"), CONFIGS)
def test_another_config(adapters, name, field, value, code, tmp_path):
    tensors, config = parts_of(adapters[name])
    found = codes(rewritten(tensors, config | {field: value}, tmp_path / "a"), "error")
    assert {each for each in found if each.startswith("TEN2")} >= ({code} if code else set())
    assert found == [] if code is None else found


def test_features_are_those_of_the_base(adapters):
    """(out, in) of all modules that a type's parts tell; None for what they do not."""
    told = {name: all_features(open_adapter(adapters[name])) for name in OTHERS}
    q, v = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"
    both = "adalora boft c3a deft delora glora gralora hira lily loha lokr lokr-small osf poly tinylora vblora"
    assert {(told[name][q], told[name][v]) for name in both.split()} == {((32, 32), (16, 32))}
    rows = "adamss beft deft-para miss miss-bat peanut pvera road road-2 road-4 vera"
    assert {(told[name][q], told[name][v]) for name in rows.split()} == {((32, None), (16, None))}
    columns = "frod hra oft oft-blocks oft-coft"
    assert {(told[name][q], told[name][v]) for name in columns.split()} == {((None, 32), (None, 32))}
    for name in ("hira-conv", "loha-conv", "loha-effective", "lokr-conv", "lokr-effective"):
        assert told[name]["body.2"] == (24, 24 * 3 * 5)
    assert told["ia3"]["model.layers.0.mlp.down_proj"] == (None, 48)
    assert told["ia3-conv1d"]["transformer.h.0.attn.c_attn"] == (96, None)
    assert told["prompt_tuning"] == told["fourierft"] == told["oft-shared"] == {}
    assert features(open_adapter(adapters["loha"]), q) == (32, 32)
    assert features(open_adapter(adapters["lora"]), q) is None


@pytest.mark.parametrize("name", OTHERS)
def test_odd_configs_are_no_crash(adapters, name, tmp_path):
    tensors, config = parts_of(adapters[name])
    for value in (None, -1, 10**30, "(", {"q_proj": "x"}):
        odd = {field: value for field in config if field not in ("peft_type", "base_model_name_or_path")}
        codes(rewritten(tensors, config | odd, tmp_path / "a"), "error")


def stored(adapters, name, folder, **kinds):
    """An adapter with all tensors whose name ends so stored as another type: {"indices": "float16"}."""
    tensors, config = parts_of(adapters[name])
    for ending, kind in kinds.items():
        tensors = {key: array.astype(kind) if key.endswith(ending) else array for key, array in tensors.items()}
    return rewritten(tensors, config, folder)


def test_types_of_parts(adapters, tmp_path):
    assert codes(stored(adapters, "shira", tmp_path / "a", shira_indices="float32"), "error") == []  # from Windows
    assert codes(stored(adapters, "shira", tmp_path / "b", shira_indices="float16"), "error") == ["TEN208"]
    assert codes(stored(adapters, "supertuning", tmp_path / "c", supertuning_indices="float32"), "error") == ["TEN208"]
    assert codes(stored(adapters, "vblora-topk", tmp_path / "d", A_topk_indices="int64"), "error") == []
    assert codes(stored(adapters, "loha", tmp_path / "e", hada_w1_a="float16", hada_w1_b="float16"), "error") == []
    assert codes(stored(adapters, "loha", tmp_path / "f", hada_w1_a="int8"), "error") == ["TEN208"]


def test_one_finding_for_many_modules(adapters, tmp_path):
    tensors, config = parts_of(adapters["loha"])
    kept = {key: array for key, array in tensors.items() if not key.endswith("hada_w2_a")}
    (found,) = report(rewritten(kept, config, tmp_path / "a"), "TEN").findings
    first = "model.layers.0.self_attn.q_proj"
    assert found.message == f"{first}: hada_w2_a is missing beside hada_w2_b (and in 3 more modules)"
    assert set(found.tensors) == {key for key in kept if key.endswith("hada_w2_b")}


def test_only_what_is_shared(adapters, tmp_path):
    tensors, config = parts_of(adapters["vera"])
    shared = {key: array for key, array in tensors.items() if "lambda" not in key}
    assert codes(rewritten(shared, config, tmp_path / "a"), "error") == ["TEN205"]


def test_a_type_nobody_knows_is_not_called_checked(adapters, tmp_path):
    tensors, config = parts_of(adapters["loha"])
    found = report(rewritten(tensors, config | {"peft_type": "NO_SUCH"}, tmp_path / "a"), "TEN2")
    assert [(each.code, each.reason) for each in found.unchecked] == [
        ("TEN200", "NO_SUCH is no PEFT type this version knows: its tensors are not analysed")
    ]
    assert found.verdict == "unchecked"
    found = report(rewritten(tensors, config | {"peft_type": "loha"}, tmp_path / "b"), "TEN2")
    assert (found.verdict, found.findings) == ("ok", ())


def test_the_type_the_tensors_are_of_is_named(adapters, tmp_path):
    tensors, _ = parts_of(adapters["lora"])
    _, config = parts_of(adapters["lokr"])
    (found,) = report(rewritten(tensors, config, tmp_path / "a"), "TEN2").findings
    assert found.message == "the config says LoKr, and none of the 8 tensors is: they are LoRA's"
    assert {type_of(FORMS[kind].slots[0][0].parts) for kind in ("LOHA", "LOKR", "VERA")} == {"LOHA", "LOKR", "VERA"}


def test_a_pattern_that_runs_away_is_tried_once(tmp_path, monkeypatch):
    from adaptool.errors import FormatError
    from adaptool.rules.forms import sizes

    tried = []

    def runs_away(*args):
        tried.append(args)
        raise FormatError("takes too long to match")

    monkeypatch.setattr(sizes, "first_match", runs_away)
    draft = Draft()
    remade("LOHA", {"hada_w1_a": (64, 4), "hada_w1_b": (4, 64), "hada_w2_a": (64, 4), "hada_w2_b": (4, 64)}, r=4)(draft)
    fields(rank_pattern={"x": 4})(draft)
    found = report(draft.write(tmp_path / "d")[0], "TEN2")
    assert {each.reason for each in found.unchecked} == {"takes too long to match"}
    assert len(tried) == 1


def test_masks_of_modules_that_are_not_there(adapters, tmp_path):
    tensors, config = parts_of(adapters["adalora-pruned"])
    masks = config["rank_pattern"]
    for rank_pattern, expected in (
        (masks | {"model.layers.7.self_attn.q_proj.lora_E": [True] * 6}, ["TEN207"]),
        ({key: [*mask, False] for key, mask in masks.items()}, ["TEN207"]),
        ({key: [int(kept) for kept in mask] for key, mask in masks.items()}, ["TEN207"]),
        ({key.replace("lora_E", "lora_E.default"): mask for key, mask in masks.items()}, []),
    ):
        changed = rewritten(tensors, config | {"rank_pattern": rank_pattern}, tmp_path / "a")
        assert [code for code in codes(changed, "error") if code.startswith("TEN2")] == expected


def test_what_pruning_left_empty(adapters):
    v = "base_model.model.model.layers.1.self_attn.v_proj"
    adapter = open_adapter(adapters["adalora-emptied"])
    assert emptied(adapter) == {f"{v}.lora_A", f"{v}.lora_B", f"{v}.lora_E"}
    assert emptied(open_adapter(adapters["loha"])) == frozenset()


@pytest.mark.parametrize("factor", [-1, 1, 3, 8, 16])
def test_dimensions_are_split_as_peft_splits_them(factor):
    from peft.tuners.lokr.layer import factorization as peft_factorization

    assert [factorization(n, factor) for n in range(1, 200)] == [peft_factorization(n, factor) for n in range(1, 200)]


def test_categories_are_those_of_peft():
    from peft.tuners.frod.model import _category_from_key

    names = ["q_proj", "a.0.q_proj", "layers.0.self_attn.q_proj", "l.0.attention.output.dense", "l.0.output.dense"]
    assert [category_of(name) for name in names] == [_category_from_key(name) for name in names]
