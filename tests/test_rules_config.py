"""What a config means: hostile configs and the rule that finds each, healthy ones that no rule may doubt."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptool.adapters.backtracking import LIMIT, ways, worst_name
from adaptool.adapters.config import AdapterConfig, matches
from adaptool.adapters.patterns import MOST_EXPRESSIONS, patterns_of
from adaptool.errors import FormatError
from adaptool.rules.draft import PREFIX, RANK, Draft, Q, extra, fields, file, together
from adaptool.rules.engine import AdapterReport, Options, validate
from adaptool.rules.families.advice import retargeted
from adaptool.rules.selection import EVERYTHING, Selection

MINE = ("CFG2", "CFG3")
Mutation = Callable[[Draft], object]


def checked(mutation: Mutation, folder: Path, select: tuple[str, ...] = MINE) -> AdapterReport:
    draft = Draft()
    mutation(draft)
    result = validate([draft.write(folder)[0]], None, Options(Selection(select), workers=1))
    assert result.failures == ()
    report = result.results[0]
    assert [u for u in report.unchecked if "internal error" in u.reason] == []
    return report


def found(mutation: Mutation, folder: Path, select: tuple[str, ...] = MINE) -> set[tuple[str, str]]:
    return {(finding.code, finding.severity) for finding in checked(mutation, folder, select).findings}


def text(**changed: str) -> Mutation:
    """The mutation that writes fields of the config as JSON cannot: NaN, 1e400."""

    def mutate(draft: Draft) -> None:
        config = json.dumps(draft.config | {name: f"@{name}@" for name in changed})
        for name, value in changed.items():
            config = config.replace(f'"@{name}@"', value)
        draft.files["adapter_config.json"] = config.encode()

    return mutate


def of_type(peft_type: str, **values: Any) -> Mutation:
    """A config of another PEFT type, whatever its tensors."""

    def mutate(draft: Draft) -> None:
        draft.config = {"peft_type": peft_type, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}
        draft.config |= values

    return mutate


def whole(name: str) -> Mutation:
    return extra(f"{PREFIX}{name}.weight", 40, 64)


ALL = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
       "mlp.down_proj")  # fmt: skip

SCALES: dict[str, tuple[Mutation, str, str]] = {
    "r of zero": (fields(r=0), "CFG201", "error"),
    "a negative r": (fields(r=-8), "CFG201", "error"),
    "a rank of zero for some": (fields(rank_pattern={"q_proj": 0}), "CFG201", "error"),
    "a negative rank for some": (fields(rank_pattern={"v_proj": -1}), "CFG201", "error"),
    "a LoHa's rank for some": (of_type("LOHA", r=8, alpha=8, rank_pattern={"q_proj": 0}), "CFG201", "error"),
    "an absurd r": (fields(r=2**31), "CFG202", "error"),
    "an absurd rank for some": (fields(rank_pattern={"q_proj": 10**7}), "CFG202", "error"),
    "an absurd LoHa": (of_type("LOHA", r=10**6, alpha=8), "CFG202", "error"),
    "an absurd VeRA": (of_type("VERA", r=10**8), "CFG202", "error"),
    "NaN": (text(lora_alpha="NaN"), "CFG203", "error"),
    "Infinity": (text(lora_alpha="Infinity"), "CFG203", "error"),
    "minus Infinity": (text(lora_alpha="-Infinity"), "CFG203", "error"),
    "infinite by overflow": (text(lora_alpha="1e400"), "CFG203", "error"),
    "beyond float32": (fields(lora_alpha=10**40), "CFG203", "error"),
    "NaN for some": (text(alpha_pattern='{"q_proj": NaN}'), "CFG203", "error"),
    "a LoKr's NaN": (of_type("LOKR", r=8, alpha=math.nan), "CFG203", "error"),
    "alpha zero": (fields(lora_alpha=0), "CFG204", "error"),
    "alpha zero point": (fields(lora_alpha=0.0), "CFG204", "error"),
    "alpha minus zero": (fields(lora_alpha=-0.0), "CFG204", "error"),
    "alpha zero for some": (fields(alpha_pattern={"q_proj": 0}), "CFG204", "warning"),
    "FourierFT of no scale": (of_type("FOURIERFT", scaling=0.0), "CFG204", "error"),
    "a negative alpha": (fields(lora_alpha=-8), "CFG205", "warning"),
    "a negative alpha for some": (fields(alpha_pattern={"q_proj": -8}), "CFG205", "warning"),
    "alpha a billion": (fields(lora_alpha=1e9), "CFG206", "error"),
    "alpha a negative billion": (fields(lora_alpha=-1e9), "CFG206", "error"),
    "alpha a billion for some": (fields(alpha_pattern={"v_proj": 1e9}), "CFG206", "error"),
    "alpha a billion with rsLoRA": (fields(lora_alpha=1e9, use_rslora=True), "CFG206", "error"),
    "a strong scale": (fields(lora_alpha=8 * 300), "CFG206", "warning"),
    "next to nothing": (fields(lora_alpha=1e-9), "CFG206", "error"),
    "the least number there is": (fields(lora_alpha=5e-324), "CFG206", "error"),
    "a LoHa of a billion": (of_type("LOHA", r=8, alpha=1e9), "CFG206", "error"),
    "FourierFT of a trillion": (of_type("FOURIERFT", scaling=1e12), "CFG206", "error"),
    "RandLoRA of a billion": (of_type("RANDLORA", r=8, randlora_alpha=10**9), "CFG206", "error"),
    "some a thousandfold": (fields(alpha_pattern={"v_proj": 0.005}), "CFG207", "warning"),
    "r beyond the layers": (fields(r=128), "CFG208", "warning"),
    "r beyond the layers, saved so": (retargeted(96, "self_attn.q_proj", "self_attn.v_proj"), "CFG208", "warning"),
    "r beyond some layers": (retargeted(40, "self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"), "CFG208", "info"),
    "dropout above 1": (fields(lora_dropout=1.5), "CFG209", "error"),
    "dropout of everything": (fields(lora_dropout=1), "CFG209", "warning"),
    "a negative dropout": (fields(lora_dropout=-0.1), "CFG209", "warning"),
    "a LoHa that drops all": (of_type("LOHA", rank_dropout=1.0), "CFG209", "warning"),
    "PiSSA": (fields(init_lora_weights="pissa"), "CFG250", "info"),
    "PiSSA by random SVD": (fields(init_lora_weights="pissa_niter_16"), "CFG250", "warning"),
    "OLoRA": (fields(init_lora_weights="olora"), "CFG250", "info"),
    "CorDA": (fields(init_lora_weights="corda"), "CFG250", "error"),
    "LoRA-GA": (fields(init_lora_weights="lora_ga"), "CFG250", "warning"),
    "LoftQ": (fields(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}), "CFG250", "info"),
    "repeated layers": (fields(layer_replication=[[0, 2], [1, 2]]), "CFG251", "info"),
    "aLoRA": (fields(alora_invocation_tokens=[1, 2]), "CFG251", "info"),
    "QALoRA": (fields(use_qalora=True), "CFG251", "info"),
    "Arrow": (fields(arrow_config={"top_k": 2}), "CFG251", "info"),
    "DoRA and aLoRA": (fields(use_dora=True, alora_invocation_tokens=[1]), "CFG252", "error"),
    "DoRA and an empty KaSA": (fields(use_dora=True, kasa_config={}), "CFG252", "error"),
    "DoRA and MiCA": (fields(use_dora=True, init_lora_weights="mica"), "CFG252", "error"),
    "parameters with dropout": (fields(target_parameters=["mlp.experts.up"]), "CFG252", "error"),
    "still training": (fields(inference_mode=False), "CFG253", "info"),
    "options of LoftQ alone": (fields(loftq_config={"loftq_bits": 4}), "CFG255", "info"),
    "AdaLoRA's r": (of_type("ADALORA", r=4, init_r=12, total_step=10), "CFG255", "info"),
}  # fmt: skip

RUNAWAYS = [
    r"(a+)+$", r"(.*)*x", r"(a|a)*b", r"(a|aa)+$", r"([a-z]+)*$", r"(\w+\s?)*$", r"(.*\.)*q_proj", r"(?:.*a){12}",
    r"(x+x+)+y", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"((a*)*)*b", r"(?=(a+)+$)a", r".*.*.*.*.*.*.*.*z!",
    r"([a-zA-Z0-9_.]+)+\.q_proj", r"(.+)+_proj!", r"(?:(?:a{1,40}){1,40}){1,40}b", r"(a?){40}a{40}",
    r"([^a-y]|[w-z])+Q", r"(?i:(A+)+)b",
    r"(?:x{0,60}){0,60}y", r"((ab|a|b|ba)+)+c", r"(?:\w|[^a-y])*Q", r"(\d+)*\.q", r"(.*a){20}", r"(q_proj|.*)*k",
    r"(?!(a+)+b)x", r"(?:(?:x{1000}){1000}){1000}", r"(?<!(?:b))(a+)+c",
    r"(?P<a>(.+)+)(?P=a)", r"(_|__)*p", r"([\w.]+)*_proj!", r"(?:(?:(?:q|k|v)_proj)?)*(?:.*)*z",
]  # fmt: skip

PRACTICE = [
    r".*decoder.*(SelfAttention|EncDecAttention).*(q|v)$", r"model\.layers\.\d+\.self_attn\.(q|k|v|o)_proj",
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|k_proj|v_proj|o_proj"
    r"|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn"
    r"|dense)\.(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))",
    r"^(?!.*(vision|audio)).*(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*",
    r".*language_model.*\.(up_proj|k_proj|linear_kv|q_proj)", r"^(model\.language_model(?=\.).*\.(gate_proj|q_proj))$",
    r".*\.(to_k|to_q|to_v|to_out\.0)", r".*\.\d+\..*\..*q_proj", r"(\w+\.)*q_proj", r"(?:\w+\.)+(q|v)_proj",
    r"(?:[^.]+\.)*[^.]+_proj", r"[a-z_.0-9]*v_proj", r"(\d{1,3}\.){4}.*", r".*layers.*attn.*q.*",
    r"(?:.*\.)?layers\.(?:[0-9]|1[0-9]|2[0-3])\.(?:self_attn|mlp)\.(?:q|k|v|o|gate|up|down)_proj", r"[a-z]{1,64}_proj",
]  # fmt: skip
"""Expressions as adapters in the wild have them: T5's, unsloth's, LLaMA-Factory's, ms-swift's, diffusers'."""

NAMES: dict[str, tuple[Mutation, str, str]] = {
    "an open bracket in the targets": (fields(target_modules="(q_proj"), "CFG301", "error"),
    "an open bracket in a key": (fields(alpha_pattern={"[q_proj": 8}), "CFG301", "error"),
    "a star alone": (fields(exclude_modules="*"), "CFG301", "error"),
    "a broken name to save": (fields(modules_to_save=["score("]), "CFG301", "error"),
    "a broken layers_pattern": (fields(layers_pattern="(h", layers_to_transform=[0]), "CFG301", "error"),
    "a look-behind of any length": (fields(rank_pattern={"(?<=a*)q": 8}), "CFG301", "error"),
    "IA3's feedforward": (of_type("IA3", feedforward_modules="(a+)+!"), "CFG302", "error"),
    "a runaway layers_pattern": (fields(layers_pattern=["(a+)+"], layers_to_transform=[0]), "CFG302", "error"),
    "a runaway name to save": (fields(modules_to_save=["(.+)+head"]), "CFG302", "error"),
    "a runaway exclusion": (fields(exclude_modules="(.*)*lm_head"), "CFG302", "error"),
    "a runaway alpha": (fields(alpha_pattern={"(.*)*x": 8}), "CFG302", "error"),
    "a runaway without case": (fields(target_modules=r"(?i)(A+)+b"), "CFG302", "error"),
    "flags in a key": (fields(rank_pattern={r"(?i)Q_proj": 8}), "CFG301", "error"),
    "a novel": (fields(target_modules="|".join(f"layer_{n}" for n in range(400))), "CFG302", "warning"),
    "hundreds of expressions": (fields(rank_pattern={f"layers.{n}.*q": 8 for n in range(900)}), "CFG303", "error"),
    "names of every shape": (
        fields(rank_pattern={"".join("." if n >> i & 1 else "a" for i in range(13)): 8 for n in range(1, 8192)}),
        "CFG303", "error",
    ),
    "all linear": (fields(target_modules="ALL-linear"), "CFG304", "info"),
    "an expression in a list": (fields(target_modules=["q_proj", "v_proj", r".*\.k_proj"]), "CFG305", "warning"),
    "one target too few": (fields(target_modules=["q_proj"]), "CFG310", "error"),
    "other targets": (fields(target_modules=["c_attn", "c_proj"]), "CFG310", "error"),
    "no targets": (fields(target_modules=[]), "CFG310", "error"),
    "a pattern for some": (fields(target_modules=r".*\.q_proj"), "CFG310", "error"),
    "a pattern without its beginning": (fields(target_modules=r"(q|v)_proj"), "CFG310", "error"),
    "excluded and trained": (fields(exclude_modules=["v_proj"]), "CFG310", "error"),
    "excluded by a pattern": (fields(exclude_modules=".*v_proj"), "CFG310", "error"),
    "saved whole and trained": (fields(modules_to_save=["v_proj"]), "CFG310", "error"),
    "inside what is saved whole": (fields(modules_to_save=["self_attn"]), "CFG310", "error"),
    "layers left out": (fields(layers_to_transform=[0]), "CFG310", "error"),
    "one layer, the other": (fields(layers_to_transform=1), "CFG310", "error"),
    "layers of another list": (fields(layers_to_transform=[0, 1], layers_pattern="h"), "CFG310", "error"),
    "another spelling of case": (fields(target_modules=["Q_proj", "v_proj"]), "CFG310", "error"),
    "a target of elsewhere": (fields(target_modules=["q_proj", "v_proj", "c_attn"]), "CFG311", "info"),
    "a rank for nothing": (fields(rank_pattern={"k_proj": 8}), "CFG312", "warning"),
    "an alpha for nothing": (fields(alpha_pattern={"proj": 8}), "CFG312", "warning"),
    "a rank by PEFT's own name": (fields(rank_pattern={f"^{Q}": 8}), "CFG312", "warning"),
    "a rank for a whole layer": (fields(rank_pattern={"layers.0": 8}), "CFG312", "warning"),
    "a rank behind another": (fields(rank_pattern={"q_proj": 8, "1.self_attn.q_proj": 4}), "CFG313", "warning"),
    "an alpha behind everything": (fields(alpha_pattern={".*": 8, "q_proj": 4}), "CFG313", "warning"),
    "a layer that is not there": (fields(layers_to_transform=[0, 1, 2]), "CFG314", "info"),
    "the layer before the first": (fields(layers_to_transform=[-1, 0, 1]), "CFG314", "warning"),
    "a layer beyond all": (fields(layers_to_transform=[0, 1, 10**9]), "CFG314", "warning"),
    "a layer twice": (fields(layers_to_transform=[0, 1, 1]), "CFG315", "info"),
    "excluded and targeted": (
        fields(target_modules=["q_proj", "v_proj", "o"], exclude_modules=["o"]), "CFG316", "info",
    ),
    "a head that was not saved": (fields(modules_to_save=["lm_head"]), "CFG317", "error"),
    "a score that was not saved": (fields(modules_to_save=["score"], task_type="SEQ_CLS"), "CFG317", "error"),
    "one of two not saved": (
        together(fields(modules_to_save=["lm_head", "norm"]), whole("lm_head")), "CFG317", "warning",
    ),
    "one embedding of two names": (
        together(fields(modules_to_save=["embed_tokens", "wte"]), whole("model.embed_tokens")), "CFG317", "info",
    ),
    "an empty name to save": (fields(modules_to_save=[""]), "CFG318", "error"),
    "an empty target": (fields(target_modules=["q_proj", "v_proj", ""]), "CFG318", "warning"),
    "a space": (fields(target_modules=["q_proj", "v_proj", "k_proj "]), "CFG319", "warning"),
    "a list in a name": (fields(target_modules=["q_proj", "v_proj", "k_proj,o_proj"]), "CFG319", "warning"),
    "PEFT's prefix": (fields(target_modules=["q_proj", "v_proj", "base_model.model.lm"]), "CFG319", "warning"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCALES)
def test_scales_that_cannot_be_meant(name, tmp_path):
    mutation, code, severity = SCALES[name]
    assert (code, severity) in found(mutation, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_cannot_be_meant(name, tmp_path):
    mutation, code, severity = NAMES[name]
    assert (code, severity) in found(mutation, tmp_path)


@pytest.mark.parametrize("pattern", RUNAWAYS)
@pytest.mark.parametrize("field", ["target_modules", "rank_pattern"])
def test_patterns_that_run_away(pattern, field, tmp_path):
    value = pattern if field == "target_modules" else {pattern: 8}
    report = checked(fields(**{field: value}), tmp_path, (EVERYTHING,))
    assert "CFG302" in {finding.code for finding in report.findings}


@pytest.mark.parametrize("pattern", PRACTICE)
def test_patterns_of_practice(pattern, tmp_path):
    assert worst_name(pattern) is None
    assert worst_name(rf"(.*\.)?({pattern})$") is None
    assert ways(pattern, "model.language_model.model.layers.11.self_attn.q_proj") < LIMIT / 1000


def test_the_ways_are_those_re_tries():
    """On n letters, (a+)+ has 2ⁿ⁻¹ ways to split them, and (a|b)* one."""
    assert ways(r"(?:a+)+", "a" * 11) == 1 + sum(2**n for n in range(11))
    assert ways(r"(?:a|b)*", "a" * 11) == 12
    assert ways(r"(?:a?){3}", "a") == 1 + 3
    assert ways(r"a", "b" * 50) == 1


SOUND: dict[str, Mutation] = {
    "as it is": lambda draft: None,
    "a fraction for alpha": fields(lora_alpha=12.7),
    "alpha four times r": fields(lora_alpha=32),
    "no dropout": fields(lora_dropout=0),
    "rank 1 under alpha 32": retargeted(1, "self_attn.q_proj", "self_attn.v_proj"),
    "rsLoRA": fields(use_rslora=True, lora_alpha=16),
    "a rank for some, by name": fields(rank_pattern={"q_proj": 8}),
    "a rank for some, by pattern": fields(rank_pattern={r"layers\.\d+\.self_attn\.q_proj": RANK}),
    "a rank for each": fields(rank_pattern={f"model.layers.{n}.self_attn.{p}_proj": 8 for n in (0, 1) for p in "qv"}),
    "the exact pattern first": fields(alpha_pattern={"layers.0.self_attn.q_proj": 8, "q_proj": 16}),
    "the same behind another": fields(alpha_pattern={"q_proj": 16, "0.self_attn.q_proj": 16}),
    "a regular expression": fields(target_modules=r".*\.self_attn\.(q|v)_proj"),
    "full names": fields(target_modules=[f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qv"]),
    "excluding what is not adapted": fields(exclude_modules=["lm_head", "k_proj"]),
    "both layers": fields(layers_to_transform=[0, 1], layers_pattern="layers"),
    "both layers, unnamed": fields(layers_to_transform=[1, 0]),
    "a head": together(fields(modules_to_save=["lm_head"]), whole("lm_head")),
    "a task's heads": together(
        fields(modules_to_save=["classifier", "score"], task_type="SEQ_CLS"), whole("score"),
    ),
    "a head that all-linear named too": together(
        fields(target_modules=["q_proj", "v_proj", "classifier", "out_proj"], modules_to_save=["classifier", "score"],
               task_type="SEQ_CLS"), whole("classifier.out_proj"),
    ),
    "norms": together(fields(modules_to_save=["norm"]), extra(f"{PREFIX}model.norm.weight", 64)),
    "biases": together(fields(bias="all"), extra(f"{PREFIX}model.layers.0.self_attn.k_proj.bias", 32)),
    "every projection": retargeted(16, *ALL),
    "parameters": together(
        fields(target_modules=[], target_parameters=["q_proj.weight", "self_attn.v_proj.weight"], lora_dropout=0)
    ),
    "EVA": fields(init_lora_weights="eva", eva_config={"rho": 2.0}),
    "gaussian": fields(init_lora_weights="gaussian"),
    "nulls": fields(rank_pattern=None, alpha_pattern=None, exclude_modules=None, layers_to_transform=None),
    "empty lists": fields(exclude_modules=[], modules_to_save=[], layers_to_transform=[], target_parameters=[]),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_sound_configs_are_left_alone(name, tmp_path):
    report = checked(SOUND[name], tmp_path)
    assert [
        (f.code, f.message) for f in report.findings if f.severity != "info" or f.code in ("CFG311", "CFG314")
    ] == []
    assert report.unchecked == ()


TYPES: dict[str, dict[str, Any]] = {
    "ADALORA": {"init_r": 12, "target_r": 8, "lora_alpha": 32, "total_step": 9, "rank_pattern": {"a.lora_E": [True]}},
    "BOFT": {"boft_block_size": 4, "boft_block_num": 0},
    "C3A": {"block_size": 256},
    "DEFT": {"r": 8, "alpha": None},
    "DELORA": {"r": 8, "delora_lambda": 15},
    "FOURIERFT": {"n_frequency": 1000, "scaling": 150.0},
    "GRALORA": {"r": 32, "alpha": 64, "hybrid_r": 0},
    "HRA": {"r": 8},
    "LILY": {"r": 32, "scaling": 1.0},
    "LOHA": {"r": 8, "alpha": 8},
    "LOKR": {"r": 100_000, "alpha": 100_000},
    "MISS": {"r": 64, "mini_r": 1},
    "OFT": {"r": 0, "oft_block_size": 32},
    "OSF": {"effective_rank": None, "rank_pattern": {"q_proj": 0.5}},
    "PEANUT": {"r": 32, "depth": 0, "scaling": 1.0},
    "PSOFT": {"r": 32, "psoft_alpha": 32},
    "RANDLORA": {"r": 32, "randlora_alpha": 640},
    "SHADOW": {"r": 8, "shadow_alpha": 0.1},
    "SUPERTUNING": {"r": None, "lora_alpha": None},
    "VERA": {"r": 256},
    "WAVEFT": {"n_frequency": 2592, "scaling": 25.0},
}


@pytest.mark.parametrize("peft_type", TYPES)
def test_other_types_are_left_alone(peft_type, tmp_path):
    report = checked(of_type(peft_type, **TYPES[peft_type]), tmp_path, ("CFG2",))
    assert [(f.code, f.message) for f in report.findings if f.severity != "info"] == []


JUNK = [
    None, True, False, 0, -1, 3.5, 1e400, math.nan, 10**400, "", "x", "(", "a" * 5000, [], [None], [1, "a", {}], {},
    {"a": 1}, {"(": [1]}, {"": None}, {"q_proj": "x"}, {"q_proj": True}, {"q_proj": 1.5}, [[[]]], ["\ud800"],
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(Draft().config))
def test_any_value_in_any_field(name, tmp_path):
    for number, value in enumerate(JUNK):
        draft = Draft()
        draft.config[name] = value
        draft.files["adapter_config.json"] = json.dumps(draft.config).encode()
        adapter = draft.write(tmp_path / str(number))[0]
        report = validate([adapter], None, Options(Selection((*MINE, "ADV")), workers=1)).results[0]
        assert [u for u in report.unchecked if "internal error" in u.reason] == [], value


def test_modules_and_patterns_by_the_thousand(tmp_path):
    """EVA writes a rank for every module; the experts of a mixture are thousands."""

    def mutate(draft: Draft) -> None:
        names = [f"model.layers.{layer}.mlp.experts.{n}.up_proj" for layer in range(4) for n in range(250)]
        draft.tensors = {f"{PREFIX}{n}.lora_{p}.weight": np.ones((8, 8), np.float32) for n in names for p in "AB"}
        draft.config |= {"target_modules": names, "rank_pattern": dict.fromkeys(names, 8)}

    assert found(mutate, tmp_path, ("CFG3",)) == set()


def test_patterns_are_looked_up_as_one_by_one():
    """By hash and by turns, with the answer of PEFT's loop over re.match."""
    keys = ["self_attn.q_proj", "q.proj", "layers.1", "proj", r".*\.v_proj", "v_proj", "-", "up-proj", "a.b.c", "a_b"]
    modules = [
        "model.layers.0.self_attn.q_proj", "q_proj", "x.qXproj", "m.layers.1", "v_proj", "m.v_proj", "x.aXb.c", "a_b",
        "up-proj", "x.a.b.c", "layersX1", "v_proj\n", "a\nb",
    ]  # fmt: skip
    for start in range(len(keys)):
        turned = keys[start:] + keys[:start]
        patterns = patterns_of(turned, "here", matches)
        for module in modules:
            expected = next((key for key in turned if re.match(rf"(.*\.)?({key})$", module)), None)
            assert expected == patterns.first(module), (turned, module)


def test_a_pattern_that_ran_away_is_not_tried_again():
    tried: list[str] = []

    def slow(pattern: str, module: str, where: str) -> bool:
        tried.append(module)
        raise FormatError("too long", defect="runaway-pattern")

    patterns = patterns_of(["(a+)+"], "here", slow)
    for module in ("a", "b", "c"):
        with pytest.raises(FormatError, match="too long"):
            patterns.first(module)
    assert tried == ["a"]


def test_too_many_expressions_are_refused_in_words():
    config = AdapterConfig({"rank_pattern": {f"a{n}.*": 8 for n in range(MOST_EXPRESSIONS + 1)}})
    with pytest.raises(FormatError, match="absurdly many"):
        config.rank_of("a")


ADVICE: dict[str, tuple[Mutation, str]] = {
    "alpha ten times r": (fields(lora_alpha=80), "ADV001"),
    "alpha a tenth of r": (fields(lora_alpha=0.8), "ADV001"),
    "half dropped": (fields(lora_dropout=0.5), "ADV002"),
    "rank 512": (fields(r=512, lora_alpha=512), "ADV006"),
    "rank 1": (fields(r=1, lora_alpha=1), "ADV007"),
    "rank 128, not stabilised": (fields(r=128, lora_alpha=16), "ADV009"),
    "stabilised, and alpha 2r": (fields(r=256, lora_alpha=512, use_rslora=True), "ADV010"),
    "NaN at the end": (file("trainer_state.json", b'{"global_step": 90, "log_history": [{"loss": NaN}]}'), "ADV057"),
    "three steps": (file("trainer_state.json", b'{"global_step": 3}'), "ADV054"),
    "a card of text": (file("README.md", b"hello"), "ADV051"),
    "a run's logs": (file("runs/events.out.tfevents.1", b"x"), "ADV053"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVICE)
def test_advice(name, tmp_path):
    mutation, code = ADVICE[name]
    assert (code, "info") in found(mutation, tmp_path, ("ADV",))


def test_advice_is_off_unless_selected(tmp_path):
    report = checked(together(fields(lora_alpha=80), file("runs/x", b"")), tmp_path, ())
    assert [f.code for f in report.findings if f.code.startswith("ADV")] == []


@pytest.mark.parametrize("state", [
    b"", b"[]", b"{", b"null", b'{"global_step": "x"}', b'{"global_step": -1}', b'{"global_step": 1e999}',
    b'{"global_step": 9e14, "train_batch_size": 1e14, "epoch": NaN, "log_history": {}}',
    b'{"global_step": 50, "log_history": [1, null, {"loss": "x"}, {"eval_loss": true}]}', b"[" * 100_000,
    b'{"global_step": 50, "epoch": -3, "train_batch_size": 0.0001}',
])  # fmt: skip
def test_any_log_of_training(state, tmp_path):
    assert "CFG" not in str(found(file("trainer_state.json", state), tmp_path, ("ADV",)))


def test_the_zoo_is_left_alone(zoo):
    pytest.importorskip("peft")
    cases = (
        "llama_patterns_rslora", "llama_tokens_dict", "llama_excluded", "llama_bdlora", "mixtral_experts", "mha",
        "tied_ensured_f32", "llama_seqcls", "nested_saved", "llama_layers", "refuse_ia3", "mixtral_v4_experts",
    )  # fmt: skip
    folders = [folder for case in cases for folder in zoo(case).adapter_dirs]
    reports = validate(folders, None, Options(Selection(MINE), workers=1)).results
    assert [(r.path, f.code, f.message) for r in reports for f in r.findings if f.severity != "info"] == []
    assert [(r.path, u) for r in reports for u in r.unchecked] == []
