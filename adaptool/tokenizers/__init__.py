"""Tokenizers in both directions: a Hugging Face folder's files to GGUF's ``tokenizer.*`` keys, and back."""

from adaptool.tokenizers.keys import Style, tokenizer_keys
from adaptool.tokenizers.rebuild import tokenizer_files

__all__ = ["Style", "tokenizer_files", "tokenizer_keys"]
