"""adapter_config.json: kept whole, read strictly, its patterns matched as PEFT matches them and never for long."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import edit_json, llama, lora, lora_config, refusal_of, write_json

from adaptool.adapters.adapter import open_adapter
from adaptool.adapters.config import CONFIG_LIMIT, AdapterConfig, first_match, matches, read_config
from adaptool.api import merge
from adaptool.errors import AdaptoolError, FormatError, MismatchError, NotFoundError, UsageError
from adaptool.merging.options import MergeOptions

SECONDS = 1.0
"""One pattern against one name, compiled and matched: a user would not notice; what runs away takes minutes."""

MODULES = ["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "q_proj", "model.q_projector", "a.b"]


def config(**fields: object) -> AdapterConfig:
    return AdapterConfig(lora_config() | fields)


def parsed(folder: Path, data: bytes) -> AdapterConfig:
    (folder / "adapter_config.json").write_bytes(data)
    return read_config(folder / "adapter_config.json")


HOSTILE = {
    "a key twice": b'{"r": 8, "r": 16}',
    "an inner key twice": b'{"rank_pattern": {"q": 1, "q": 2}}',
    "NaN": b'{"lora_alpha": NaN}',
    "Infinity": b'{"lora_alpha": Infinity}',
    "minus Infinity": b'{"lora_alpha": -Infinity}',
    "a byte order mark": b'\xef\xbb\xbf{"r": 8}',
    "UTF-16": '{"r": 8}'.encode("utf-16"),
    "UTF-16 without a mark": '{"r": 8}'.encode("utf-16-le"),
    "invalid UTF-8": b'{"base_model_name_or_path": "\xff"}',
    "half a character": b'{"base_model_name_or_path": "\\ud800"}',
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "nothing": b"",
    "cut off": b'{"r": 8',
    "a comment": b'{"r": 8} // eight',
    "deep": b'{"r": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "thousands of digits": b'{"r": ' + b"9" * 5000 + b"}",
    "too large": b'{"x": "' + b" " * CONFIG_LIMIT + b'"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, tmp_path):
    with pytest.raises(FormatError) as error:
        parsed(tmp_path, HOSTILE[name])
    assert str(tmp_path) in error.value.message
    assert len(error.value.message) < 500


def test_the_key_given_twice_is_named(tmp_path):
    with pytest.raises(FormatError, match="'r' twice"):
        parsed(tmp_path, HOSTILE["a key twice"])


def test_a_missing_config(tmp_path):
    with pytest.raises(NotFoundError, match=r"no adapter_config\.json") as error:
        read_config(tmp_path / "adapter_config.json")
    assert "save_pretrained" in error.value.hint


def test_unknown_fields_survive_a_round_trip(tmp_path):
    fields = {"zeta": {"b": [1, None, 2.5], "a": "ü"}, "r": 8, "peft_type": "LORA", "auto_mapping": {"x": "os.system"}}
    path = write_json(tmp_path / "adapter_config.json", fields)
    text = read_config(path).to_json()
    assert list(json.loads(text)) == list(fields)
    assert json.loads(text) == fields
    path.write_text(text, encoding="utf-8")
    assert text == read_config(path).to_json()


def test_real_configs_survive_a_round_trip(zoo):
    pytest.importorskip("peft")
    for name in ("llama_patterns", "llama_bdlora", "llama_kasa", "llama_tokens_dict"):
        path = zoo(name).adapter_dirs[0] / "adapter_config.json"
        assert json.loads(path.read_text()) == json.loads(read_config(path).to_json())


@pytest.mark.parametrize("value", [0, -1, 8.0, "8", True, None, [8], 1e3, {}])
def test_ranks_are_positive_whole_numbers(value):
    with pytest.raises(FormatError, match=r"^adapter_config\.json: r must be"):
        _ = config(r=value).rank
    with pytest.raises(FormatError, match="rank_pattern"):
        config(rank_pattern={"q_proj": value}).rank_of("a.q_proj")


@pytest.mark.parametrize(
    "value", ["16", True, None, [16], float("nan"), float("inf"), {}, 10**400], ids=lambda v: str(v)[:9]
)
def test_alphas_are_finite_numbers(value):
    with pytest.raises(FormatError, match="lora_alpha must be"):
        _ = config(lora_alpha=value).alpha
    with pytest.raises(FormatError, match="alpha_pattern"):
        config(alpha_pattern={"q_proj": value}).alpha_of("a.q_proj")


@pytest.mark.parametrize("value", [1e9, -16, 0, 12.7])
def test_odd_alphas_are_numbers_all_the_same(value):
    assert config(lora_alpha=value).scale_of("a.q_proj") == value / 4


@pytest.mark.parametrize(("rslora", "expected"), [(False, 8 / 4), (True, 8 / 2), (None, 2.0)])
def test_scale(rslora, expected):
    assert config(use_rslora=rslora).scale_of("model.q_proj") == expected


def test_patterns_are_looked_up_one_by_one():
    patterned = config(rank_pattern={"q_proj": 2, "^q_proj": 3}, alpha_pattern={"layers.0.*": 32, "q_proj": 1})
    assert patterned.rank_of("model.q_proj") == 2
    assert patterned.alpha_of("model.layers.0.q_proj") == 32
    assert patterned.scale_of("model.layers.1.q_proj") == 1 / 2
    assert patterned.scale_of("model.layers.0.v_proj") == 32 / 4


@pytest.mark.parametrize("value", ["q_proj", ["q_proj"], 3, True])
def test_patterns_are_a_mapping(value):
    with pytest.raises(FormatError, match="rank_pattern must map"):
        config(rank_pattern=value).rank_of("q_proj")


@pytest.mark.parametrize("value", ["yes", 1, 0.5, ["x"], {"a": 1}])
def test_flags_are_true_or_false(value):
    with pytest.raises(FormatError, match="use_dora must be true or false"):
        config(use_dora=value).flag("use_dora")


@pytest.mark.parametrize(("value", "expected"), [(None, ()), ("a", ("a",)), (["b", "a"], ("a", "b")), ([], ())])
def test_names(value, expected):
    assert expected == config(modules_to_save=value).names("modules_to_save")


@pytest.mark.parametrize("value", [3, {"a": 1}, ["a", 1], True])
def test_names_are_names(value):
    with pytest.raises(FormatError, match="modules_to_save must be"):
        config(modules_to_save=value).names("modules_to_save")


@pytest.mark.parametrize("value", [None, 3, ["LORA"], {}])
def test_the_type_is_a_name(value):
    with pytest.raises(FormatError, match="no peft_type"):
        _ = config(peft_type=value).peft_type


KEYS = [
    "q_proj", "proj", "_proj", "^q_proj", "self_attn.q_proj", ".q_proj", "layers.0.*", r"layers\.\d+\.mlp\.up_proj",
    ".*", "", "model", r".*\.(q|k)_proj", "q_proj$", "q_proj|up_proj", "(q|up)_proj", "Q_PROJ", "(?i)Q_PROJ", "a.b",
    "a|b", r"\d+", "q.proj", "[a-z_]+", "q_proj{1}", "q_projx?", r"(?:model\.)?q_proj", "(?P<x>q)_proj", r"\bq_proj",
    r"q\_proj",
    "model.layers.11", "layers.1", r"(?<=self_attn\.)q_proj", "q_proj{e}", "(?:q_proj){e<=1}", r"q_pro\p{L}", "x{i<=3}",
]  # fmt: skip


def peft_match(key: str, module: str) -> str | None:
    other = pytest.importorskip("peft.utils.other")
    return key if other.get_pattern_key([key], module) == key else None


@pytest.mark.parametrize("key", KEYS)
def test_patterns_match_what_they_match_in_peft(key):
    import re

    for module in MODULES:
        try:
            expected = peft_match(key, module)
        except re.error:
            with pytest.raises(FormatError):
                first_match([key], module, "here")
            continue
        assert expected == first_match([key], module, "here"), module


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab.*|()?_[]^$+{}1,e<"), max_size=8), max_size=3), st.text("ab._1", max_size=9))
def test_any_patterns_match_what_they_match_in_peft(keys, module):
    import re

    from peft.utils.other import get_pattern_key

    try:
        expected = get_pattern_key(keys, module)
    except re.error:
        return
    try:
        result = first_match(keys, module, "here")
    except FormatError:
        return  # refused in words; never another answer than PEFT's
    assert expected == (module if result is None else result)


@pytest.mark.parametrize("pattern", ["(", "[", "*", "a{2,1}", "(?P<1>a)", "\\", "(?<=a*)b"])
def test_what_is_no_pattern_is_said(pattern):
    with pytest.raises(FormatError, match="not a regular expression"):
        first_match([pattern], "model.q_proj", "here")


RUNAWAYS = {
    "nested repeats": r"(([a-z])+.)+[A-Z]([a-z])+",
    "alternatives": "(a|a)*b",
    "recursion": "(?R)",
    "counted repeats": "(?:x{1000}){2000}",
    "a million repeats": "x{1000000}",
    "open brackets": "(" * 3000 + ")" * 3000,
    "many alternatives": "a|" * 100_000,
}


@pytest.mark.parametrize("name", RUNAWAYS)
def test_a_pattern_that_runs_away_is_stopped(name):
    start = time.process_time()
    found: list[str | None] = []
    error = refusal_of(lambda: found.append(first_match([RUNAWAYS[name]], "a" * 60 + "!", "here")))
    assert (error is None) == (found == [None])
    assert error is None or len(error.message) < 1000, "an error is a line, not the pattern"
    assert time.process_time() - start < SECONDS


def test_many_slow_patterns_are_stopped(tmp_path):
    """Each just below the limit: a config may not buy a quarter of a second per module and pattern."""
    adapter = lora(tmp_path / "a", layers=2, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    slow = {f"(?:{'[a-z._]*' * 6}){number}" for number in range(40)}
    edit_json(adapter / "adapter_config.json", rank_pattern=dict.fromkeys(slow, 4))
    start = time.process_time()
    refusal_of(lambda: merge([(adapter, 1.0)], llama(tmp_path / "base"), tmp_path / "out"))
    assert time.process_time() - start < 5 * SECONDS


def test_a_pattern_is_matched_from_the_start():
    assert matches("a", "ab", "here")
    assert not matches("b", "ab", "here")


JUNK = [
    0,
    -1,
    True,
    1.5,
    "x",
    "",
    [],
    ["x"],
    [1],
    [None],
    {},
    {"x": 1},
    {"q_proj": "x"},
    {"nblocks": "x"},
    10**400,
    "a\0b",
]
FIELDS = [
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias",
    "ensure_weight_tying", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "kasa_config",
    "layer_replication", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_bias", "lora_dropout",
    "modules_to_save", "monteclora_config", "peft_type", "peft_version", "r", "rank_pattern", "revision",
    "target_modules", "target_parameters", "task_type", "trainable_token_indices", "use_bdlora", "use_dora",
    "use_qalora", "use_rslora", "velora_config",
]  # fmt: skip


def stumble(base: Path, adapter: Path, folder: Path, value: object) -> list[str]:
    """What a merge raises, if it is not an AdaptoolError."""
    try:
        for _ in merge([(adapter, 1.0)], base, folder / "out", options=MergeOptions(overwrite=True, workers=1)):
            pass
    except AdaptoolError:
        pass
    except Exception as error:
        return [f"{str(value)[:20]!r}: {type(error).__name__}: {str(error)[:60]}"]
    return []


@pytest.mark.parametrize("field", FIELDS)
def test_junk_in_any_field_raises_only_worded_errors(field, tmp_path):
    """A merge may succeed or be refused; it may not stumble."""
    base, adapter = llama(tmp_path / "base", layers=1), lora(tmp_path / "adapter", layers=1)
    stumbles = []
    for value in JUNK:
        write_json(adapter / "adapter_config.json", lora_config() | {field: value})
        stumbles += stumble(base, adapter, tmp_path, value)
    assert stumbles == []


BASE_FIELDS = [
    "model_type", "architectures", "tie_word_embeddings", "text_config", "vision_config", "quantization_config",
    "_name_or_path", "torch_dtype", "dtype", "vocab_size", "num_hidden_layers", "auto_map", "id2label", "num_experts",
]  # fmt: skip


@pytest.mark.parametrize("field", BASE_FIELDS)
def test_junk_in_the_base_config_raises_only_worded_errors(field, tmp_path):
    base, adapter = llama(tmp_path / "base", layers=1), lora(tmp_path / "adapter", layers=1)
    good = json.loads((base / "config.json").read_text())
    stumbles = []
    for value in JUNK:
        write_json(base / "config.json", good | {field: value})
        stumbles += stumble(base, adapter, tmp_path, value)
    assert stumbles == []


def test_nothing_is_imported_from_a_config(tmp_path):
    import sys

    mapping = {"parent_library": "this", "base_model_class": "Zen"}
    adapter = lora(tmp_path / "a", auto_mapping=mapping, auto_map={"AutoModel": "this.Zen"})
    sys.modules.pop("this", None)
    base = llama(tmp_path / "base")
    with pytest.raises(MismatchError, match="CFG420"):
        merge([(adapter, 1.0)], base, tmp_path / "out")
    merge([(adapter, 1.0)], base, tmp_path / "out", ignore=["CFG42"])
    assert "this" not in sys.modules


def test_adapters_next_door_are_pointed_at(tmp_path):
    lora(tmp_path / "mine" / "default")
    with pytest.raises(NotFoundError, match="no adapter_config") as error:
        open_adapter(tmp_path / "mine")
    assert "default" in error.value.hint
    with pytest.raises(NotFoundError) as error:
        open_adapter(llama(tmp_path / "model"))
    assert "a model, not an adapter" in error.value.hint


def test_no_adapter_at_all(tmp_path):
    with pytest.raises(UsageError):
        merge([], llama(tmp_path / "base"), tmp_path / "out")
