"""Every PEFT type: healthy adapters pass every rule, and whatever is broken in one is found, or said why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("peft")

from peft_types import CASES, build_all, peft_type_of
from safetensors.numpy import load_file

from adaptool.adapters.names import FULL, parse
from adaptool.adapters.tuners.unmergeable import LATER, PROMPTS, ROUTED
from adaptool.rules.draft import packed
from adaptool.rules.engine import AdapterReport, Options, validate
from adaptool.rules.forms import FORMS
from adaptool.rules.selection import Selection
from adaptool.summary.contents import ANY_PART
from adaptool.summary.summary import inspect_path

OLD = {"bone": ["CFG026"], "bone-bat": ["CFG026"], "oft-before-0.14": ["CFG104"], "oft-before-0.16": ["TEN209"]}
"""Sound, and said to be loaded by an older PEFT only."""

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
OTHERS = [name for name in CASES if name != "lora"]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return build_all(tmp_path_factory.mktemp("types"))


def report(folder: Path, *select: str) -> AdapterReport:
    result = validate([folder], None, Options(Selection(select), workers=1))
    assert result.failures == ()
    return result.results[0]


def codes(folder: Path, *severities: str) -> list[str]:
    """The findings of some severities, by the rules that look at headers and configs."""
    found = report(folder, "FIL", "CFG", "TEN")
    assert [unchecked for unchecked in found.unchecked if "internal error" in unchecked.reason] == []
    return [finding.code for finding in found.findings if finding.severity in severities]


def rewritten(tensors, config, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    arrays = {key: np.ascontiguousarray(array) for key, array in tensors.items()}
    (folder / "adapter_model.safetensors").write_bytes(packed(arrays, {}, {"format": "pt"}))
    return folder


def test_every_peft_type_has_a_form_and_a_healthy_adapter():
    import peft

    known = {kind.value for kind in peft.PeftType}
    assert known <= {peft_type_of(name) for name in CASES}
    assert known | {"BONE"} == {*FORMS, "LORA"}
    assert FORMS.keys() == PROMPTS | ROUTED | LATER


@pytest.mark.parametrize("name", CASES)
def test_healthy(adapters, name):
    found = report(adapters[name])
    wrong = {(finding.code, finding.message) for finding in found.findings if finding.severity != "info"}
    assert {code for code, _ in wrong} == set(OLD.get(name, [])), wrong
    assert found.unchecked == ()
    assert inspect_path(adapters[name]).peft_type == peft_type_of(name)


def broken(tensors, config):
    """(what was done, tensors, config) for everything that can be done to the first tensor of each part."""
    own = [key for key in tensors if parse(key, ANY_PART).part != FULL and "base_layer" not in key]
    first = {
        parse(key, ANY_PART).part or key: key for key in reversed(own) if not key.startswith("base_model.classifier")
    }
    for key in first.values():
        array, rest = tensors[key], {other: value for other, value in tensors.items() if other != key}
        part = parse(key, ANY_PART).part or key
        yield f"drop {part}", rest, config
        yield f"rename {part}", {**rest, f"{key}x": array}, config
        yield f"flatten {part}", tensors | {key: array.reshape(*(1 for _ in array.shape), -1)}, config
        yield f"whole numbers {part}", tensors | {key: (100 * array).astype(bool)}, config
        if array.ndim > 1 and array.shape != array.T.shape:
            yield f"transpose {part}", tensors | {key: array.T}, config
        if array.ndim:
            yield f"cut {part}", tensors | {key: array[:-1]}, config
            yield f"empty {part}", tensors | {key: array[:0]}, config
    yield "foreign lora_A.weight", tensors | {f"{MODULE}.lora_A.weight": np.ones((4, 32), "f4")}, config
    yield "foreign hada_w9", tensors | {f"{MODULE}.hada_w9": np.ones((4, 32), "f4")}, config


FREE = {
    # a base tells how many outputs (or inputs) there are, nothing else does
    "cut": "adalora.lora_B adamss.adamss_B boft.boft_s bone.bone_block c3a.c3a_kernel deft.deft_P delora.delora_B "
           "glora.glora_C hira.hira_B hira.hira_embedding_B hra.hra_u ia3.ia3_l ln_tuning.ln_tuning_layers.weight "
           "lokr.lokr_w miss.miss_block oft.oft_ osf.osf_svd_params.U_low "
           "psoft.psoft_R.weight pvera.pvera_lambda_b supertuning.supertuning_lora_B.weight "
           "supertuning.supertuning_values tinylora.tinylora_B vblora.vblora_logits_B vera.vera_lambda_b "
           "waveft.waveft_spectrum frod.frod_lambda",
    # another split of the same features, or either way round is right
    "transpose": "boft.boft_s lokr.lokr_w",
    # a module without any tensor is a module that was not adapted; these have one part, or one that need not be there
    "drop": "beft.beft_bias bone.bone_block c3a.c3a_kernel deft.deft_P delora.delora_w_norm fourierft. hra. ia3. "
            "ln_tuning.ln_tuning_layers miss. oft. psoft.psoft_R.weight supertuning.supertuning_values "
            "trainable_tokens. waveft.",
    # a module without ranks is what AdaLoRA's pruning may leave, and OSF's; a layer may have any shape at all
    "empty": "",
    "flatten": "ln_tuning.",
}  # fmt: skip
"""What no look at an adapter alone can tell: by what is done, the type and the beginning of the part."""

BACKBONE = "shadow_backbone. shadow_projection."


def untold(name: str, done: str) -> bool:
    what, _, part = done.partition(" ")
    if part.startswith(tuple(BACKBONE.split())) and what != "whole":
        return True  # the backbone is a model of its own, of any architecture
    return f"{name.partition('-')[0]}.{part}".startswith(tuple(FREE.get(what, "").split()) or ("-",))


@pytest.mark.parametrize("name", OTHERS)
def test_broken(adapters, name, tmp_path):
    tensors = load_file(adapters[name] / "adapter_model.safetensors")
    config = json.loads((adapters[name] / "adapter_config.json").read_text())
    silent = {
        done
        for done, changed, fields in broken(tensors, config)
        if not codes(rewritten(changed, fields, tmp_path / "a"), "error")
    }
    assert {done for done in silent if not untold(name, done)} == set()
