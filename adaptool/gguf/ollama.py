"""A Modelfile: what ``ollama create`` needs beside the GGUF."""

from __future__ import annotations

from adaptool.tensors.ggml.values import KeyValues

MODELFILE = "Modelfile"


def modelfile(gguf_name: str, keys: KeyValues) -> str:
    """The Modelfile of a GGUF beside it: its file, its chat template in Ollama's words, its stop tokens."""
    return f"FROM ./{gguf_name}\n"
