"""``inspect``: what it shows of adapters healthy, odd and hostile, in text and JSON, without torch and at once."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from making import llama, llama_config, lora, numbers, write_json, write_tensors

from adaptool.adapters.adapter import open_adapter
from adaptool.cli.main import main
from adaptool.errors import FormatError, NotFoundError, UnsupportedError
from adaptool.summary.contents import place_of
from adaptool.summary.summary import inspect_path, open_model
from adaptool.tensors.safetensors import SafetensorsFile

FIXTURES = Path(__file__).parent.parent / "fixtures"
KEY = "base_model.model.model.layers.{}.self_attn.{}"

SMOLLM2 = """\
smollm2-lora  LoRA

  base          HuggingFaceTB/SmolLM2-135M-Instruct
  task          CAUSAL_LM, saved by PEFT 0.21.2
  rank          4, alpha 8, scale 2 (alpha/r)
  size          461 kB in 120 tensors, BF16
  trains        230,400 parameters
  header hash   fd8454146b3a8236f2622b9bb1c5b11dd0dc56f806cbf7ccb34163e01a8d0cbd
  beside it     README.md (model card)
  merge         nothing in the config speaks against it

  TARGETS             LAYERS  RANK  ALPHA  SCALE  PARAMETERS
  model.layers
    self_attn.q_proj  0-29       4      8      2     138,240
    self_attn.v_proj  0-29       4      8      2      92,160
"""


def shown(capsys, *args, code=0):
    """What ``adaptool inspect …`` prints on stdout."""
    assert main(["inspect", *map(str, args)]) == code
    return capsys.readouterr().out


def as_json(capsys, *args, code=0):
    return json.loads(shown(capsys, *args, "--json", code=code))["results"]


def left_over(summary):
    return {left.reason: left.names for left in summary.unaccounted}


def test_a_real_adapter(capsys):
    assert shown(capsys, FIXTURES / "smollm2-lora") == SMOLLM2


def test_the_weights_file_stands_for_its_folder(capsys, tmp_path):
    folder = lora(tmp_path / "mine")
    file = folder / "adapter_model.safetensors"
    assert shown(capsys, file).replace(file.name, "mine", 1) == shown(capsys, folder)


def test_the_base_gives_share_coverage_and_verdict(capsys, tmp_path):
    base, adapter = llama(tmp_path / "base"), lora(tmp_path / "adapter")
    text = shown(capsys, adapter, "--base", base)
    assert "trains        1,792 of 68,672 parameters = 2.6095 %" in text
    assert "on the base   all 4 modules found in base" in text
    assert "merge         would go through" in text


def test_modules_the_base_lacks_are_named(tmp_path):
    summary = inspect_path(lora(tmp_path / "adapter", layers=3), open_model(llama(tmp_path / "base")))
    assert summary.coverage.absent == ("model.layers.2.self_attn.q_proj", "model.layers.2.self_attn.v_proj")
    assert (summary.coverage.modules, summary.coverage.found) == (6, 4)
    assert "has no such module" in summary.coverage.problem


def test_another_shape_is_not_a_fit(tmp_path):
    wide = {f"{KEY.format(0, 'q_proj')}.lora_A.weight": ("F32", numbers("F32", (4, 80), 1))}
    summary = inspect_path(lora(tmp_path / "adapter", extra=wide), open_model(llama(tmp_path / "base")))
    assert summary.coverage.absent == ("model.layers.0.self_attn.q_proj",)


def test_gaps_between_layers_are_named(capsys, tmp_path):
    adapter = lora(tmp_path / "adapter", layers=5)
    drop(adapter, lambda key: ".layers.2." in key)
    assert "0-4, missing 2" in shown(capsys, adapter)
    (target, _) = inspect_path(adapter, open_model(llama(tmp_path / "base", layers=6))).targets
    assert (target.layers, target.missing) == ((0, 1, 3, 4), (2, 5))


def drop(adapter, unwanted):
    """Take tensors out of an adapter."""
    store = open_adapter(adapter).store
    kept = {name: ("F32", store.array(name)) for name in store if not unwanted(name)}
    write_tensors(adapter / "adapter_model.safetensors", kept)


def test_rank_alpha_and_scale_by_group(tmp_path):
    adapter = lora(tmp_path / "adapter", use_rslora=True, alpha_pattern={"v_proj": 6})
    found = {(group.rank, group.alpha, group.scale, group.modules) for group in inspect_path(adapter).scalings}
    assert {(4, 8, 4.0, 2), (4, 6, 3.0, 2)} == found


def test_whole_modules_and_biases(zoo, capsys):
    whole = inspect_path(zoo("bert_seqcls").adapter_dirs[0])
    assert {("classifier.weight", "copy"), ("classifier.bias", "copy")} == {
        (t.name, t.role) for t in whole.full_tensors
    }
    biased = zoo("llama_bias_all").adapter_dirs[0]
    assert "biases ×14" in shown(capsys, biased)
    assert {"unfrozen"} == {tensor.role for tensor in inspect_path(biased).full_tensors}
    assert {"carried"} == {t.role for t in inspect_path(zoo("llama_resized_saved").adapter_dirs[0]).full_tensors}


def test_provenance(capsys, tmp_path):
    adapter = lora(tmp_path / "adapter", peft_version="0.17.1", revision="refs/pr/3")
    (adapter / "tokenizer.json").write_text("{}")
    (adapter / "modeling.py").write_text("")
    (adapter / "checkpoint-20").mkdir()
    (adapter / "training_args.bin").write_bytes(b"\x80\x04K\x01.")
    text = shown(capsys, adapter)
    assert "zoo/base @ refs/pr/3" in text
    assert "saved by PEFT 0.17.1" in text
    for what in ("tokenizer.json (tokenizer)", "modeling.py (Python code)", "checkpoint-20/ (checkpoint)"):
        assert what in " ".join(text.split())
    assert "pickled       training_args.bin" in text


def test_hashes_ignore_order_and_the_content_hash_no_bit(tmp_path):
    adapter = lora(tmp_path / "adapter")
    store = open_adapter(adapter).store
    tensors = {name: ("F32", store.array(name)) for name in store}
    first = inspect_path(adapter, weights=True)
    write_tensors(adapter / "adapter_model.safetensors", dict(reversed(tensors.items())))
    write_json(adapter / "adapter_config.json", dict(reversed(open_adapter(adapter).config.fields.items())))
    again = inspect_path(adapter, weights=True)
    assert (first.header_digest, first.content_digest) == (again.header_digest, again.content_digest)
    _, values = next(iter(tensors.values()))
    values.view(np.uint32)[0, 0] ^= 1
    write_tensors(adapter / "adapter_model.safetensors", tensors)
    changed = inspect_path(adapter, weights=True)
    assert first.header_digest == changed.header_digest
    assert first.content_digest != changed.content_digest


def test_without_weights_nothing_but_headers_is_read(monkeypatch, tmp_path):
    def read(*args, **kwargs):
        raise AssertionError("a tensor was read")

    base, adapter = llama(tmp_path / "base"), lora(tmp_path / "adapter")
    monkeypatch.setattr(SafetensorsFile, "read", read)
    assert inspect_path(adapter, open_model(base)).content_digest is None
    assert inspect_path(base).tensors


def test_every_tensor_is_in_one_bucket(tmp_path):
    extra = {
        "model.layers.0.stray.weight": ("F32", numbers("F32", (2, 2), 1)),
        "base_model.model.model.layers.0.mlp.gate_proj.weight": ("F32", numbers("F32", (96, 64), 2)),
        f"{KEY.format(1, 'k_proj')}.lora_A.weight": ("F32", numbers("F32", (4, 64), 3)),
        f"{KEY.format(0, 'q_proj')}.lora_diag": ("F32", numbers("F32", (4,), 4)),
    }
    summary = inspect_path(lora(tmp_path / "adapter", extra=extra))
    assert {
        "tensors without PEFT's prefix base_model.model., which PEFT ignores": ("model.layers.0.stray.weight",),
        "tensors that nothing in the config accounts for": (
            "base_model.model.model.layers.0.mlp.gate_proj.weight", f"{KEY.format(0, 'q_proj')}.lora_diag",
        ),
        "factors without their other half": (f"{KEY.format(1, 'k_proj')}.lora_A.weight",),
    } == left_over(summary)  # fmt: skip
    assert all(left.fatal for left in summary.unaccounted)


def test_what_the_config_promises_and_the_weights_lack(tmp_path):
    adapter = lora(
        tmp_path / "adapter", target_modules=["q_proj", "v_proj", "gate_proj"], modules_to_save=["lm_head"],
        rank_pattern={"k_proj": 4}, trainable_token_indices=[1], quantum_config={},
    )  # fmt: skip
    assert left_over(inspect_path(adapter)) == {
        "target_modules without a tensor": ("gate_proj",),
        "modules_to_save without a tensor": ("lm_head",),
        "keys of rank_pattern that match no module": ("k_proj",),
        "trained tokens without a tensor": ("trainable_token_indices",),
        "fields that PEFT up to 0.21 does not have": ("quantum_config",),
    }


def test_a_rank_that_is_not_the_declared_one(capsys, tmp_path):
    adapter = lora(tmp_path / "adapter", r=16)
    assert "modules whose rank is not the declared one" in left_over(inspect_path(adapter))
    assert "merge         would fail" in shown(capsys, adapter)


def test_healthy_adapters_leave_nothing_over(zoo):
    for name in ("llama_plain_bf16", "llama_kasa", "mixtral_experts", "t5_dora", "llama_excluded", "llama_tokens_dict"):
        assert left_over(inspect_path(zoo(name).adapter_dirs[0])) == {}


@pytest.mark.parametrize("shape", [(0,), (4,), (), (0, 64)])
def test_an_ungathered_save(tmp_path, shape):
    key = f"{KEY.format(0, 'q_proj')}.lora_A.weight"
    adapter = lora(tmp_path / "adapter", extra={key: ("F32", np.zeros(shape, np.float32))})
    summary = inspect_path(adapter, open_model(llama(tmp_path / "base")), weights=True)
    assert key in left_over(summary)["factors that are no matrices, or do not fit each other"]
    assert summary.coverage.absent == ("model.layers.0.self_attn.q_proj",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("refuse_pissa", "PiSSA initialisation changes the base's weights"),
        ("refuse_alora", "an aLoRA acts only after its invocation tokens"),
        ("refuse_layer_replication", "it repeats the base's layers"),
        ("refuse_prompt_tuning", "adds virtual tokens to the input"),
        ("refuse_ia3", "merging IA3 is not supported yet"),
        ("refuse_loha", "merging LOHA is not supported yet"),
    ],
)
def test_whether_merge_would_refuse_it(zoo, capsys, name, reason):
    built = zoo(name)
    text = " ".join(shown(capsys, built.adapter_dirs[0], "--base", built.base_dir).split())
    assert "merge refused: " in text
    assert reason in text
    assert "way out: " in text


def test_other_peft_types_are_read(zoo):
    summary = inspect_path(zoo("refuse_loha").adapter_dirs[0])
    assert [(t.stack, t.name, t.modules) for t in summary.targets] == [("model.layers", "self_attn.q_proj", 2)]
    assert [(group.rank, group.alpha, group.scale) for group in summary.scalings] == [(4, 8, 2.0)]
    assert inspect_path(zoo("refuse_prompt_tuning").adapter_dirs[0]).tensors * 4 == 4


def test_a_config_alone(capsys, tmp_path):
    adapter, base = lora(tmp_path / "adapter"), tmp_path / "base"
    (adapter / "adapter_model.safetensors").unlink()
    write_json(base / "config.json", llama_config())
    alone = shown(capsys, adapter)
    assert "size          no weights here" in alone
    assert "targets       q_proj, v_proj" in alone
    for given in (base, base / "config.json"):
        text = shown(capsys, adapter, "--base", given)
        assert "trains        1,792 of 68,672 parameters = 2.6095 %" in text
        assert "self_attn.q_proj  0, 1" in text
        assert "there is nothing to merge without weights" in text


def test_models_in_short(capsys, tmp_path):
    text = shown(capsys, llama(tmp_path / "base", tied=True), "--weights")
    assert text.startswith("base  LlamaForCausalLM\n\n  layers        2\n")
    assert "vocabulary    40, output head tied to the embedding" in text
    assert "content hash" in text
    write_json(tmp_path / "only" / "config.json", llama_config())
    assert "no weights here, only a config" in shown(capsys, tmp_path / "only")


def test_a_quantised_model_is_described_though_nothing_merges_into_it(capsys, tmp_path):
    folder = tmp_path / "gptq"
    write_tensors(folder / "model.safetensors", {"model.layers.0.q.qweight": ("U8", np.zeros((4, 4), np.uint8))})
    write_json(folder / "config.json", llama_config() | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    assert "quantised     GPTQ" in shown(capsys, folder)


def test_a_broken_gguf_is_said_to_be_one(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(UnsupportedError, match="GGUF version 0"):
        inspect_path(tmp_path / "model.gguf")


def test_lost_weights_are_recognised(capsys, tmp_path):
    adapter = lora(tmp_path / "adapter")
    (adapter / "adapter_config.json").unlink()
    assert "there is no adapter_config.json beside them" in " ".join(
        shown(capsys, adapter / "adapter_model.safetensors").split()
    )


def test_several_paths_and_one_that_fails(capsys, tmp_path):
    adapter = lora(tmp_path / "adapter")
    assert main(["inspect", str(adapter), str(tmp_path / "nothing"), str(llama(tmp_path / "base"))]) == 3
    printed = capsys.readouterr()
    assert printed.out.startswith("adapter  LoRA")
    assert "base  LlamaForCausalLM" in printed.out
    assert f"error: {tmp_path / 'nothing'}: no such file or folder" in printed.err
    main(["inspect", str(adapter), str(tmp_path / "nothing"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [str(tmp_path / "nothing")] == [failure["path"] for failure in found["failures"]]


def test_exit_codes(tmp_path, capsys):
    assert main(["inspect"]) == 2
    assert main(["inspect", str(tmp_path / "nothing")]) == 3
    assert main(["inspect", str(tmp_path)]) == 3
    assert "no adapter_config.json" in capsys.readouterr().err
    adapter = lora(tmp_path / "adapter")
    assert main(["inspect", str(adapter), "--base", str(tmp_path / "nothing")]) == 3
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    assert main(["inspect", str(adapter)]) == 3


@pytest.mark.parametrize("fields", [{"r": 0}, {"r": "8"}, {"lora_alpha": "high"}, {"target_modules": {"a": 1}}])
def test_a_config_that_says_nothing_sensible_is_an_error_in_words(tmp_path, fields):
    with pytest.raises(FormatError):
        inspect_path(lora(tmp_path / "adapter", **fields))


def test_an_adapter_in_a_subfolder_is_pointed_at(tmp_path):
    lora(tmp_path / "parent" / "mine")
    with pytest.raises(NotFoundError) as caught:
        inspect_path(tmp_path / "parent")
    assert "mine" in caught.value.hint


BY_HAND = "import sys; from adaptool.cli.main import main; code = main({args!r}); assert code == 0; {then}"


def test_neither_torch_nor_rich_is_imported(tmp_path):
    base, adapter = llama(tmp_path / "base"), lora(tmp_path / "adapter")
    for args in ([str(adapter)], [str(adapter), "--base", str(base)], [str(adapter), "--base", str(base), "--weights"]):
        then = "assert not {'torch', 'transformers', 'peft', 'rich', 'jsonschema'} & set(sys.modules)"
        subprocess.run(
            [sys.executable, "-c", BY_HAND.format(args=["inspect", *args], then=then)],
            check=True,
            stdout=subprocess.DEVNULL,
        )


PROMISE, STARTS = 0.4, 2.5
"""Seconds of CPU (measured: 0.25), or on a slower machine so many times what importing NumPy costs there."""


def test_a_large_adapter_is_shown_at_once(tmp_path, monkeypatch):
    # byte code is kept, as for every user after the first call
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "cache"))
    adapter = lora(tmp_path / "adapter", layers=32, rank=16, targets=SEVEN)
    run = BY_HAND.format(args=["inspect", str(adapter)], then="pass")
    # both in turn, so that a machine whose speed drifts between them is not taken for a slow program
    rounds = ((cpu_seconds(run), cpu_seconds("import numpy")) for _ in range(4))
    assert any(used <= max(PROMISE, STARTS * start) for used, start in rounds)


SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def cpu_seconds(program):
    """The least of a few runs: the first compiles, and other processes disturb."""

    def once():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(6))


def test_places_in_stacks():
    assert spelt("model.layers.3.self_attn.q_proj") == ("model.layers", 3, "self_attn.q_proj")
    assert spelt("encoder.block.1.layer.0.SelfAttention.q") == ("encoder.block", 1, "layer.*.SelfAttention.q")
    assert spelt("model.layers.0.mlp.experts.7.w1") == ("model.layers", 0, "mlp.experts.*.w1")
    assert spelt("body.0") == ("", None, "body.0")
    assert spelt("4.attn") == ("", 4, "attn")


def spelt(module):
    place = place_of(module)
    return place.stack, place.layer, place.name
