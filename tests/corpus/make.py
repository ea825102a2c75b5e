"""Writes the fuzzers' seeds: small files of every format that is read from strangers, sound ones and broken ones.

    python tests/corpus/make.py

Seeds only: what a fuzzer found is added by hand as <format>/crash-<what>, and stays.
"""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np

from adaptool.rules.catalogue import RULES
from adaptool.rules.draft import CONFIG, Draft, framed, packed

HERE = Path(__file__).parent

CONFIGS = {
    "lora": CONFIG,
    "adalora": {"peft_type": "ADALORA", "r": 4, "init_r": 12, "rank_pattern": {"a.lora_E": [True, False]}},
    "ia3": {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": ["down_proj"]},
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8, "token_dim": 64, "prompt_tuning_init": "RANDOM"},
    "patterns": {**CONFIG, "target_modules": r".*\.(q|v)_proj", "rank_pattern": {r"layers\.0\..*": 2}},
    "nested": {**CONFIG, "loftq_config": {"loftq_bits": 4}, "eva_config": {"rho": 2.0}, "auto_mapping": {"a": "b"}},
}
TEMPLATES = {
    "chat": "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}",
    "attack": "{{ cycler.__init__.__globals__.os.popen('id').read() }}{{ ''|attr('__class__') }}",
    "loop": "{% for i in range(10**9) %}{{ 'a' * 10**9 }}{% endfor %}",
}


def main() -> None:
    save("config", {f"{name}.json": json.dumps(config, indent=1).encode() for name, config in CONFIGS.items()})
    small = {"a.weight": np.ones((2, 3), np.float32), "b": np.zeros((0, 4), np.float16), "c": np.array(5, np.int64)}
    layouts = {"small": packed(small, {}, {"format": "pt"}), "empty": framed(b"{}"), "lora": Draft().weights()}
    save("safetensors", {f"{name}.safetensors": data for name, data in layouts.items()})
    save("safetensors", {f"{code}.safetensors": broken(code) for code in RULES if code.startswith("FIL1")})
    save("gguf", ggufs())
    save("pickle", pickles())
    save("template", {f"{name}.jinja": text.encode() for name, text in TEMPLATES.items()})


def save(kind: str, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        if data and len(data) < 16_384:
            (HERE / kind).mkdir(exist_ok=True)
            (HERE / kind / name).write_bytes(data)


def broken(code: str) -> bytes:
    draft = Draft()
    RULES[code].breaks(draft)
    return draft.files.get("adapter_model.safetensors", b"")


def ggufs() -> dict[str, bytes]:
    import gguf

    made = {}
    for name, architecture in (("model", "llama"), ("lora", "llama")):
        path = HERE / f"{name}.tmp"
        writer = gguf.GGUFWriter(str(path), architecture)
        writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "b"])
        writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        writer.add_tensor("blk.0.attn_q.weight" + (".lora_a" if name == "lora" else ""), np.ones((4, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        made[f"{name}.gguf"] = path.read_bytes()
        path.unlink()
    return made


def pickles() -> dict[str, bytes]:
    import torch

    tensors = {"a.lora_A.weight": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}
    made = {"dict.pkl": pickle.dumps({"a": [1, "x", None]}, protocol=4)}
    for name, modern in (("zip.bin", True), ("legacy.bin", False)):
        buffer = io.BytesIO()
        torch.save(tensors, buffer, _use_new_zipfile_serialization=modern)
        made[name] = buffer.getvalue()
    return made


if __name__ == "__main__":
    main()
