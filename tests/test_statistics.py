"""The figures of an adapter's values: equal to a float64 reference, for every type and any shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adaptool.rules.draft import PREFIX, WIDTH, Draft, Q, V, framed, numbers, packed
from adaptool.rules.subject import Subject
from adaptool.rules.weights import moments
from adaptool.rules.weights.moments import NOTHING, Pass, Side
from adaptool.rules.weights.statistics import measure
from adaptool.summary.spectrum import module_spectra
from adaptool.tensors.compute import NumpyCompute
from adaptool.tensors.dtypes import DTYPES, widen
from adaptool.tensors.store import MemoryStore

REPOSITORY = Path(__file__).parent.parent
FLOATS = [kind for kind in DTYPES.values() if kind.floating and kind.bits >= 8]
SUMMATION = 1e-12
"""Σx² in float64 depends on the order by this much."""
EIGENVALUES = 1e-9
"""σ₁ from Gram matrices against σ₁ by QR, for factors with no special relation."""


def memory(**held):
    """A store of (type, stored array) by name."""
    return MemoryStore({name: (DTYPES[kind], raw) for name, (kind, raw) in held.items()})


def random_bits(kind, shape, seed=0):
    """Any finite value of a type, as it is stored, both zeros among them."""
    random = np.random.default_rng(seed)
    size = int(np.prod(shape))
    if kind.name in ("F32", "F64"):
        raw = random.normal(0, 1, size).astype(kind.storage)
    else:
        raw = random.integers(0, 1 << kind.bits, size).astype(kind.storage)
        raw[~np.isfinite(widen(raw, kind))] = 1
    if kind.name != "F8_E8M0":
        raw[:2] = np.zeros(2, kind.storage)
        if "FNUZ" not in kind.name:
            raw.view(f"u{kind.itemsize}")[1] = 1 << (kind.bits - 1)  # -0
    return raw.reshape(shape)


def reference(raw, kind):
    """The figures as one line of NumPy each."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        every = widen(raw, kind).astype(np.float64).reshape(-1)
    finite = every[np.isfinite(every)]
    return {
        "size": every.size,
        "not_finite": every.size - finite.size,
        "smallest": finite.min() if finite.size else 0.0,
        "largest": finite.max() if finite.size else 0.0,
        "squares": pytest.approx(float((finite**2).sum()), rel=SUMMATION),
        "zeros": int((finite == 0).sum()),
    }


def figures(found):
    return {name: getattr(found, name) for name in moments.Moments.__slots__}


@pytest.mark.parametrize("block", [64, 1 << 17])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_moments_are_those_of_numpy(kind, compiled, block, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", block)
    raw = random_bits(kind, (37, 24))
    found, _ = Pass(memory(x=(kind.name, raw)), NumpyCompute(compiled=compiled)).tensor("x")
    assert figures(found) == reference(raw, kind)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 4), (2, 3, 4), (2, 1, 3, 1, 4), (7, 2, 3, 3)])
@pytest.mark.parametrize("kind", ["F32", "BF16", "F64"])
def test_moments_of_any_shape(shape, kind):
    raw = random_bits(DTYPES[kind], (np.prod(shape, dtype=int) + 2,))[2:].reshape(shape)
    found, _ = Pass(memory(x=(kind, raw))).tensor("x")
    assert figures(found) == reference(raw, DTYPES[kind])


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (3, 0, 2)])
def test_an_empty_tensor_has_no_values(shape):
    assert Pass(memory(x=("F32", np.zeros(shape, "f4")))).tensor("x")[0] == NOTHING
    assert NOTHING.constant is None
    assert NOTHING.rms == 0


NOT_FINITE = {
    "F64": [0x7FF0 << 48, 0xFFF0 << 48, (0x7FF0 << 48) + 1, (0x7FF8 << 48), (1 << 64) - 1],
    "F32": [0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0xFFFFFFFF],
    "F16": [0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFFFF],
    "BF16": [0x7F80, 0xFF80, 0x7F81, 0x7FC0, 0xFFFF],
    "F8_E5M2": [0x7C, 0xFC, 0x7D, 0x7F, 0xFF],
    "F8_E4M3": [0x7F, 0xFF],
    "F8_E4M3FNUZ": [0x80],
    "F8_E5M2FNUZ": [0x80],
    "F8_E8M0": [0xFF],
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", NOT_FINITE)
def test_every_nan_and_infinity_is_counted(kind, compiled, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", 16)
    bits = DTYPES[kind].bits
    for pattern in NOT_FINITE[kind]:
        raw = random_bits(DTYPES[kind], (8, 8))
        raw.view(f"u{bits // 8}").reshape(-1)[[3, 60]] = pattern
        found, _ = Pass(memory(x=(kind, raw)), NumpyCompute(compiled=compiled)).tensor("x")
        assert found.not_finite == 2
        assert figures(found) == reference(raw, DTYPES[kind])
        assert found.constant is None


def test_nothing_but_nan():
    found, gram = Pass(memory(x=("F32", np.full((4, 4), np.nan, "f4")))).tensor("x", Side(4, 1, True))
    assert figures(found) == reference(np.full(16, np.nan, "f4"), DTYPES["F32"])
    assert gram is None


def test_minus_zero_is_zero():
    found, _ = Pass(memory(x=("F32", np.float32([[0.0, -0.0]])))).tensor("x")
    assert (found.zeros, found.constant, found.absmax) == (2, 0.0, 0.0)


def test_a_constant_is_one_across_blocks(monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", 8)
    same, other = np.full((9, 4), 0.25, "f4"), np.full((9, 4), 0.25, "f4")
    other[8, 3] = 0.5
    reader = Pass(memory(same=("F32", same), other=("F32", other)))
    assert reader.tensor("same")[0].constant == 0.25
    assert reader.tensor("other")[0].constant is None


def test_a_rank_too_large_for_eigenvalues_has_a_norm(tmp_path):
    draft = without_factors()
    draft.tensors[f"{Q}.lora_A.weight"], draft.tensors[f"{Q}.lora_B.weight"] = (
        numbers((300, 301), 1),
        numbers((302, 300), 2),
    )
    (update,), (exact,) = measure(subject := written(draft, tmp_path)).updates, module_spectra(subject.adapter)
    assert update.frobenius == pytest.approx(exact.frobenius, rel=EIGENVALUES)
    assert (update.spectral, update.stable_rank) == (None, None)


@pytest.mark.parametrize("block", [16, 1 << 17])
@pytest.mark.parametrize("experts", [1, 3])
@pytest.mark.parametrize("kind", ["F32", "BF16", "F16", "F64", "F8_E4M3"])
def test_gram_matrices_are_the_products(kind, experts, block, monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", block)
    rank = 4
    a, b = random_bits(DTYPES[kind], (experts * rank, 10)), random_bits(DTYPES[kind], (11, rank * experts), 1)
    reader = Pass(memory(a=(kind, a), b=(kind, b)))
    A = widen(a, DTYPES[kind]).astype(np.float64).reshape(experts, rank, 10)
    B = widen(b, DTYPES[kind]).astype(np.float64).reshape(11, rank, experts)
    np.testing.assert_allclose(
        reader.tensor("a", Side(rank, experts, True))[1], A @ A.transpose(0, 2, 1), rtol=SUMMATION, atol=1e-9
    )
    np.testing.assert_allclose(
        reader.tensor("b", Side(rank, experts, False))[1], np.einsum("ore,ose->ers", B, B), rtol=SUMMATION, atol=1e-9
    )


@pytest.mark.parametrize(
    ("shape", "side"),
    [((8,), Side(8, 1, True)), ((), Side(1, 1, True)), ((7, 4), Side(8, 1, True)), ((4, 7), Side(8, 1, False)),
     ((2000, 3000), Side(2000, 1, True)), ((40, 2), Side(40, 1, True)), ((2, 40), Side(40, 1, False)),
     ((0, 4), Side(4, 1, False))],
)  # fmt: skip
def test_a_factor_of_another_shape_has_moments_and_no_gram_matrix(shape, side):
    raw = np.ones(shape, "f4")
    found, gram = Pass(memory(x=("F32", raw))).tensor("x", side)
    assert found.size == raw.size
    assert gram is None


def written(draft, folder):
    return Subject(draft.write(folder)[0])


def without_factors():
    draft = Draft()
    draft.tensors.clear()
    return draft


def plain():
    return Draft()


def embedding():
    draft = without_factors()
    key = f"{PREFIX}model.embed_tokens"
    draft.tensors[f"{key}.lora_embedding_A"] = numbers((8, 40), 1)
    draft.tensors[f"{key}.lora_embedding_B"] = numbers((WIDTH, 8), 2)
    return draft


def convolution():
    draft = without_factors()
    draft.tensors[f"{PREFIX}body.lora_A.weight"] = numbers((8, 6, 3, 5), 1)
    draft.tensors[f"{PREFIX}body.lora_B.weight"] = numbers((12, 8, 1, 1), 2)
    return draft


def experts():
    draft = without_factors()
    draft.config["target_parameters"] = ["mlp.experts.down_proj"]
    key = f"{PREFIX}model.layers.0.mlp.experts"
    draft.tensors[f"{key}.lora_A.weight"] = numbers((3 * 8, 20), 1)
    draft.tensors[f"{key}.lora_B.weight"] = numbers((24, 8 * 3), 2)
    return draft


def kasa():
    draft = Draft()
    draft.config["kasa_config"] = {}
    draft.tensors[f"{Q}.lora_diag"] = numbers((8,), 3)
    return draft


def attention_output():
    draft = without_factors()
    draft.tensors[f"{PREFIX}attn.base_layer.out_proj.lora_A.weight"] = numbers((8, 20), 1)
    draft.tensors[f"{PREFIX}attn.base_layer.out_proj.lora_B.weight"] = numbers((24, 8), 2)
    return draft


@pytest.mark.parametrize("make", [plain, embedding, convolution, experts, kasa, attention_output])
def test_updates_have_the_norms_of_their_spectra(make, tmp_path):
    subject = written(make(), tmp_path)
    exact = {spectrum.module: spectrum for spectrum in module_spectra(subject.adapter)}
    found = {update.module: update for update in measure(subject).updates}
    assert found.keys() == exact.keys()
    for name, update in found.items():
        expected = (exact[name].frobenius, exact[name].spectral, exact[name].stable_rank)
        assert (update.frobenius, update.spectral, update.stable_rank) == pytest.approx(expected, rel=EIGENVALUES)


@pytest.mark.parametrize("name", ["smollm2-lora", "minilm-lora", "minilm-seqcls-lora"])
def test_real_updates_have_the_norms_of_their_spectra(name):
    subject = Subject(REPOSITORY / "fixtures" / name)
    exact = {spectrum.module: spectrum.frobenius for spectrum in module_spectra(subject.adapter)}
    assert {u.module: u.frobenius for u in measure(subject).updates} == pytest.approx(exact, rel=EIGENVALUES)


def test_a_broken_factor_has_no_norm(tmp_path):
    draft = Draft()
    draft.tensors[f"{Q}.lora_A.weight"][2, 3] = np.inf
    updates = {update.a: update for update in measure(written(draft, tmp_path)).updates}
    assert updates[f"{Q}.lora_A.weight"].frobenius is None
    assert updates[f"{V}.lora_A.weight"].frobenius is not None


def test_what_overflows_even_float64_is_infinite(tmp_path):
    draft = Draft()
    draft.tensors[f"{Q}.lora_A.weight"] = np.full((8, WIDTH), 1e200) * numbers((8, WIDTH), 1)
    statistics = measure(written(draft, tmp_path))
    assert statistics.tensors[f"{Q}.lora_A.weight"].squares == float("inf")
    assert statistics.updates[0].frobenius == float("inf")


def test_an_update_of_zero_has_no_stable_rank(tmp_path):
    draft = Draft()
    draft.tensors[f"{Q}.lora_B.weight"][:] = 0
    update = measure(written(draft, tmp_path)).updates[0]
    assert (update.frobenius, update.spectral, update.stable_rank) == (0.0, 0.0, None)


def test_four_bits_have_no_figures(tmp_path):
    header = b'{"x":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4]}}'
    (tmp_path / "adapter_model.safetensors").write_bytes(framed(header, b"\x7f" * 4))
    assert measure(Subject(tmp_path)).tensors == {}


def test_same_bytes_are_told_from_same_figures(tmp_path):
    array = np.arange(16, dtype="f4").reshape(4, 4)
    held = {"one": array, "two": array.copy(), "turned": array[::-1].copy(), "zeros": 0 * array, "zeros too": 0 * array}
    (tmp_path / "adapter_model.safetensors").write_bytes(packed(held, {}, {}))
    assert measure(Subject(tmp_path)).twins == (("one", "two"),)
