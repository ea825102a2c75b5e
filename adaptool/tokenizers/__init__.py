"""Tokenizers in both directions: a Hugging Face folder's files to GGUF's ``tokenizer.*`` keys, and back."""

from adaptool.tokenizers.keys import Style, tokenizer_keys

__all__ = ["Style", "tokenizer_keys"]
