"""adapter_config.json's schema against PEFT's own classes, and the rules on its fields against what PEFT refuses."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import itertools
import json
import sys
import types
import warnings
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from adaptool.adapters.schema import (
    default_of,
    faults,
    fields_of,
    homes_of,
    newest_peft,
    peft_types,
    plainly_valid,
    schema,
)
from adaptool.reports.schemas import read_schema, schema_names
from adaptool.rules.configs.refusals import REFUSALS
from adaptool.rules.draft import CONFIG
from adaptool.rules.engine import Options, validate_subject
from adaptool.rules.selection import Selection
from adaptool.rules.subject import Subject

REPOSITORY = Path(__file__).parent.parent
FIELDS = Options(Selection(("CFG1",)))
REFUSALS_OF_PEFT = Options(Selection(("CFG100", "CFG101", "CFG102", "CFG103", "CFG104", "CFG425", "CFG432")))


def peft():
    """PEFT, where it is the one the schema was made of."""
    with warnings.catch_warnings(action="ignore"):
        module = pytest.importorskip("peft")
    if module.__version__ != newest_peft():
        pytest.skip(f"the schema is of PEFT {newest_peft()}, and {module.__version__} is installed")
    return module


@pytest.fixture(scope="module")
def classes():
    """PEFT's config class of every type; AdaMSS asks for scikit-learn and LoftQ for scipy, and neither is used here."""
    peft()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    with pytest.MonkeyPatch.context() as patch:
        for name in ("sklearn", "scipy"):
            stand_in = types.ModuleType(name)
            stand_in.__spec__ = importlib.machinery.ModuleSpec(name, None)
            patch.setitem(sys.modules, name, stand_in)
        yield {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


NECESSARY = {
    "ADALORA": {"total_step": 10}, "CPT": {"task_type": "CAUSAL_LM"},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    **{kind: {"num_virtual_tokens": 4} for kind in
       ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE")},
}  # fmt: skip
"""What a config of a type is not made, or not loaded, without."""


def saved(classes, kind, folder, **given):
    """What save_pretrained writes of a config."""
    with warnings.catch_warnings(action="ignore"):
        classes[kind](**NECESSARY.get(kind, {}) | given).save_pretrained(folder)
    return json.loads((folder / "adapter_config.json").read_text())


def findings(config, folder, options=FIELDS):
    """What the rules say of a config, with no weights beside it."""
    (folder / "adapter_config.json").write_text(json.dumps(config))
    report = validate_subject(Subject(folder), options)
    assert report.unchecked == ()
    return report.findings


def said(folder, kind="LORA", **changed):
    """(severity, code, field) of every finding about LoRA's good config, or a bare one of another type, changed."""
    config = (CONFIG if kind == "LORA" else {"peft_type": kind, "peft_version": "0.21.2"}) | changed
    return [(finding.severity, finding.code, finding.field) for finding in findings(config, folder)]


# the schema itself


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(schema())
    assert "adapter_config" in schema_names()
    assert read_schema("adapter_config") == schema()
    assert schema()["title"].startswith("adapter_config.json")
    assert (REPOSITORY / "schemas" / "adapter_config.json").stat().st_size < 400_000


def test_the_schema_is_what_peft_says_today():
    """Its current part, made again from the installed PEFT; the history needs every release's wheel."""
    module = peft()
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "schemas" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "generate", generate)
        spec.loader.exec_module(generate)
        release = generate.installed(Path(module.__file__).parent, module.__version__)
        made = json.loads(json.dumps(generate.schema([release])))
    committed = schema()["$defs"]
    assert set(made["$defs"]) == set(committed) - {"BONE"}
    for home, part in made["$defs"].items():
        current = {name: field for name, field in committed[home]["properties"].items()
                   if "until" not in field["x-peft"]}  # fmt: skip
        assert {name: without_history(field) for name, field in part["properties"].items()} == {
            name: without_history(field) for name, field in current.items()
        }


def without_history(field):
    return {name: value for name, value in field.items() if name != "x-peft"}


def test_every_type_and_field_is_there_with_its_default(classes, tmp_path):
    assert set(classes) == set(peft_types()) - {"BONE"}
    for kind, cls in classes.items():
        names = {field.name for field in dataclasses.fields(cls)}
        former = {name for name, field in fields_of(kind).items() if "until" in field["x-peft"]}
        assert names == set(fields_of(kind)) - former
        for field in dataclasses.fields(cls):
            plain = field.default is not dataclasses.MISSING and field.name not in ("peft_type", "init_weights")
            if plain:
                assert json.loads(json.dumps(field.default)) == default_of(kind, field.name)


def test_history():
    assert fields_of("LORA")["use_dora"]["x-peft"] == {"since": "0.9.0"}
    assert fields_of("LORA")["peft_version"]["x-peft"]["since"] == "0.18.0"
    assert fields_of("LORA")["merge_weights"]["x-peft"] == {"since": "0.0.1", "until": "0.2.0"}
    assert schema()["$defs"]["BONE"]["x-peft"] == {"since": "0.14.0", "until": "0.18.1"}
    assert homes_of("delora_lambda") == ("DELORA",)
    assert fields_of("NONE_SUCH") == {}


@pytest.mark.parametrize(
    ("kind", "field", "version", "default"),
    [
        ("LORA", "lora_alpha", None, 8),
        ("LORA", "lora_alpha", "0.3.0", None),
        ("LORA", "lora_alpha", "0.4.0", 8),
        ("LORA", "use_rslora", "0.5.0", False),  # before there was one
        ("LORA", "lora_alpha", "9.9.9", 8),
        ("OFT", "r", "0.15.2", 8),
        ("OFT", "r", "0.16.0.dev0@1a2b3c4", 0),
        ("OFT", "oft_block_size", "0.15.2", 0),
        ("OFT", "oft_block_size", None, 32),
        ("OSF", "init_weights", "0.20.0", None),
        ("VERA", "r", None, 256),
    ],
)
def test_default_of(kind, field, version, default):
    assert default_of(kind, field, version) == default


# what PEFT saves is valid


@pytest.mark.parametrize("kind", [kind for kind in peft_types() if kind != "BONE"])
def test_defaults_as_peft_saves_them(kind, classes, tmp_path):
    config = saved(classes, kind, tmp_path, task_type="CAUSAL_LM")
    assert list(Draft202012Validator(schema()).iter_errors(config)) == []
    assert findings(config, tmp_path) == ()


UNUSUAL = [
    ("LORA", {"lora_alpha": 0.5, "target_modules": r".*\.q_proj", "bias": "lora_only", "lora_dropout": 0}),
    ("LORA", {"init_lora_weights": "pissa_niter_16", "rank_pattern": {"q": 4}, "alpha_pattern": {"q": 2.5}}),
    ("LORA", {"init_lora_weights": "Gaussian", "target_modules": {"q", "v"}, "exclude_modules": "lm_head"}),
    ("LORA", {"layers_to_transform": 3, "layers_pattern": ["layers", "h"], "target_modules": ["q"]}),
    ("LORA", {"layers_to_transform": [0, 1], "layers_pattern": "h", "layer_replication": [(0, 4), (2, 5)]}),
    ("LORA", {"trainable_token_indices": {"embed_tokens": [1]}, "modules_to_save": ["lm_head"], "task_type": None}),
    ("LORA", {"trainable_token_indices": [1, 2], "target_parameters": ["mlp.experts.gate_up_proj"]}),
    ("LORA", {"use_qalora": True, "qalora_group_size": 32, "alora_invocation_tokens": [7], "task_type": "CAUSAL_LM"}),
    ("LORA", {"megatron_config": {"a": [1]}, "megatron_core": None, "init_lora_weights": False}),
    ("ADALORA", {"rank_pattern": {"q.lora_E": [True, False]}, "lora_alpha": 1.5, "init_lora_weights": "gaussian"}),
    ("LOHA", {"alpha": 2.5, "alpha_pattern": {"q": 0.5}, "target_modules": "all-linear"}),
    ("LOKR", {"init_weights": "lycoris", "decompose_factor": 4}),
    ("OFT", {"r": 4, "oft_block_size": 0, "bias": "oft_only"}),
    ("BOFT", {"boft_block_size": 0, "boft_block_num": 2, "bias": "boft_only"}),
    ("MISS", {"init_weights": "bat", "bias": "MiSS_only"}),
    ("C3A", {"init_weights": False, "block_size_pattern": {"q": 8}, "bias": "c3a_only"}),
    ("OSF", {"effective_rank": 0.5, "rank_pattern": {"q": 8, "v": 0.25}, "target_modules": ["q"]}),
    ("DELORA", {"delora_lambda": 7.5, "lambda_pattern": {"q": 3.5}}),
    ("ADAMSS", {"init_weights": None}),
    ("TINYLORA", {"init_weights": "uniform", "weight_tying": 1.0}),
    ("SUPERTUNING", {"r": 4, "lora_alpha": 2.5}),
    ("PROMPT_TUNING", {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a", "tokenizer_name_or_path": "b"}),
    ("PREFIX_TUNING", {"encoder_hidden_size": 8, "prefix_projection": True, "init_weights": "zero"}),
    ("P_TUNING", {"encoder_reparameterization_type": "LSTM", "token_dim": 8, "num_layers": 2}),
    ("CPT", {"cpt_token_ids": [1, 2], "cpt_mask": [1, 0], "cpt_tokens_type_mask": [1, 4]}),
    ("LN_TUNING", {"modules_to_save": "score"}),
    ("XLORA", {"adapters": {"a": "b"}, "top_k_lora": 2, "hidden_size": 64}),
    ("IA3", {"target_modules": ["a", "b"], "feedforward_modules": ["b"]}),
    ("PEANUT", {"act_fn": "silu", "depth": 2}),
    ("WAVEFT", {"wavelet_family": "sym4", "n_frequency_pattern": {"q": 9}}),
    ("TRAINABLE_TOKENS", {"token_indices": [3, 1], "target_modules": ["embed_tokens", "lm_head"]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given"), UNUSUAL)
def test_unusual_values_as_peft_saves_them(kind, given, classes, tmp_path):
    config = saved(classes, kind, tmp_path, **given)
    assert list(Draft202012Validator(schema()).iter_errors(config)) == []
    assert findings(config, tmp_path) == ()


NESTED = {
    "eva_config": ("eva", "EvaConfig", {"rho": 1.0, "tau": 0.5}),
    "corda_config": ("corda", "CordaConfig", {"corda_method": "kpm", "cache_file": "a"}),
    "lora_ga_config": ("lora_ga", "LoraGAConfig", {"direction": "ArBr"}),
    "velora_config": (True, "VeloraConfig", {"init_type": "random"}),
    "arrow_config": (True, "ArrowConfig", {"top_k": 1, "use_gks": True, "rng_seed": 4}),
    "use_bdlora": (True, "BdLoraConfig", {"target_modules_bd_a": ["q"], "nblocks": 2}),
    "kasa_config": (True, "KasaConfig", {"beta": 0}),
    "monteclora_config": (True, "MontecloraConfig", {"num_samples": 3}),
}


@pytest.mark.parametrize("field", NESTED)
def test_nested_configs_as_peft_saves_them(field, classes, tmp_path):
    import peft.tuners.lora.config as home

    init, name, given = NESTED[field]
    config = saved(
        classes, "LORA", tmp_path, init_lora_weights=init, target_modules=["q"], **{field: getattr(home, name)(**given)}
    )
    assert list(Draft202012Validator(schema()).iter_errors(config)) == []
    assert findings(config, tmp_path) == ()


def test_the_defaults_of_every_release_are_valid():
    """As they were, type by type, where they made an adapter: before 0.4 lora_alpha was null, and had to be set."""
    history = {then for kind in peft_types() for field in fields_of(kind).values() for then in
               (field["x-peft"]["since"], *field["x-peft"].get("defaults", ()))}  # fmt: skip
    validator = Draft202012Validator(schema())
    for version, kind in itertools.product(history, peft_types()):
        config = {
            name: default_of(kind, name, version)
            for name, field in fields_of(kind).items()
            if _key(field["x-peft"]["since"]) <= _key(version) <= _key(field["x-peft"].get("until", "99"))
        } | {"peft_type": kind}
        wrong = [list(error.absolute_path) for error in validator.iter_errors(config)]
        assert [path for path in wrong if path not in (["lora_alpha"], ["lora_dropout"])] == []
        assert wrong == [] or _key(version) < (0, 4)


def _key(version):
    return tuple(int(part) for part in version.split("."))


# what PEFT refuses is found, and nothing else


def grids():
    """Fields of a type, and values to try them with in every combination."""
    layers = {"target_modules": [["q"], "q.*"], "layers_to_transform": [None, 1, []], "layers_pattern": [None, "h", ""]}
    for kind in peft_types():
        if "layers_to_transform" in fields_of(kind) and kind != "BONE":
            yield kind, layers
    for kind in ("LORA", "ADALORA"):
        yield kind, {"use_dora": [True, False], "megatron_config": [None, {"a": 1}], "lora_bias": [True, False],
                     "init_lora_weights": [True, False, "gaussian", "olora"]}  # fmt: skip
        yield kind, {"init_lora_weights": ["loftq"], "loftq_config": [{}, None]}
        yield kind, {"use_bdlora": [None, {}, {"target_modules_bd_a": ["a"], "target_modules_bd_b": ["b"]},
                     {"target_modules_bd_a": ["a"], "target_modules_bd_b": ["a", "b"]}]}  # fmt: skip
        yield kind, {"eva_config": [None, {}, {"rho": 0.5}, {"tau": 1.5}, {"rho": 1, "tau": 0}, {"rho": "2"}, [2]]}
        yield kind, {"kasa_config": [{"beta": -1}, {"gamma": 0}], "arrow_config": [None, {"top_k": 0}, {"top_k": 1}]}
        yield kind, {"velora_config": [{"scale": 0}, {"init_type": "x"}, {}], "target_parameters": [["a"], "a"]}
        yield kind, {"monteclora_config": [{"num_samples": 0}, {"buffer_size": 0}, {"dirichlet_prior": 0}, {}]}
        yield kind, {"task_type": [None, "CAUSAL_LM", "causal_lm", "x"]}
    yield (
        "ADALORA",
        {"total_step": [None, -1, 0, 1, 10], "tinit": [0, 3], "tfinal": [0, 6, 7], "orth_reg_weight": [-1, 0]},
    )
    yield "ADAMSS", {"use_asa": [True, False], "mask_interval": [0, 1], "init_warmup": [0, 50], "final_warmup": [0, 50]}
    yield "ADAMSS", {"use_asa": [True, False], "asa_target_subspaces": [0, 1], "asa_schedule_exponent": [0.0, 1]}
    yield "ADAMSS", {"init_weights": [None, True, False, "orthogonal", "x"]}
    yield "BOFT", {"boft_block_size": [0, 4], "boft_block_num": [0, 4]}
    yield "OFT", {"r": [0, 4], "oft_block_size": [0, 32]}
    yield "CARTRIDGE", {"num_frozen_tokens": [-1, 0, 5, 6], "num_virtual_tokens": [None, 5]}
    yield "CPT", {"task_type": [None, "CAUSAL_LM", "SEQ_CLS", "x"]}
    yield "CPT", {"cpt_token_ids": [None, [1], [1, 2]], "cpt_mask": [None, [1, 1]], "cpt_tokens_type_mask": [None, []]}
    yield "DEFT", {"decomposition_method": ["relu", "qr", "x"]}
    yield "DELORA", {"r": [-1, 0, 1]}
    yield "FROD", {"sparse_rate": [-0.1, 0, 1, 1.1]}
    yield "GLORA", {"config_A_B": ["lora", "x"], "config_C": ["none", "constant"], "config_D_E": ["constant", "lora"]}
    yield "GRALORA", {"r": [31, 32], "gralora_k": [-1, 0, 1, 2]}
    yield "IA3", {"target_modules": [["a", "b"], "a", None], "feedforward_modules": [["a"], ["c"], "c", None, []]}
    yield "LILY", {"stride_A": [0, 1], "num_B": [1, 2]}
    yield "PEANUT", {"r": [0, 1], "depth": [-1, 0], "act_fn": ["relu", "nope"]}
    for kind in ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING"):
        yield kind, {"prompt_tuning_init": ["TEXT", "RANDOM"], "tokenizer_name_or_path": [None, "", "a"],
                     "prompt_tuning_init_text": [None, "", "x"], "tokenizer_kwargs": [None, {}, {"a": 1}]}  # fmt: skip
    yield "PSOFT", {"r": [0, 4], "ab_svd_init": ["pissa_init", "x"], "psoft_svd": ["lowrank", "x"]}
    yield "PSOFT", {"use_cayley_neumann": [True, False], "num_cayley_neumann_terms": [0, 1],
                    "cayley_neumann_eps": [None, 0, 0.5, 1.0]}  # fmt: skip
    yield "ROAD", {"variant": ["road_1", "road_3"], "group_size": [-2, 0, 1, 2]}
    sizes = ("shadow_num_hidden_layers", "shadow_hidden_size", "shadow_num_attention_heads", "shadow_intermediate_size")
    yield "SHADOW", {"shadow_model": ["mirror", "x"]} | {size: [None, 2] for size in sizes}
    yield "SUPERTUNING", {"sparsity": [-0.1, 0, 1.0], "r": [None, 0, 8], "lora_alpha": [None, 2.5]}
    yield "SUPERTUNING", {"lora_dropout": [0, 1.0, -0.1]}
    yield "TINYLORA", {"r": [0, 2], "u": [0, 8], "weight_tying": [-0.1, 0, 1, 1.1]}
    yield "UNILORA", {"r": [0, 1], "theta_d_length": [0, 1], "init_theta_d_bound": [0, 0.1]}
    yield "UNILORA", {"unilora_dropout": [-0.1, 0, 1, 1.1], "bias": ["none", "unilora_only", "lora_only"]}
    yield "WAVEFT", {"wavelet_family": ["db1", "db38", "db39", "sym1", "sym20", "coif17", "coif18", "haar"]}


GRIDS = list(grids())


@pytest.mark.parametrize(("kind", "values"), GRIDS, ids=[f"{kind}-{'-'.join(values)}" for kind, values in GRIDS])
def test_what_peft_refuses_is_found(kind, values, classes, tmp_path):
    """PEFT raises on loading a config if, and only if, a rule finds it."""
    from peft import PeftConfig

    good = saved(classes, kind, tmp_path)
    for combination in itertools.product(*values.values()):
        config = good | dict(zip(values, combination, strict=True))
        found = [f.message for f in findings(config, tmp_path, REFUSALS_OF_PEFT) if f.severity != "info"]
        try:
            with warnings.catch_warnings(action="ignore"):
                PeftConfig.from_pretrained(str(tmp_path))
            raised = None
        except (ValueError, TypeError) as error:
            raised = error
        assert bool(raised) == bool(found), (config, raised, found)


def test_every_refusal_is_tried():
    for refusal in REFUSALS:
        for kind in refusal.types - {"BONE"}:
            tried = [values for name, values in GRIDS if name == kind and refusal.fields[0] in values]
            assert tried, (kind, refusal.fields)


# the wording


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("r", "16", 'r must be a whole number, and is the text "16"'),
        ("r", True, "r must be a whole number, and is true"),
        ("r", 8.0, "r must be a whole number, and is the number 8.0"),
        ("r", None, "r must be a whole number, and is null"),
        ("lora_alpha", [16], "lora_alpha must be a number, and is the list [16]"),
        ("lora_dropout", False, "lora_dropout must be a number, and is false"),
        ("use_dora", "true", 'use_dora must be true or false, and is the text "true"'),
        ("bias", "some", 'bias must be one of "none", "all", "lora_only", and is "some"'),
        ("bias", None, 'bias must be one of "none", "all", "lora_only", and is null'),
        ("target_modules", 3, "target_modules must be a list of texts, text or null, and is the number 3"),
        ("rank_pattern", {"q.*": "8"}, 'rank_pattern.q.* must be a whole number, and is the text "8"'),
        ("rank_pattern", ["q"], 'rank_pattern must be an object of whole numbers or null, and is the list ["q"]'),
        ("layers_to_transform", [0, "1"], 'layers_to_transform.1 must be a whole number, and is the text "1"'),
        ("eva_config", {"rho": 0.5}, "eva_config.rho must be at least 1, and is 0.5"),
        ("eva_config", {"tau": "1"}, 'eva_config.tau must be a number, and is the text "1"'),
        ("eva_config", [], "eva_config must be an object or null, and is the list []"),
        ("layer_replication", [[0]], "layer_replication.0 must be a list of 2 whole numbers, and is the list [0]"),
        ("trainable_token_indices", {"a": 1}, "trainable_token_indices.a must be a list of whole numbers, and is the "
         "number 1"),
        ("rank_pattern", {"\x1b[31m": []}, "rank_pattern.\\u001b[31m must be a whole number, and is the list []"),
    ],
)  # fmt: skip
def test_a_fault_in_plain_words(field, value, message):
    assert [message] == [fault.message for fault in faults("LORA", {"peft_type": "LORA", field: value})]


VALUES = [
    None, True, False, 0, 1, -1, 2, 8, 8.0, 0.5, 1.5, -0.5, 10**400, float("nan"), float("inf"), "", "none", "all",
    "TEXT", "lora_only", "8", "db1", [], [1], [True], ["a"], [None], [[0, 2]], [[0]], [[0, "a"]], {}, {"q": 8},
    {"q": "8"}, {"q": [True]}, {"rho": 0.5}, {"rho": 2}, [1.0], ["a", 1],
]  # fmt: skip


@pytest.mark.parametrize("kind", peft_types())
def test_the_shortcut_agrees_with_jsonschema(kind):
    """What is plainly valid is valid; 8.0 is a whole number to JSON Schema, and never to the shortcut."""
    whole = Draft202012Validator(schema())
    for field, value in itertools.product(fields_of(kind).values(), VALUES):
        if plainly_valid(value, field):
            assert list(whole.evolve(schema=field).iter_errors(value)) == [], (field, value)
    assert not plainly_valid(8.0, {"type": "integer"})
    assert not plainly_valid(True, {"type": ["integer", "number"]})


def test_a_healthy_config_does_not_need_jsonschema(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)  # importing it would raise
    assert list(faults("LORA", CONFIG | {"bias": "lora_only", "init_lora_weights": "gaussian"})) == []


def test_numbers_that_are_none():
    """NaN and overflowing numbers are no JSON: the rules on the JSON speak of them."""
    assert list(faults("SHADOW", {"shadow_dropout": float("nan"), "shadow_alpha": float("inf")})) == []


def test_a_million_items_are_looked_at_quickly():
    many = list(faults("LORA", {"layers_to_transform": ["0"] * 300_000}))
    assert many[0].field == "layers_to_transform.0"
    late = {f"m{number}": 8 for number in range(100_000)} | {"late": "8"}
    assert [fault.field for fault in faults("LORA", {"rank_pattern": late})] == ["rank_pattern.late"]
    assert list(faults("ADALORA", {"rank_pattern": {f"m{n}": [True] * 100 for n in range(1000)}})) == []


# the rules


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"r": "16"}, [("error", "CFG100", "r")]),
        ({"r": "16", "rank_pattern": {"q": "8", "v": "8"}}, [("error", "CFG100", "r"),
                                                             ("error", "CFG100", "rank_pattern.q")]),
        ({"use_dora": None}, [("info", "CFG100", "use_dora")]),
        ({"inference_mode": "true"}, [("warning", "CFG100", "inference_mode")]),
        ({"init_lora_weights": "pisa"}, [("error", "CFG101", "init_lora_weights")]),
        ({"init_lora_weights": "new", "peft_version": "9.0.0"}, [("warning", "CFG101", "init_lora_weights")]),
        ({"r": 0, "lora_dropout": 2, "rank_pattern": {"q": -1}}, []),  # the rules of scales speak
        ({"task_type": "x", "auto_mapping": 3, "peft_version": 3, "megatron_core": 3}, []),  # and others of these
        ({"layers_pattern": "h", "target_modules": 3}, [("error", "CFG100", "target_modules"),
                                                        ("error", "CFG103", "layers_pattern")]),
        ({"layers_pattern": 3}, [("error", "CFG100", "layers_pattern")]),
        ({"lora_aplha": 16}, [("warning", "CFG110", "lora_aplha")]),
        ({"r_": 16, "loraAlpha": 1, "rank": 4}, [("warning", "CFG110", name) for name in ("r_", "loraAlpha", "rank")]),
        ({"one": 1, "two": 2}, [("warning", "CFG110", "one")]),
        ({"_note": 1}, [("info", "CFG110", "_note")]),
        ({"lora_dtype": None, "lorap_lr_ratio": None}, [("info", "CFG110", "lora_dtype")]),
        ({"brand_new": 1, "peft_version": "9.0.0"}, [("info", "CFG110", "brand_new")]),
        ({"eva_config": {"rhoo": 2}}, [("warning", "CFG110", "eva_config.rhoo")]),
        ({"monteclora_config": {"x": 1}}, [("error", "CFG110", "monteclora_config.x")]),
        ({"alpha": 16}, [("warning", "CFG111", "alpha")]),
        ({"delora_lambda": 16, "boft_block_size": 8}, [("warning", "CFG111", "delora_lambda")]),
        ({"delora_lambda": 15, "token_dim": None}, [("info", "CFG111", "delora_lambda")]),
        ({"enable_lora": None, "merge_weights": False}, [("info", "CFG112", "merge_weights")]),
        ({"enable_lora": [True, False]}, [("warning", "CFG112", "enable_lora")]),
        ({"peft_version": "0.20.0"}, [("info", "CFG113", "peft_version")]),
        ({"peft_version": "0.21.0.dev0@UNKNOWN"}, []),
        ({"auto_mapping": {"base_model_class": "A", "parent_library": "transformers", "unsloth_fixed": True}}, []),
    ],
)  # fmt: skip
def test_the_rules_on_lora(changed, expected, tmp_path):
    assert expected == said(tmp_path, **changed)


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("LOHA", {"lora_alpha": 16}, [("warning", "CFG111", "lora_alpha")]),
        ("LOHA", {"r": 0}, [("error", "CFG102", "r")]),
        ("LOHA", {"rank_dropout": -0.5}, [("warning", "CFG102", "rank_dropout")]),
        ("BOFT", {"boft_dropout": -0.5}, [("warning", "CFG102", "boft_dropout")]),
        ("BOFT", {"boft_dropout": 1.5}, [("error", "CFG102", "boft_dropout")]),
        ("SHADOW", {"shadow_dropout": -0.5}, [("error", "CFG102", "shadow_dropout")]),
        ("PROMPT_TUNING", {"num_virtual_tokens": 0}, [("error", "CFG102", "num_virtual_tokens")]),
        ("PROMPT_TUNING", {}, [("error", "CFG105", "num_virtual_tokens")]),
        ("ADAPTION_PROMPT", {"adapter_len": 4, "adapter_layers": None}, [("error", "CFG105", "adapter_layers")]),
        ("OFT", {"r": 4}, [("warning", "CFG104", "")]),
        ("OFT", {"r": 4, "oft_block_size": 8}, [("error", "CFG103", "r")]),
        ("ADALORA", {}, [("error", "CFG103", "total_step")]),
        ("ADALORA", {"peft_version": None}, [("warning", "CFG103", "total_step")]),  # 0.14 and before wrote that
        ("ADALORA", {"total_step": 5, "tfinal": 5}, [("error", "CFG103", "tinit")]),
        ("NEITHER", {"lora_aplha": 1}, []),
    ],
)
def test_the_rules_on_other_types(kind, given, expected, tmp_path):
    assert expected == said(tmp_path, kind, **given)


def test_a_misspelt_field_says_what_peft_takes(tmp_path):
    config = {name: value for name, value in CONFIG.items() if name != "lora_alpha"} | {"lora_aplha": 32}
    (finding,) = findings(config, tmp_path)
    assert finding.message == (
        'PEFT drops "lora_aplha", which it does not know, and takes lora_alpha as 8; did you mean lora_alpha?'
    )
    assert finding.fix == "Rename it to lora_alpha."


def test_hundreds_of_thousands_of_fields(tmp_path):
    (finding,) = findings(CONFIG | {f"field{number}": number for number in range(100_000)}, tmp_path)
    assert finding.message.startswith('PEFT drops 100000 fields ("field0", "field1", "field2" …)')
