"""A merge against PEFT's own, over every case of the zoo, and against itself: one result whatever computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from zoo import CASES, DTYPES, read_tensors  # noqa: E402

from adaptool.adapters.adapter import open_adapter  # noqa: E402
from adaptool.adapters.base import open_base  # noqa: E402
from adaptool.errors import AdaptoolError, MismatchError, UnsupportedError  # noqa: E402
from adaptool.merging.folder import MergeJob, MergeOptions  # noqa: E402
from adaptool.merging.merged import Merged, merge  # noqa: E402
from adaptool.tensors import writer  # noqa: E402
from adaptool.tensors.compute import NumpyCompute, compute_for  # noqa: E402

F32_ULPS = 2
"""Of max(|W|, |ΔW|): two BLAS libraries add the r products of an element in different orders."""

DORA_EQUAL = 0.9999
"""Share of 16-bit elements that must be equal under DoRA: a norm summed in another order can move a rounding …"""

ONE_ROUNDING = 1
"""… and then by one step of the type, never more; likewise KaSA, whose base went through somebody's SVD."""

SVD_NOISE = 2.0**-21
"""Of the largest singular value: what two float32 SVDs of one matrix differ by, where the output has all 24 bits."""

WIDENED_BY_TRANSFORMERS = {"t5_f16": ".DenseReluDense.wo.weight"}
"""transformers loads T5's f16 ``wo`` as f32, so PEFT's safe_merge never rounds its delta to f16; here f16 is f16."""

NEVER_SAVED = {"bert_feature_on_mlm": "pooler"}
"""The adapter changes a layer that transformers filled with chance when the base was loaded: no file holds it."""

REFUSED = [name for name, case in CASES.items() if case.refuse]
MERGED = [name for name, case in CASES.items() if not case.refuse and name not in NEVER_SAVED]
REASONS = {
    "refuse_pissa": "changes the base's weights",
    "refuse_pissa_niter_4": "changes the base's weights",
    "refuse_olora": "changes the base's weights",
    "refuse_corda": "changes the base's weights",
    "refuse_lora_ga": "changes the base's weights",
    "refuse_loftq": "changes the base's weights",
    "refuse_layer_replication": "repeats the base's layers",
    "refuse_alora": "after its invocation tokens",
    "refuse_qalora": "pools its input",
    "refuse_arrow": "picks among adapters per token",
    "refuse_resized_lost_head": "resized the vocabulary",
    "refuse_prompt_tuning": "virtual tokens",
    "refuse_prefix_tuning": "virtual tokens",
    "refuse_ia3": "IA3 is not supported yet",
    "refuse_loha": "LOHA is not supported yet",
}


def merged_store(built, rounding="once", **more) -> Merged:
    adapters = [(open_adapter(path), weight) for path, weight in zip(built.adapter_dirs, built.weights, strict=True)]
    return merge(open_base(built.base_dir), adapters, rounding=rounding, **more)


def merged_folder(built, out: Path, rounding="once", **options) -> MergeJob:
    store = merged_store(built, rounding)
    adapters = [(open_adapter(path), weight) for path, weight in zip(built.adapter_dirs, built.weights, strict=True)]
    job = MergeJob(store, adapters, out, MergeOptions(**options))
    for _ in job:
        pass
    return job


def step(values, dtype):
    """The distance between neighbours of ``dtype`` at each value."""
    tiny, bits = torch.finfo(dtype).smallest_normal, {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}[dtype]
    exponent = torch.frexp(values.double().abs().clamp(min=tiny)).exponent
    return torch.ldexp(torch.ones_like(values, dtype=torch.float64), exponent - bits)


def unprefixed(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()} if prefix else tensors


def scale_of(case, expected, base):
    """max(|W|, |ΔW|, |W + ΔW|) of each element, what its roundings are measured by; KaSA goes through a truncated W."""
    origin = base.double() if base is not None and base.shape == expected.shape else torch.zeros_like(expected).double()
    largest = torch.maximum(origin.abs(), expected.double().abs())
    if "kasa" in case.flags:
        u, s, vh = torch.linalg.svd(origin)
        kept = len(s) - case.parts[0].config().r
        origin = (u[:, :kept] * s[:kept]) @ vh[:kept]
        largest = torch.maximum(largest, origin.abs())
    return torch.maximum(largest, (expected.double() - origin).abs())


def check_tensor(case, name, expected, result, base):
    """Equal, as far as the case promises it; how many elements were not."""
    assert (expected.dtype, expected.shape) == (result.dtype, result.shape), name
    if torch.equal(expected, result):
        return 0
    distance = (expected.double() - result.double()).abs()
    scale = step(scale_of(case, expected, base), expected.dtype)
    roundings = float((distance / scale).max())
    if name.endswith(WIDENED_BY_TRANSFORMERS.get(case.name, "nothing")):
        assert roundings <= ONE_ROUNDING, name
        return 0
    assert not case.exact, f"{name} is not PEFT's, bit for bit: {roundings} roundings off"
    if case.dtype != "f32":
        assert roundings <= ONE_ROUNDING, name
    elif "kasa" in case.flags:
        assert distance.max() <= SVD_NOISE * torch.linalg.matrix_norm(base.double(), 2), name
    else:
        assert roundings <= F32_ULPS, name
    return int((distance != 0).sum())


@pytest.mark.parametrize("rounding", ["once", "safe"])
@pytest.mark.parametrize("name", MERGED)
def test_merge_is_what_peft_leaves(name, rounding, zoo, tmp_path):
    built = zoo(name)
    merged_folder(built, tmp_path / "out", rounding, workers=2)
    case, prefix = built.case, built.case.prefix
    expected = unprefixed(built.reference if rounding == "once" else built.reference_safe, prefix)
    result, base = (unprefixed(read_tensors(path), prefix) for path in (tmp_path / "out", built.base_dir))

    if "partial" in case.flags:
        assert expected.keys() <= result.keys()
    else:
        assert expected.keys() == result.keys()
    moved = 0
    for key, tensor in expected.items():
        moved += check_tensor(case, key, tensor, result[key], base.get(key))
    changed = sum(t.numel() for key, t in expected.items() if key not in base or not torch.equal(t, base[key]))
    assert changed > 0
    if "dora" in case.flags and case.dtype != "f32":
        assert moved <= (1 - DORA_EQUAL) * changed


@pytest.mark.parametrize("name", REFUSED)
def test_unfaithful_merges_are_refused_in_words(name, zoo):
    with pytest.raises(AdaptoolError, match=REASONS[name]) as refusal:
        merged_store(zoo(name))
    assert refusal.value.exit_code == 3
    assert refusal.value.hint


def test_every_refusal_has_its_reason_here():
    assert sorted(REFUSED) == sorted(REASONS)


@pytest.mark.parametrize("name", NEVER_SAVED)
def test_a_layer_that_was_never_saved_is_named(name, zoo):
    with pytest.raises(MismatchError, match=NEVER_SAVED[name]):
        merged_store(zoo(name))


def rows(store, name):
    return store.read(name).tobytes()


@pytest.mark.parametrize("rounding", ["once", "safe"])
@pytest.mark.parametrize("name", MERGED)
def test_bytes_do_not_depend_on_the_backend(name, rounding, zoo):
    """Compiled kernels, NumPy's several passes and torch on the CPU; f32 sums are a BLAS's own, so torch may differ."""
    built = zoo(name)
    compiled = merged_store(built, rounding)
    plain = merged_store(built, rounding, compute=NumpyCompute(compiled=False))
    other = merged_store(built, rounding, compute=compute_for("torch-cpu"))
    assert compiled.compute.compiled, "the kernels were not built: run pip install again"
    assert list(compiled) == list(plain) == list(other)
    for key in compiled.changed:
        assert rows(compiled, key) == rows(plain, key), key
        if built.case.exact:
            assert rows(compiled, key) == rows(other, key), f"{key} on torch-cpu"


@pytest.mark.parametrize("name", MERGED)
def test_bytes_do_not_depend_on_workers_or_blocks(name, zoo, tmp_path, monkeypatch):
    built = zoo(name)
    files = [file.name for file in merged_folder(built, tmp_path / "one", workers=1).files]
    monkeypatch.setattr(writer, "PIECE_BYTES", 1 << 10)
    monkeypatch.setattr(writer, "COPY_BYTES", 1 << 9)
    merged_folder(built, tmp_path / "three", workers=3)
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "three" / file).read_bytes()


@pytest.mark.parametrize("name", MERGED)
def test_any_rows_are_those_of_the_whole(name, zoo):
    store = merged_store(zoo(name))
    for key in store.changed:
        whole = store.read(key)
        for start in {0, len(whole) // 3, len(whole) - 1}:
            for stop in {start, start + 1, (start + len(whole)) // 2 + 1, len(whole)}:
                if start <= stop <= len(whole):
                    assert np.array_equal(whole[start:stop], store.read(key, start, stop)), (key, start, stop)


@pytest.mark.parametrize("target", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", ["llama_plain_bf16", "llama_plain_f32", "conv2d_f16", "gpt2_bias_all"])
def test_dtype_rounds_the_merged_weights_once(name, target, zoo, tmp_path):
    from adaptool.tensors.dtypes import dtype

    built = zoo(name)
    merged_folder(built, tmp_path / "out", dtype=dtype(target))
    result = read_tensors(tmp_path / "out")
    for key, tensor in built.reference.items():
        expected = tensor.to(DTYPES[target]) if tensor.is_floating_point() else tensor
        if built.case.exact:
            assert torch.equal(expected, result[key]), key
        else:
            assert ((expected.double() - result[key].double()).abs() <= 2 * step(expected, expected.dtype)).all(), key


@pytest.mark.parametrize(("kind", "dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
@pytest.mark.parametrize("shape", [(1023, 1025), (700, 333), (129, 4096), (2049, 130), (7, 60000), (3, 200000)])
@pytest.mark.parametrize("rank", [1, 7, 64])
def test_tiles_do_not_show(kind, dtype, shape, rank, tmp_path):
    """Matrices of several tiles, of odd sizes, against one multiplication by torch, in 16 bits bit for bit."""
    from making import numbers, write_json, write_tensors

    weight = numbers(kind, shape, 1)
    a, b = numbers("F32", (rank, shape[1]), 2), numbers("F32", (shape[0], rank), 3)
    base = write_tensors(tmp_path / "base.safetensors", {"proj.weight": (kind, weight)})
    write_tensors(
        tmp_path / "adapter" / "adapter_model.safetensors",
        {"base_model.model.proj.lora_A.weight": ("F32", a), "base_model.model.proj.lora_B.weight": ("F32", b)},
    )
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank + 1, "target_modules": ["proj"]}
    write_json(tmp_path / "adapter" / "adapter_config.json", config)
    store = merge(open_base(base), [(open_adapter(tmp_path / "adapter"), 1.0)])

    result = np.vstack([store.read("proj.weight", *span) for span in store.spans("proj.weight", 100_000)])
    delta = torch.from_numpy(b) @ torch.from_numpy(a) * ((2 * rank + 1) / rank)
    expected = (torch.from_numpy(weight.view(np.uint16)).view(dtype) + delta).to(dtype)
    assert torch.equal(expected, torch.from_numpy(result).view(dtype))
    assert np.array_equal(result, store.read("proj.weight"))


@pytest.mark.parametrize("name", ["llama_plain_bf16", "gpt2_dora", "llama_kasa", "gpt_oss_experts", "tied_both_f16"])
def test_a_merge_is_a_small_description(name, zoo):
    """It pickles, so that a worker elsewhere can open it, and many threads read it alike."""
    import pickle
    from concurrent.futures import ThreadPoolExecutor

    store = merged_store(zoo(name))
    expected = {key: rows(store, key) for key in store}
    data = pickle.dumps(merged_store(zoo(name)))
    assert len(data) < 100_000
    with ThreadPoolExecutor(4) as pool:
        for copy in (pickle.loads(data), store):
            assert expected == dict(zip(store, pool.map(lambda key: rows(copy, key), store), strict=True))  # noqa: B023


def test_the_library_prints_nothing(zoo, tmp_path, capfd):
    merged_folder(zoo("llama_plain_bf16"), tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_an_unknown_type_is_unsupported(tmp_path):
    from making import llama, lora

    adapter = open_adapter(lora(tmp_path / "a", peft_type="WHATEVER"))
    with pytest.raises(UnsupportedError, match="WHATEVER"):
        merge(open_base(llama(tmp_path / "base")), [(adapter, 1.0)])
