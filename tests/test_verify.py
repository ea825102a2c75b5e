"""``verify``: silent on every healthy merge, whoever made it, and right about what is wrong with the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402
from zoo import CASES, read_tensors  # noqa: E402

from adaptool.adapters.adapter import open_adapter  # noqa: E402
from adaptool.adapters.base import open_base  # noqa: E402
from adaptool.cli.main import main  # noqa: E402
from adaptool.errors import MismatchError, NotFoundError, UnsupportedError  # noqa: E402
from adaptool.merging.merged import merge  # noqa: E402
from adaptool.parity.compare import compare  # noqa: E402
from adaptool.parity.defects import group  # noqa: E402
from adaptool.parity.verify import Verification, open_job, verify, verify_store  # noqa: E402
from adaptool.reports.layout import plain  # noqa: E402
from adaptool.reports.verify_text import verification_report  # noqa: E402

Tensors = dict[str, "torch.Tensor"]
Defect = Callable[[Tensors, Tensors], Tensors]

NEVER_SAVED = {"bert_feature_on_mlm"}
"""Its adapter changes a layer that no checkpoint holds, so there is nothing to merge into."""

NEVER_MADE = {"conv3d_pointwise"}
"""PEFT raises instead."""

SHARED = {name for name, case in CASES.items() if "tied_truth" in case.flags}
"""Where PEFT's own merge is wrong."""

HEALTHY = [name for name, case in CASES.items() if not case.refuse and name not in NEVER_SAVED | NEVER_MADE | SHARED]
K_ACCURACY = 0.01
"""Of a scale that 16-bit roundings have gone over."""

SCHEMA = json.loads((Path(__file__).parent.parent / "schemas" / "verify.json").read_text())


def inputs(built):
    adapters = [(open_adapter(path), weight) for path, weight in zip(built.adapter_dirs, built.weights, strict=True)]
    return open_base(built.base_dir), adapters


def checked(built, folder: Path, rounding="once", weights=None, workers=1) -> Verification:
    base, adapters = inputs(built)
    if weights is not None:
        adapters = [(adapter, weight) for (adapter, _), weight in zip(adapters, weights, strict=True)]
    job = open_job(base, adapters, folder, rounding=rounding, workers=workers)
    assert sum(job) == job.nbytes
    return job.report


def spoiled(built, folder: Path, defect: Defect) -> Verification:
    """The verification of PEFT's merge after ``defect(base tensors, merged tensors)``."""
    tensors = defect(read_tensors(built.base_dir), read_tensors(built.merged_dir))
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return checked(built, folder)


def scaled(k: float, within: str = "") -> Defect:
    """The update at k× its scale, in tensors whose name holds ``within``."""

    def change(base: Tensors, merged: Tensors) -> Tensors:
        wanted = {name for name in merged if within in name and name in base}
        return merged | {
            name: (base[name].double() + k * (merged[name].double() - base[name].double())).to(merged[name].dtype)
            for name in wanted
        }

    return change


def touched(base: Tensors, merged: Tensors) -> list[str]:
    return [name for name in merged if name in base and not torch.equal(base[name], merged[name])]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_merge_made_by_peft_is_never_called_wrong(zoo, name):
    built = zoo(name)
    found = checked(built, built.merged_dir)
    assert found.ok, found.sentence
    assert found.defects == ()
    if built.case.exact:
        assert found.verdict in ("bit-equal", "within one rounding")


@pytest.mark.parametrize("name", [name for name in HEALTHY if CASES[name].exact][::3])
def test_either_rounding_passes_and_is_named(zoo, name):
    built = zoo(name)
    folder = built.merged_dir.with_name("merged-safe")
    crossed = checked(built, folder)
    assert crossed.ok, crossed.sentence
    near = [tensor for tensor in crossed.tensors if tensor.verdict == "within one rounding"]
    assert all("--rounding safe" in tensor.equals for tensor in near)
    assert checked(built, folder, rounding="safe").ok


@pytest.mark.parametrize("name", sorted(SHARED))
def test_pefts_merge_of_a_tied_model_is_caught(zoo, name):
    found = checked(zoo(name), zoo(name).merged_dir)
    kinds = [defect.kind for defect in found.defects]
    assert kinds == (["applied twice"] if name in ("tied_ensured_f32", "tied_ensured_bf16") else ["tied head"])


@pytest.mark.parametrize("name", ["llama_plain_bf16", "llama_plain_f32", "gpt2_f32", "mixtral_experts", "conv2d"])
@pytest.mark.parametrize(
    ("k", "kind"),
    [(0, "not applied"), (2, "applied twice"), (-1, "sign flipped"), (0.25, "scaled"), (1.37, "scaled")],
)
def test_a_wrong_scale_is_measured(zoo, tmp_path, name, k, kind):
    found = spoiled(zoo(name), tmp_path / "bad", scaled(k))
    assert [defect.kind for defect in found.defects] == [kind]
    assert found.defects[0].k == pytest.approx(k, abs=K_ACCURACY)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama_rslora_bf16", "use_rslora ignored"),
        ("llama_patterns", "alpha_pattern ignored"),
        ("plain_weighted", "its weight -1.7 ignored"),
        ("llama_dora_bf16", "DoRA's magnitude was ignored in all it changes"),
        ("llama_kasa", "made of this adapter's factors, but not as its config says"),
    ],
)
def test_a_field_that_a_naive_merge_ignores_is_named(zoo, tmp_path, name, words):
    """W + (α/r)·B@A, whatever else the config says."""
    built = zoo(name)
    alpha = json.loads((built.adapter_dirs[0] / "adapter_config.json").read_text())["lora_alpha"]
    saved = load_file(built.adapter_dirs[0] / "adapter_model.safetensors")

    def naive(base: Tensors, _: Tensors) -> Tensors:
        for key in (key for key in saved if key.endswith("lora_A.weight")):
            a, b = saved[key].float(), saved[key.replace("lora_A", "lora_B")].float()
            tensor = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            base[tensor] = (base[tensor].float() + alpha / len(a) * (b @ a)).to(base[tensor].dtype)
        return base

    found = spoiled(built, tmp_path / "bad", naive)
    assert not found.ok
    assert words in found.sentence


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ("v_proj", "not in v_proj in all layers"),
        ("layers.1.", "not in layer 1"),
        ("layers.1.self_attn.v_proj", "not in v_proj in layer 1"),
    ],
)
def test_what_was_left_out_is_grouped(zoo, tmp_path, left, words):
    found = spoiled(zoo("llama_plain_bf16"), tmp_path / "bad", scaled(0, left))
    assert [defect.kind for defect in found.defects] == ["partly applied"]
    assert found.sentence.endswith(words)


def another_adapter(base: Tensors, merged: Tensors) -> Tensors:
    draw = torch.Generator().manual_seed(1)
    for name in touched(base, merged):
        b, a = (torch.randn(shape, generator=draw) for shape in ((base[name].shape[0], 8), (8, base[name].shape[1])))
        merged[name] = (base[name].float() + 0.005 * b @ a).to(base[name].dtype)
    return merged


def on_top_of_it(base: Tensors, merged: Tensors) -> Tensors:
    other = another_adapter(base, dict(merged))
    return merged | {name: merged[name] + (other[name] - base[name]) / 2 for name in touched(base, merged)}


def another_base(_: Tensors, merged: Tensors) -> Tensors:
    draw = torch.Generator().manual_seed(2)
    return {
        name: (tensor.float() + 0.02 * torch.randn(tensor.shape, generator=draw)).to(tensor.dtype)
        for name, tensor in merged.items()
    }


def with_nan(_: Tensors, merged: Tensors) -> Tensors:
    merged["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    return merged


def one_element(_: Tensors, merged: Tensors) -> Tensors:
    merged["model.layers.1.mlp.up_proj.weight"][3, 4] += 1
    return merged


def half_the_rows(base: Tensors, merged: Tensors) -> Tensors:
    name = "model.layers.1.mlp.up_proj.weight"
    merged[name][:40] = base[name][:40]
    return merged


def update_transposed(base: Tensors, merged: Tensors) -> Tensors:
    name = "model.layers.0.self_attn.q_proj.weight"
    return merged | {name: base[name] + (merged[name] - base[name]).T}


def without_norm(_: Tensors, merged: Tensors) -> Tensors:
    del merged["model.norm.weight"]
    return merged


@pytest.mark.parametrize(
    ("defect", "kind"),
    [
        (another_adapter, "another adapter"),
        (on_top_of_it, "something added"),
        (another_base, "base differs"),
        (with_nan, "not finite"),
        (one_element, "some elements"),
        (half_the_rows, "partly applied"),
        (update_transposed, "update transposed"),
        (without_norm, "tensor missing"),
        (lambda _, merged: merged | {"extra.weight": torch.zeros(3)}, "unexpected tensor"),
        (lambda _, merged: merged | {"model.norm.weight": merged["model.norm.weight"] * 2}, "differs"),
        (lambda _, merged: {n: t.T if n.endswith("up_proj.weight") else t for n, t in merged.items()}, "transposed"),
        (lambda _, merged: {n: t.T if n.endswith("q_proj.weight") else t for n, t in merged.items()}, "transposed"),
        (lambda _, merged: merged | {"lm_head.weight": merged["lm_head.weight"][:-1]}, "shape differs"),
    ],
)
def test_a_deliberate_defect_is_named(zoo, tmp_path, defect, kind):
    found = spoiled(zoo("llama_plain_bf16"), tmp_path / "bad", defect)
    assert [item.kind for item in found.defects] == [kind]
    assert found.verdict == "wrong"


def test_a_classifier_that_was_not_taken_from_the_adapter(zoo, tmp_path):
    found = spoiled(zoo("bert_seqcls"), tmp_path / "bad", lambda base, merged: {
        name: base[name] if name.startswith("classifier") else tensor for name, tensor in merged.items()
    })  # fmt: skip
    assert [item.kind for item in found.defects] == ["not replaced"]


def test_a_merge_onto_the_nf4_round_trip_is_told_from_one_onto_the_base(zoo, tmp_path, capsys):
    built = zoo("llama_plain_bf16")
    made = ["-q", "merge", str(built.adapter_dirs[0]), "--base", str(built.base_dir), "--onto-nf4"]
    assert main([*made, "--out", str(tmp_path / "out")]) == 0
    assert main(command(built, tmp_path / "out", "--onto-nf4")) == 0
    assert main(command(built, tmp_path / "out")) == 1
    assert "merged onto its NF4 round trip" in " ".join(capsys.readouterr().out.split())
    assert main(command(built, built.merged_dir, "--onto-nf4")) == 1
    assert "merged onto the base itself, not its NF4" in " ".join(capsys.readouterr().out.split())


def test_an_adapter_saved_beside_the_weights_is_not_merged(zoo, tmp_path):
    def wrapped(base: Tensors, _: Tensors) -> Tensors:
        extra = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(8, 48)}
        return {f"base_model.model.{name}": tensor for name, tensor in base.items()} | extra

    found = spoiled(zoo("llama_plain_bf16"), tmp_path / "bad", wrapped)
    assert found.defects[0].kind == "not merged"


def test_one_of_two_adapters_left_out(zoo, tmp_path):
    built = zoo("two_plain")
    base, adapters = inputs(built)
    from adaptool.merging.folder import MergeJob
    from adaptool.merging.options import MergeOptions

    for _ in MergeJob(merge(base, adapters[:1]), adapters[:1], tmp_path / "one", MergeOptions()):
        pass
    found = checked(built, tmp_path / "one")
    assert "one of the adapters was left out in q_proj in all layers: adapter1" in [d.sentence for d in found.defects]


# Other writers


@pytest.mark.parametrize("prefix", ["model.", "base_model.model.", "_orig_mod.", "student.net."])
def test_a_name_prefix_does_not_matter(zoo, tmp_path, prefix):
    found = spoiled(
        zoo("llama_plain_bf16"), tmp_path / "out", lambda _, merged: {prefix + n: t for n, t in merged.items()}
    )
    assert found.verdict == "bit-equal"


def test_the_body_alone_is_found_by_its_bare_names(zoo, tmp_path):
    def bare(_: Tensors, merged: Tensors) -> Tensors:
        return {name.removeprefix("model."): tensor for name, tensor in merged.items()}

    assert spoiled(zoo("llama_plain_bf16"), tmp_path / "out", bare).verdict == "bit-equal"


def test_a_pickled_checkpoint(zoo, tmp_path):
    torch.save(read_tensors(zoo("llama_plain_bf16").merged_dir), tmp_path / "pytorch_model.bin")
    assert checked(zoo("llama_plain_bf16"), tmp_path).verdict == "bit-equal"


def test_an_old_buffer_may_be_absent_or_present(zoo, tmp_path):
    def with_ids(_: Tensors, merged: Tensors) -> Tensors:
        return merged | {"bert.embeddings.position_ids": torch.arange(8)[None]}

    assert spoiled(zoo("bert_seqcls"), tmp_path / "out", with_ids).verdict == "bit-equal"


@pytest.mark.parametrize("stored", [True, False])
def test_a_tied_head_may_be_stored_or_not(zoo, tmp_path, stored):
    def head(_: Tensors, merged: Tensors) -> Tensors:
        return merged | ({"lm_head.weight": merged["model.embed_tokens.weight"]} if stored else {})

    assert spoiled(zoo("tied_untouched"), tmp_path / "out", head).verdict == "bit-equal"


def fused(_: Tensors, merged: Tensors) -> Tensors:
    """Mixtral as transformers 5 holds it at run time: one tensor per layer for all experts."""
    plain = {name: tensor for name, tensor in merged.items() if ".experts." not in name}
    for layer in range(2):
        stem = f"model.layers.{layer}.block_sparse_moe.experts"
        gate, down, up = (
            torch.stack([merged[f"{stem}.{expert}.{part}.weight"] for expert in range(4)])
            for part in ("w1", "w2", "w3")
        )
        home = f"model.layers.{layer}.mlp.experts"
        plain |= {f"{home}.gate_up_proj": torch.cat([gate, up], dim=1), f"{home}.down_proj": down}
    return plain


def test_fused_experts_are_compared_one_by_one(zoo, tmp_path):
    found = spoiled(zoo("mixtral_experts"), tmp_path / "out", fused)
    assert found.verdict == "bit-equal"
    assert len({tensor.merge_name for tensor in found.tensors}) == len(read_tensors(zoo("mixtral_experts").base_dir))
    spoilt = spoiled(zoo("mixtral_experts"), tmp_path / "bad", lambda b, m: fused(b, scaled(0, "w3")(b, m)))
    assert [defect.kind for defect in spoilt.defects] == ["partly applied"]


# Other types


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_merge_converted_afterwards(zoo, tmp_path, dtype):
    found = spoiled(
        zoo("llama_plain_bf16"), tmp_path / "out", lambda _, merged: {n: t.to(dtype) for n, t in merged.items()}
    )
    assert found.verdict == "bit-equal"


@pytest.mark.parametrize(("name", "dtype"), [("llama_plain_bf16", torch.float32), ("llama_plain_f32", torch.bfloat16)])
def test_a_base_converted_first(zoo, tmp_path, name, dtype):
    """What ``from_pretrained(…, dtype=…)`` followed by a merge saves."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    built = zoo(name)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(built.base_dir, dtype=dtype), built.adapter_dirs[0]
    )
    model.merge_and_unload().save_pretrained(tmp_path / "out")
    found = checked(built, tmp_path / "out")
    assert found.verdict == "within one rounding"
    assert "converted to" in found.sentence


def test_arithmetic_in_16_bits_is_forgiven_and_damage_is_not(zoo, tmp_path):
    built = zoo("llama_rank64_bf16")
    saved = load_file(built.adapter_dirs[0] / "adapter_model.safetensors")

    def coarse(base: Tensors, _: Tensors) -> Tensors:
        for key in (key for key in saved if key.endswith("lora_A.weight")):
            a, b = saved[key].bfloat16(), saved[key.replace("lora_A", "lora_B")].bfloat16()
            name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            base[name] = base[name] + (b @ a) * 2
        return base

    found = spoiled(built, tmp_path / "coarse", coarse)
    assert found.ok, found.sentence

    def damaged(base: Tensors, merged: Tensors) -> Tensors:
        name = touched(base, merged)[0]
        merged[name].view(-1)[7] *= 1 + 2**-5
        return merged

    assert spoiled(built, tmp_path / "damaged", damaged).defects[0].kind == "some elements"


# Updates smaller than a step of the type


@pytest.fixture(scope="module")
def faint(tmp_path_factory):
    """A bf16 base and an adapter whose updates are a tenth of a step: rounding loses most, and not all, of them."""
    folder, draw = tmp_path_factory.mktemp("faint"), torch.Generator().manual_seed(0)
    names = [f"model.layers.{layer}.self_attn.{part}" for layer in range(2) for part in ("q_proj", "v_proj")]
    base = {f"{name}.weight": (0.02 * torch.randn(256, 256, generator=draw)).bfloat16() for name in names}
    factors = {}
    for name in names:
        factors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(8, 256, generator=draw)
        factors[f"base_model.model.{name}.lora_B.weight"] = 2e-6 * torch.randn(256, 8, generator=draw)
    for part, tensors in (("base", base), ("adapter", factors)):
        (folder / part).mkdir()
        stem = "model" if part == "base" else "adapter_model"
        save_file(tensors, folder / part / f"{stem}.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))

    def at(k: float) -> Verification:
        made = {}
        for name in names:
            a, b = (factors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
            made[f"{name}.weight"] = (base[f"{name}.weight"].float() + 2 * k * (b @ a)).bfloat16()
        (folder / "out").mkdir(exist_ok=True)
        save_file(made, folder / "out" / "model.safetensors")
        adapters = [(open_adapter(folder / "adapter"), 1.0)]
        job = open_job(open_base(folder / "base"), adapters, folder / "out", workers=1)
        list(job)
        return job.report

    return at


@pytest.mark.parametrize(
    ("k", "kind"), [(0, "not applied"), (2, "applied twice"), (-1, "sign flipped"), (0.25, "scaled"), (1.5, "scaled")]
)
def test_rounding_does_not_hide_a_defect(faint, k, kind):
    """Every element is within one rounding of the merge, and the whole is not."""
    found = faint(k)
    assert [defect.kind for defect in found.defects] == [kind]
    assert found.defects[0].k == pytest.approx(k, abs=5 * K_ACCURACY)


def test_a_faint_merge_is_right(faint):
    assert faint(1).verdict == "bit-equal"


# The parts


def test_the_result_does_not_depend_on_the_workers(zoo, tmp_path):
    built = zoo("llama_patterns")
    spoiled(built, tmp_path / "bad", scaled(0.5, "v_proj"))
    assert checked(built, tmp_path / "bad", workers=1) == checked(built, tmp_path / "bad", workers=4)


def test_verify_store_takes_the_names_a_merge_wrote(zoo):
    built = zoo("gpt2_bare_base")
    base, adapters = inputs(built)
    merged, store = merge(base, adapters), open_base(built.merged_dir).store
    names = {name: name.removeprefix(built.case.prefix) for name in store}
    assert verify_store(merged, names, store, 1).verdict == "bit-equal"
    assert verify(merged, store, workers=1).verdict == "bit-equal"


def test_compare_measures_differences(zoo):
    built = zoo("llama_plain_f32")
    base, merged = open_base(built.base_dir).store, open_base(built.merged_dir).store
    reference, changed = read_tensors(built.base_dir), read_tensors(built.merged_dir)
    for found in compare(base, merged, workers=2):
        away = (changed[found.pair.actual].double() - reference[found.pair.expected].double()).abs()
        assert found.elements == away.numel()
        assert found.unequal == int(away.count_nonzero())
        assert found.largest == float(away.max())
        assert found.norm == pytest.approx(float(away.norm()), rel=1e-12)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["v"], "v in all layers"),
        (["q", "v"], "q, v in all layers"),
    ],
)
def test_names_are_grouped_in_words(names, words):
    among = [f"layers.{layer}.{part}.weight" for layer in range(4) for part in ("q", "k", "v")]
    assert group([name for name in among if name.split(".")[2] in names], among) == words
    assert group([name for name in among if name.split(".")[1] in "123"], among) == "layers 1–3"


# The command


def command(built, folder: Path, *more: str) -> list[str]:
    adapters = [f"--adapter={path}" for path in built.adapter_dirs]
    return ["-q", "verify", str(folder), "--base", str(built.base_dir), *adapters, *more]


def test_the_command_says_yes(zoo, capsys):
    built = zoo("llama_plain_bf16")
    assert main(command(built, built.merged_dir)) == 0
    out = capsys.readouterr().out
    assert "all 21 tensors are bit for bit what the merge gives" in out


def test_the_command_says_no_in_80_columns(zoo, capsys):
    built = zoo("llama_plain_bf16")
    assert main(command(built, built.base_dir)) == 1
    out = capsys.readouterr().out
    assert "the adapter was not applied" in out
    assert max(map(len, out.splitlines())) <= 80
    assert sum(" not applied" in line and "×" in line for line in out.splitlines()) == 10


@pytest.mark.parametrize("spoil", [scaled(0.5), with_nan, scaled(1)])
def test_json_keeps_to_its_schema(zoo, tmp_path, capsys, spoil):
    built = zoo("llama_plain_bf16")
    spoiled(built, tmp_path / "out", spoil)
    main(command(built, tmp_path / "out", "--json"))
    jsonschema.validate(json.loads(capsys.readouterr().out), SCHEMA)


def test_what_cannot_be_checked_exits_3(zoo, tmp_path, capsys):
    built, other = zoo("llama_plain_bf16"), zoo("conv2d")
    assert main(command(built, tmp_path / "nothing")) == 3
    assert main(command(built, other.merged_dir)) == 3
    assert main(command(built, built.adapter_dirs[0])) == 3
    assert "this is an adapter" in capsys.readouterr().err
    refused = zoo("refuse_ia3")
    assert main(command(refused, refused.base_dir)) == 3
    assert main(["verify", str(built.merged_dir), "--base", str(built.base_dir)]) == 2


def test_a_checkpoint_quantised_after_the_merge_cannot_be_checked(zoo, tmp_path):
    def to_fp8(_: Tensors, merged: Tensors) -> Tensors:
        return {name: tensor.to(torch.float8_e4m3fn) for name, tensor in merged.items()}

    with pytest.raises((UnsupportedError, MismatchError, NotFoundError), match="quantised"):
        spoiled(zoo("llama_plain_bf16"), tmp_path / "out", to_fp8)


def test_a_report_never_shows_control_characters(zoo, tmp_path):
    found = spoiled(
        zoo("llama_plain_bf16"), tmp_path / "out", lambda _, merged: merged | {"\x1b[2Jevil": torch.zeros(1)}
    )
    assert "\x1b" not in plain(verification_report(found, "out\x1b[2J", 80))
