"""GGUF: a Store as what llama.cpp loads, quantised, and back again."""
