"""The runtimes that load adapters: what each rejects, and what it gets silently wrong."""

from __future__ import annotations

from adaptool.rules.families.consumers import (
    llama_cpp,
    lorax,
    mlx,
    ollama,
    peft,
    peft_loading,
    sglang,
    tensorrt_llm,
    tgi,
    vllm,
    vllm_modules,
)

__all__ = [
    "llama_cpp",
    "lorax",
    "mlx",
    "ollama",
    "peft",
    "peft_loading",
    "sglang",
    "tensorrt_llm",
    "tgi",
    "vllm",
    "vllm_modules",
]
