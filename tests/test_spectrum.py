"""The spectrum of an update, from its factors alone, against the dense SVD it must equal."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import llama, lora, numbers

from adaptool.adapters.adapter import Adapter, open_adapter
from adaptool.adapters.base import open_base
from adaptool.adapters.config import AdapterConfig
from adaptool.adapters.factors import Factors
from adaptool.summary.contents import low_rank_modules
from adaptool.summary.spectrum import matrix_spectrum, module_spectra, product_singular_values
from adaptool.summary.strength import measure
from adaptool.tensors.dtypes import F32
from adaptool.tensors.store import MemoryStore

ROUNDING = 1e-12
"""Relative to the largest singular value: float64 through two QRs and an SVD."""

FLAVOURS = [
    "llama_plain_bf16", "llama_rslora_f16", "llama_patterns", "llama_bdlora", "llama_bdlora_partial", "llama_kasa",
    "llama_embed_head", "llama_embed_dora", "llama_mica", "gpt2_dora", "conv1d", "conv2d_dora", "conv3d_pointwise",
    "mha", "mixtral_experts", "mixtral_v4_experts_rslora", "gpt_oss_experts", "whisper", "t5_all",
]  # fmt: skip


@pytest.mark.parametrize("name", FLAVOURS)
def test_singular_values_are_those_of_the_dense_update(zoo, name):
    adapter = open_adapter(zoo(name).adapter_dirs[0])
    modules = list(low_rank_modules(adapter))
    assert modules
    for module, spectrum in zip(modules, module_spectra(adapter), strict=True):
        for factors, matrix in zip(module.factors, spectrum.matrices, strict=True):
            left, right = factors.load("float64")
            dense = np.linalg.svd(left @ right * spectrum.scale, compute_uv=False)
            found = np.array(matrix.singular_values)
            assert np.abs(dense[: len(found)] - found).max() <= ROUNDING * dense[0]
            assert dense[len(found) :].max(initial=0) <= ROUNDING * dense[0]


def test_the_update_is_what_peft_adds(zoo):
    """Not only a correct SVD, but of the right matrix: the norm of merged − base, in float32 where that is exact."""
    built = zoo("llama_plain_f32")
    adapter, base = open_adapter(built.adapter_dirs[0]), open_base(built.base_dir)
    for spectrum in module_spectra(adapter):
        weight = base.store.array(f"{spectrum.module}.weight").astype(np.float64)
        merged = built.reference[f"{spectrum.module}.weight"].numpy().astype(np.float64)
        assert spectrum.frobenius == pytest.approx(np.linalg.norm(merged - weight), rel=1e-6)
        assert spectrum.spectral == pytest.approx(np.linalg.norm(merged - weight, 2), rel=1e-6)


def test_a_block_of_attention_has_its_output_updated_twice(zoo):
    built = zoo("mha_f32")
    base = open_base(built.base_dir)
    twice = next(s for s in module_spectra(open_adapter(built.adapter_dirs[0])) if s.module == "attention.out_proj")
    name = "attention.out_proj.weight"
    change = built.reference[name].numpy().astype(np.float64) - base.store.array(name)
    assert twice.frobenius == pytest.approx(np.linalg.norm(change), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_any_product(rows, columns, rank, seed):
    random = np.random.default_rng(seed)
    left, right = random.normal(size=(rows, rank)), random.normal(size=(rank, columns))
    dense = np.linalg.svd(left @ right, compute_uv=False)
    found = product_singular_values(left, right)
    both = min(len(dense), len(found))
    assert np.abs(dense[:both] - found[:both]).max() <= ROUNDING * dense[0]


def factors(left, right):
    tensors = {"a": (F32, right.astype(np.float32)), "b": (F32, left.astype(np.float32))}
    return Factors(MemoryStore(tensors), "a", "b", right.shape[0])


def test_norms_and_ranks_by_their_formulas():
    matrix = matrix_spectrum(factors(np.diag([3.0, 4.0, 0.0]), np.eye(3)), 2.0)
    assert pytest.approx(matrix.singular_values) == (8.0, 6.0, 0.0)
    assert matrix.frobenius == pytest.approx(10.0)
    assert matrix.spectral == pytest.approx(8.0)
    assert matrix.stable_rank == pytest.approx(100 / 64)
    shares = np.array([8 / 14, 6 / 14])
    assert matrix.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_equal_directions_count_fully(rank):
    matrix = matrix_spectrum(factors(np.eye(9, rank), np.eye(rank, 11)), -0.5)
    assert matrix.effective_rank == pytest.approx(rank)
    assert matrix.stable_rank == pytest.approx(rank)
    assert matrix.spectral == pytest.approx(0.5)


def test_an_untrained_module_is_zero():
    matrix = matrix_spectrum(factors(np.zeros((5, 2)), np.ones((2, 4))), 2.0)
    assert (matrix.state, matrix.frobenius, matrix.spectral) == ("zero", 0.0, 0.0)
    assert matrix.stable_rank is None
    assert matrix.effective_rank is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_factor_has_no_spectrum(value):
    matrix = matrix_spectrum(factors(np.full((5, 2), value), np.ones((2, 4))), 2.0)
    assert (matrix.state, matrix.frobenius, matrix.singular_values) == ("not_finite", None, ())


def test_the_update_is_never_formed():
    """50 000 × 50 000 would be 20 GB."""
    random = np.random.default_rng(0)
    tall = factors(random.normal(size=(50_000, 4)), random.normal(size=(4, 50_000)))
    tracemalloc.start()
    matrix = matrix_spectrum(tall, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(matrix.singular_values) == 4
    assert peak < 30e6


def test_energy_by_layer_and_the_share_of_the_base(tmp_path):
    base, adapter = open_base(llama(tmp_path / "base")), open_adapter(lora(tmp_path / "adapter"))
    strength = measure(adapter, base)
    assert sum(layer.share for layer in strength.layers) == pytest.approx(1)
    assert [layer.layer for layer in strength.layers] == [0, 1]
    for spectrum in strength.modules:
        weight = base.store.array(f"{spectrum.module}.weight").astype(np.float64)
        assert spectrum.relative == pytest.approx(spectrum.frobenius / np.linalg.norm(weight), rel=1e-6)
    squares = sum(spectrum.frobenius**2 for spectrum in strength.modules)
    weights = sum((spectrum.frobenius / spectrum.relative) ** 2 for spectrum in strength.modules)
    assert strength.frobenius == pytest.approx(squares**0.5)
    assert strength.relative == pytest.approx((squares / weights) ** 0.5)


@pytest.mark.parametrize("name", ["mixtral_experts", "mixtral_v4_experts", "gpt2_dora", "llama_embed_head", "mha"])
def test_the_share_is_of_every_tensor_an_update_lands_on(zoo, name):
    built = zoo(name)
    strength = measure(open_adapter(built.adapter_dirs[0]), open_base(built.base_dir))
    assert all(spectrum.relative is not None for spectrum in strength.modules)


def test_fused_experts_are_measured_against_all_experts(zoo):
    built = zoo("mixtral_experts")
    base = open_base(built.base_dir)
    down = next(
        s
        for s in measure(open_adapter(built.adapter_dirs[0]), base).modules
        if s.module.endswith("0.mlp.experts.down_proj")
    )
    stored = [
        base.store.array(f"model.layers.0.block_sparse_moe.experts.{e}.w2.weight").astype(np.float64) for e in range(4)
    ]
    norm = np.sqrt(sum((weight**2).sum() for weight in stored))
    assert len(down.matrices) == 4
    assert down.relative == pytest.approx(down.frobenius / norm, rel=1e-6)


def test_what_the_base_lacks_is_left_out(tmp_path):
    base, adapter = open_base(llama(tmp_path / "base")), open_adapter(lora(tmp_path / "adapter", layers=3))
    relative = {spectrum.module: spectrum.relative for spectrum in measure(adapter, base).modules}
    assert relative["model.layers.0.self_attn.q_proj"] is not None
    assert relative["model.layers.2.self_attn.q_proj"] is None


def test_zeros_and_broken_numbers_are_named(tmp_path):
    key = "base_model.model.model.layers.{}.self_attn.q_proj.lora_B.weight"
    broken = numbers("F32", (64, 4), 0)
    broken[3, 1], broken[5, 0] = np.nan, np.inf
    extra = {key.format(0): ("F32", np.zeros((64, 4), np.float32)), key.format(1): ("F32", broken)}
    strength = measure(open_adapter(lora(tmp_path / "adapter", extra=extra)))
    assert strength.zero == ("model.layers.0.self_attn.q_proj",)
    assert [(key.format(1), 2)] == [(found.key, found.not_finite) for found in strength.broken]
    assert [spectrum.state for spectrum in strength.modules] == ["zero", "trained", "not_finite", "trained"]


def test_other_types_have_no_spectrum_but_their_broken_numbers_are_told():
    tensors = {"base_model.model.q_proj.hada_w1_a": (F32, np.array([[np.nan, 1.0]], np.float32))}
    config = AdapterConfig({"peft_type": "LOHA", "r": 2})
    strength = measure(Adapter(None, config, MemoryStore(tensors)))
    assert strength.modules == ()
    assert [found.not_finite for found in strength.broken] == [1]
