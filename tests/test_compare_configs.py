"""Configs compared: what is only another spelling is no difference, and what differs is told by what it does."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from making import VOCABULARY, WIDTH, lora, numbers

from adaptool.adapters.adapter import Adapter, open_adapter
from adaptool.adapters.canonical import canonical_fields, explicit_fields
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.schema import default_of, fields_of, peft_types
from adaptool.comparing.base_names import bases_changed
from adaptool.comparing.configs import MOST_LEAVES, compare_configs
from adaptool.comparing.result import ConfigChange
from adaptool.comparing.scales import arrow, layers, number
from adaptool.errors import AdaptoolError
from adaptool.versions import adapter_digest, canonical_config

RELEASES = json.loads((Path(__file__).parent / "data" / "lora_configs.json").read_text())
COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
QKV = ("q_proj", "k_proj", "v_proj")
EMPTY = [None, [], {}]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Adapter:
    folder = tmp_path_factory.mktemp("configs") / "adapter"
    return open_adapter(lora(folder, targets=QKV, layers=4, rank=4, base_model_name_or_path="acme/llama"))


def with_fields(adapter: Adapter, *left_out: str, **fields: object) -> Adapter:
    kept = {name: value for name, value in {**adapter.config.fields, **fields}.items() if name not in left_out}
    return Adapter(adapter.path, AdapterConfig(kept), adapter.store)


def only(changes: tuple[ConfigChange, ...]) -> ConfigChange:
    assert [change.field for change in changes] == [changes[0].field]
    return changes[0]


def changed(adapter: Adapter, **fields: object) -> ConfigChange:
    return only(compare_configs(adapter, with_fields(adapter, **fields)))


@pytest.mark.parametrize("version", RELEASES)
def test_every_peft_writes_the_same_adapter(version):
    newest = AdapterConfig(RELEASES["0.21.2"])
    assert canonical_fields(AdapterConfig(RELEASES[version])) == canonical_fields(newest)
    assert canonical_config(newest) == (
        b'{"lora_alpha":32,"peft_type":"LORA","r":16,"target_modules":["k_proj","q_proj","v_proj"]}'
    )


SAME = {
    "another order": {"target_modules": ["v_proj", "k_proj", "q_proj"]},
    "a name twice": {"target_modules": [*QKV, "q_proj"]},
    "a point": {"r": 4.0, "lora_alpha": 8.0, "lora_dropout": 0},
    "lower case": {"peft_type": "lora", "task_type": "causal_lm"},
    "defaults": {"use_dora": False, "rank_pattern": {}, "modules_to_save": [], "init_lora_weights": True},
    "null for an empty object": {"rank_pattern": None, "alpha_pattern": None, "loftq_config": None},
    "a pattern that says what holds anyway": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 8}},
    "fields of a later PEFT, off": {"use_something": None},
}


@pytest.mark.parametrize("fields", SAME.values(), ids=SAME)
def test_another_spelling_is_no_change(adapter, fields):
    again = with_fields(adapter, **fields)
    assert compare_configs(adapter, again) == ()
    assert adapter_digest(again) == adapter_digest(adapter)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"layers_to_transform": 3}, {"layers_to_transform": [3]}),
        ({"layers_to_transform": [1, 0]}, {"layers_to_transform": [0, 1]}),
        ({"layers_pattern": "layers"}, {"layers_pattern": ["layers"]}),
        ({"kasa_config": {}}, {"kasa_config": {"beta": 0.0001, "gamma": 0.001}}),
        ({"rank_pattern": {"q_proj": 8, "k_proj": 2}}, {"rank_pattern": {"k_proj": 2, "q_proj": 8}}),
    ],
)
def test_two_spellings_of_one_thing(adapter, one, two):
    assert compare_configs(with_fields(adapter, **one), with_fields(adapter, **two)) == ()


def test_the_order_of_patterns_counts_where_two_match_one_module(adapter):
    patterns = {"q_proj": 16, "layers.0.self_attn.q_proj": 2}
    one = with_fields(adapter, alpha_pattern=patterns)
    two = with_fields(adapter, alpha_pattern=dict(reversed(patterns.items())))
    assert adapter_digest(one) != adapter_digest(two)
    change = only(compare_configs(one, two))
    assert (change.field, change.matters) == ("alpha_pattern", True)
    assert change.effect.endswith("their order changed: scale 4 → 0.5 on q_proj in layer 0")


EFFECTS = [
    ({"lora_alpha": 16}, "lora_alpha", "scale 2 → 4 on all 12 modules"),
    ({"r": 8}, "r", "rank 4 → 8, scale 2 → 1 on all 12 modules"),
    ({"use_rslora": True}, "use_rslora", "scale 2 → 4 on all 12 modules (rsLoRA: α/√r)"),
    ({"alpha_pattern": {"k_proj": 16}}, "alpha_pattern.k_proj", "scale 2 → 4 on k_proj"),
    ({"alpha_pattern": {r".*\.[013]\..*v_proj": 9}}, r"alpha_pattern..*\.[013]\..*v_proj",
     "scale 2 → 2.25 on v_proj in layers 0, 1, 3"),
    ({"rank_pattern": {"q_proj": 8}}, "rank_pattern.q_proj", "rank 4 → 8, scale 2 → 1 on q_proj"),
    ({"target_modules": ["q_proj", "v_proj"]}, "target_modules", "loses k_proj (4 modules)"),
    ({"layers_to_transform": [0, 1]}, "layers_to_transform",
     "loses q_proj (2 modules), k_proj (2 modules), v_proj (2 modules)"),
    ({"exclude_modules": ["v_proj"]}, "exclude_modules", "loses v_proj (4 modules)"),
    ({"trainable_token_indices": [7, 9]}, "trainable_token_indices", "trains 2 tokens: 7, 9"),
    ({"use_dora": True}, "use_dora", "DoRA: the columns of W + ΔW are scaled to learned magnitudes"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights", "PiSSA now: its factors belong on a base that it changed"),
    ({"kasa_config": {}}, "kasa_config", "KaSA: a learned diagonal stands between B and A"),
    ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication",
     "which of the base's layers the model is built from, and how often"),
    ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens",
     "the tokens after which the adapter acts (aLoRA)"),
    ({"base_model_name_or_path": "acme/mistral"}, "base_model_name_or_path", "another base model"),
    ({"base_model_name_or_path": "unsloth/Llama-bnb-4bit"}, "base_model_name_or_path",
     "the same model: the model itself before, a bnb-4bit copy now; another organisation's copy of a model of that "
     "name (acme, unsloth)"),
    ({"from_the_future": 3}, "from_the_future", "not known to PEFT 0.21.2: effect unknown"),
    ({"vera_dropout": 3}, "vera_dropout", "a field of other PEFT types, not of LORA: effect unknown"),
    ({"bias": "all"}, "bias", "which of the base's biases are replaced by trained ones"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field", "effect"), EFFECTS, ids=[field for _, field, _ in EFFECTS])
def test_what_a_change_does(adapter, fields, field, effect):
    change = changed(adapter, **fields)
    assert (change.field, change.effect, change.matters) == (field, effect, True)
    back = only(compare_configs(with_fields(adapter, **fields), adapter))
    assert (back.field, back.before, back.after, back.matters) == (field, change.after, change.before, True)


IDLE = [
    ({"lora_dropout": 0.1}, "training only: no effect on the result"),
    ({"inference_mode": True}, "metadata (whether it was saved for use): no effect on the result"),
    ({"peft_version": "0.19.0"}, "metadata (which PEFT saved it): no effect on the result"),
    ({"auto_mapping": {"parent_library": "x"}},
     "metadata (which class the base was loaded with): no effect on the result"),
    ({"fan_in_fan_out": True}, "PEFT decides it by layer: no effect on the result"),
    ({"init_lora_weights": "Gaussian"}, "it only sets what training began with: no effect on the result"),
    ({"eva_config": {"rho": 3.0}}, "it only sets what training began with: no effect on the result"),
    ({"task_type": None}, "it only says what the base is loaded for: no effect on the result"),
    ({"megatron_core": "megatron"}, "unused: there is no megatron_config: no effect on the result"),
    ({"base_model_name_or_path": "/data/llama/"}, "the same model: by its hub id before, by a path now"),
    ({"base_model_name_or_path": "ACME/Llama"}, "the same model: its name in another spelling"),
    ({"revision": COMMIT}, "the base's revision is pinned"),
    ({"use_something": False}, "not known to PEFT 0.21.2: off"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "effect"), IDLE, ids=[f"{name}" for fields, _ in IDLE for name in fields])
def test_what_does_nothing_is_told_and_leaves_the_digest(adapter, fields, effect):
    change = changed(adapter, **fields)
    assert (change.effect, change.matters) == (effect, False)
    assert adapter_digest(with_fields(adapter, **fields)) == adapter_digest(adapter)


@pytest.mark.parametrize(
    ("fields", "effect"),
    [
        ({"target_modules": r".*\.(q|k|v)_proj"}, "names the same saved modules"),
        ({"target_modules": "all-linear"}, "names the same saved modules"),
        ({"target_modules": [*QKV, "o_proj"]}, "names the same saved modules; nothing is saved for o_proj"),
        ({"modules_to_save": ["score"]}, "names the same saved tensors"),
        ({"rank_pattern": {"o_proj": 64}}, "no saved module uses it"),
    ],
)
def test_a_field_that_comes_to_the_same_for_what_is_saved(adapter, fields, effect):
    change = changed(adapter, **fields)
    assert (change.effect, change.matters) == (effect, False)


def test_rank_and_alpha_that_leave_the_scale_alone_say_so(adapter):
    changes = compare_configs(adapter, with_fields(adapter, r=8, lora_alpha=16))
    assert [(change.field, change.effect) for change in changes] == [
        ("r", "rank 4 → 8 on all 12 modules (the scale stays 2)"),
        ("lora_alpha", "the scale stays 2"),
    ]


def test_scales_are_those_of_the_modules_not_of_the_field(adapter):
    patterned = {"alpha_pattern": {"q_proj": 16, "k_proj": 4}}
    one, two = with_fields(adapter, **patterned), with_fields(adapter, **patterned, lora_alpha=12)
    assert only(compare_configs(one, two)).effect == "scale 2 → 3 on v_proj"
    rooted = only(compare_configs(one, with_fields(adapter, **patterned, use_rslora=True)))
    assert rooted.effect == ("scale 4 → 8 on q_proj; scale 1 → 2 on k_proj; scale 2 → 4 on v_proj (rsLoRA: α/√r)")


def test_defaults_are_written_out_by_the_peft_that_saved_it(adapter):
    bare = with_fields(adapter, "lora_alpha", "r")
    changes = compare_configs(bare, adapter)
    assert [(c.field, c.before, c.after, c.defaulted) for c in changes] == [("r", 8, 4, "before")]
    old = AdapterConfig({"peft_type": "OFT", "peft_version": "0.15.0"})
    new = AdapterConfig({"peft_type": "OFT", "peft_version": "0.18.0"})
    assert [explicit_fields(config)["r"] for config in (old, new)] == [8, 0]
    assert canonical_fields(old) != canonical_fields(new)


def test_another_type_lists_what_the_files_say(adapter):
    other = with_fields(adapter, "lora_alpha", peft_type="LOHA", alpha=32, module_dropout=0.0)
    changes = {change.field: change for change in compare_configs(adapter, other)}
    assert changes["peft_type"].matters
    assert {"alpha", "peft_type"} <= set(changes)
    assert not {"use_dora", "rank_dropout", "module_dropout", "loftq_config"} & set(changes)


def test_saved_modules_gained_and_lost(tmp_path):
    head = {"base_model.model.score.weight": ("F32", numbers("F32", (3, WIDTH), 1))}
    one = open_adapter(lora(tmp_path / "one", extra=head, modules_to_save=None))
    two = open_adapter(lora(tmp_path / "two", extra=head, modules_to_save=["score"]))
    change = only(compare_configs(one, two))
    assert (change.effect, change.matters) == ("also saved whole: score", True)
    assert only(compare_configs(two, one)).effect == "no longer saved whole: score"


def test_the_same_tokens_by_the_embeddings_name(tmp_path):
    rows = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta":
            ("F32", numbers("F32", (2, WIDTH), 1))}  # fmt: skip
    one = open_adapter(lora(tmp_path / "one", extra=rows, trainable_token_indices=[3, VOCABULARY - 1]))
    two = with_fields(one, trainable_token_indices={"embed_tokens": [3, VOCABULARY - 1]})
    change = only(compare_configs(one, two))
    assert (change.effect, change.matters) == ("the same tokens, otherwise written", False)


BASES = [
    (("a/b", None), ("a/b", None), "same"),
    (("a/b", None), ("a/b", "main"), "same"),
    (("a/b", COMMIT), ("a/b", COMMIT[:12]), "same"),
    (("a/b", "main"), ("a/b", COMMIT), "pinned"),
    (("a/b", None), ("/cache/models--a--b/snapshots/" + COMMIT, None), "pinned"),
    (("a/b", "v1"), ("a/b", COMMIT), "pinned"),
    (("a/b", COMMIT), ("a/b", None), "unpinned"),
    (("a/b", COMMIT), ("a/b", OTHER_COMMIT), "revision"),
    (("a/b", "v1"), ("a/b", "v2"), "revision"),
    (("a/b", None), ("A/B/", None), "respelt"),
    (("a/b", None), ("C:\\models\\b", None), "respelt"),
    (("a/b", None), ("https://huggingface.co/a/b", None), "respelt"),
    (("a/b", None), ("c/b-AWQ", None), "respelt"),
    (("meta-llama/Llama-2-7b-hf", None), ("unsloth/llama-2-7b-bnb-4bit", None), "respelt"),
    ((None, None), ("a/b", None), "respelt"),
    (("a/b", None), (None, None), "respelt"),
    (("a/b", None), ("a/c", None), "other"),
    (("a/b-7b", COMMIT), ("a/b-13b", COMMIT), "other"),
    (("a/b", None), ("a/b-Instruct", None), "other"),
    (("/data/b", None), ("/data/c", None), "other"),
]


@pytest.mark.parametrize(("before", "after", "expected"), BASES)
def test_bases(before, after, expected):
    assert bases_changed(before, after)[0] == expected
    backwards = {"pinned": "unpinned", "unpinned": "pinned"}.get(expected, expected)
    assert bases_changed(after, before)[0] == backwards


def test_numbers_and_layers_as_people_write_them():
    assert [number(n) for n in (2.0, 2**1.5, 1024.0, 150.04, 1e-7)] == ["2", "2.83", "1024", "150.0", "1e-07"]
    assert arrow(2.0001, 2.0002) == "2.0001 → 2.0002"
    assert layers([f"m.layers.{i}.q" for i in (0, 1, 2, 5, 7, 8)]) == "layers 0–2, 5, 7, 8"


def other_value(part, default):
    """A value of a field's type that is not its default."""
    kinds = [part, *part.get("anyOf", ())]
    if "$ref" in str(part):
        return {} if default is None else {"surprise": 1}
    words = [word for kind in kinds for word in kind.get("enum", ()) if word != default and isinstance(word, str)]
    if words:
        return words[0]
    of = {name for kind in kinds for name in ([kind["type"]] if isinstance(kind.get("type"), str)
                                              else kind.get("type", ()))}  # fmt: skip
    if isinstance(default, bool):
        return not default
    choices = {"integer": 7, "number": 0.375, "string": "other", "array": [7], "object": {"q_proj": 7}, "boolean": True}
    return next((value for name, value in choices.items() if name in of and value != default), "other")


@pytest.mark.parametrize("kind", peft_types())
def test_every_field_of_every_type(adapter, kind):
    """What matters is in the digest; what is left out of the digest does not matter."""
    plain = with_fields(adapter, "r", "lora_alpha", peft_type=kind)
    for name, part in fields_of(kind).items():
        if name in ("peft_type", "target_modules", "base_model_name_or_path"):
            continue
        other = with_fields(plain, **{name: other_value(part, default_of(kind, name))})
        changes = compare_configs(plain, other)
        assert {change.field.partition(".")[0] for change in changes} == {name}
        assert all(change.effect for change in changes)
        if canonical_fields(plain.config) == canonical_fields(other.config):
            assert not any(change.matters for change in changes), name


HOSTILE = [
    *EMPTY, 0, 1, -1, True, False, "", "q_proj", "(a+)+$", "[", "all-linear", [1], [None], [[]], [{}], ["q_proj", 1],
    {"q_proj": 8}, {"q_proj": None}, {"(x+)+$": 4, "v_proj": 2}, {"a.v_proj": 1, "v_proj": 2.0}, 1e400, 10**30,
    {"x": {"y": {"z": [1]}}}, ["a\x1b[31m"], 3.5, "mica", [["q_proj", 3]], {"": 1}, {"embed_tokens": "x"}, "x" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_a_hostile_config_is_listed_and_never_raises(adapter, seed):
    chance = random.Random(seed)
    names = [*fields_of("LORA"), "unheard_of", "alpha", "token_indices"]

    def drawn() -> Adapter:
        return with_fields(adapter, **{chance.choice(names): chance.choice(HOSTILE) for _ in range(4)})

    for _ in range(100):
        one, two = drawn(), drawn()
        assert compare_configs(one, one) == ()
        there, back = compare_configs(one, two), compare_configs(two, one)
        assert {change.field for change in there} == {change.field for change in back}


def test_a_config_nested_absurdly_deep_is_refused_in_words():
    value: object = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(AdaptoolError, match="nested absurdly deep"):
        canonical_fields(AdapterConfig({"peft_type": "LORA", "target_modules": value}))


def test_a_hundred_thousand_patterns_are_cut_short(adapter):
    changes = compare_configs(adapter, with_fields(adapter, rank_pattern={f"k{i}": i for i in range(100_000)}))
    assert len(changes) == MOST_LEAVES + 1
    assert changes[-1].effect == "and up to 99799 more entries"  # k4 says what holds anyway


def test_healthy_adapters_of_every_type_saved_otherwise(tmp_path):
    """Defaults written out, or left out, or saved again by PEFT: the same adapter."""
    pytest.importorskip("peft")
    from peft_types import CASES, peft_type_of

    first = {peft_type_of(name): name for name in reversed(CASES)}
    for name in first.values():
        folder = CASES[name](tmp_path / name)
        found = open_adapter(folder)
        kind, fields = found.config.peft_type, found.config.fields
        explicit = {**{n: default_of(kind, n, found.config.peft_version) for n in fields_of(kind)}, **fields}
        short = {n: v for n, v in fields.items() if n not in fields_of(kind) or v != default_of(kind, n)}
        short["peft_type"] = kind
        digest = adapter_digest(found)
        for again in (explicit, short, dict(reversed(fields.items()))):
            other = Adapter(folder, AdapterConfig(again), found.store)
            assert adapter_digest(other) == digest, name
            assert [c.field for c in compare_configs(found, other) if c.matters] == [], name
        assert saved_again(fields, tmp_path / "again") in (None, canonical_fields(found.config)), name


def saved_again(fields, folder: Path):
    """The canonical fields of what the installed PEFT makes of a config; None where it does not load it."""
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils.peft_types import PeftType

    if fields["peft_type"] not in PeftType.__members__ or fields["peft_type"] == "CPT":
        return None  # CPT forgets what it had found in the base, and finds it again when it is loaded
    cls = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(fields["peft_type"])]
    try:
        made: PeftConfig = cls.from_peft_type(**dict(fields))
    except (ImportError, TypeError, ValueError):
        return None
    made.save_pretrained(folder)
    return canonical_fields(AdapterConfig(json.loads((folder / "adapter_config.json").read_text())))
