"""The grammar of saved keys."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import lora, numbers

from adaptool.adapters.adapter import open_adapter
from adaptool.adapters.names import FULL, PREFIX, layer_of, parse, projection_of
from adaptool.adapters.tuners.lora import PART
from adaptool.adapters.tuners.unmergeable import LATER, PROMPTS, ROUTED, Unmergeable

SECONDS = 1.0
"""A key may be long nonsense; more than this for 3 kB is a pattern that runs away."""

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("key", "module", "part"),
    [
        (f"{PREFIX}{Q}.lora_A.weight", Q, "lora_A.weight"),
        (f"{PREFIX}{Q}.lora_B.weight", Q, "lora_B.weight"),
        (f"{PREFIX}{Q}.lora_B.bias", Q, "lora_B.bias"),
        (f"{PREFIX}{Q}.lora_magnitude_vector", Q, "lora_magnitude_vector"),
        (f"{PREFIX}{Q}.lora_magnitude_vector.weight", Q, "lora_magnitude_vector.weight"),
        (f"{PREFIX}{Q}.lora_diag", Q, "lora_diag"),
        (f"{PREFIX}{Q}.base_layer.bias", Q, "base_layer.bias"),
        (f"{PREFIX}model.embed_tokens.lora_embedding_A", "model.embed_tokens", "lora_embedding_A"),
        (f"{PREFIX}model.embed_tokens.base_layer.weight", "model.embed_tokens", "base_layer.weight"),
        (
            f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta",
            "model.embed_tokens",
            "token_adapter.trainable_tokens_delta",
        ),
        (f"{PREFIX}experts.base_layer.lora_A.weight", "experts.base_layer", "lora_A.weight"),
        (f"{PREFIX}lora_A.lora_A.weight", "lora_A", "lora_A.weight"),
        (f"{PREFIX}classifier.weight", "classifier.weight", FULL),
        (f"{PREFIX}{Q}.lora_A.default.weight", f"{Q}.lora_A.default.weight", FULL),
        (f"{PREFIX}{Q}.lora_C.weight", f"{Q}.lora_C.weight", FULL),
        (f"{PREFIX}{Q}.xlora_A.weight", f"{Q}.xlora_A.weight", FULL),
        (f"{PREFIX}lora_A.weight", "lora_A.weight", FULL),
        (f"{Q}.lora_A.weight", f"{Q}.lora_A.weight", ""),
        ("base_model.vera_A", "", "vera_A"),
        ("", "", ""),
    ],
)
def test_lora_keys(key, module, part):
    found = parse(key, PART)
    assert (key, module, part) == (found.text, found.module, found.part)


@given(st.text(max_size=30))
def test_any_key_falls_into_one_bucket(text):
    for key in (text, PREFIX + text, f"{PREFIX}{text}.lora_A.weight"):
        found = parse(key, PART)
        assert found.text == key
        if found.part not in ("", FULL) and found.module:
            assert key == f"{PREFIX}{found.module}.{found.part}"
        elif found.part == FULL:
            assert key == PREFIX + found.module


@pytest.mark.parametrize("segment", ["a.", "lora_.", "a", ".lora_A"])
@pytest.mark.parametrize("part", [PART, Unmergeable("IA3").part], ids=["lora", "any"])
def test_long_keys_are_read_soon(segment, part):
    start = time.process_time()
    parse(f"{PREFIX}{segment * 3000}"[:3000] + "!", part)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(
    ("name", "layer"),
    [(Q, 0), ("h.11.attn", 11), ("a.b", None), ("12", 12), ("x1.y2", None), ("model.layers.3.experts.5.w1", 3)],
)
def test_layers(name, layer):
    assert layer_of(name) == layer


def test_projections():
    assert projection_of(Q) == "q_proj"
    assert projection_of("score") == "score"


def test_an_adapter_is_grouped_by_module(tmp_path):
    head = {f"{PREFIX}lm_head.weight": ("F32", numbers("F32", (40, 64), 1)), "stray": ("F32", numbers("F32", (2,), 2))}
    adapter = open_adapter(lora(tmp_path / "a", layers=1, extra=head))
    assert set(adapter.modules) == {Q, "model.layers.0.self_attn.v_proj"}
    assert adapter.modules[Q] == {part: f"{PREFIX}{Q}.{part}" for part in ("lora_A.weight", "lora_B.weight")}
    assert adapter.full_tensors == {"lm_head.weight": f"{PREFIX}lm_head.weight"}
    assert adapter.strangers == ("stray",)


def test_a_type_is_in_one_list():
    assert not PROMPTS & ROUTED
    assert not LATER & (PROMPTS | ROUTED | {"LORA"})


def test_every_type_of_peft_is_known():
    peft = pytest.importorskip("peft")
    assert {kind.value for kind in peft.PeftType} <= PROMPTS | ROUTED | LATER | {"LORA"}


def test_the_part_of_lora_anchors_at_a_dot():
    assert not re.fullmatch(PART, "my_lora_A.weight")
